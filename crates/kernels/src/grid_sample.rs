//! Values of an image between its elements, at positions that a grid names; and the gradients for both.

use crate::parallel::for_each_chunk;

/// How values between elements are made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// The nearest element, of two the even one.
    Nearest,
    /// Between two neighbours per axis.
    Linear,
    /// Through four neighbours per axis (Keys 1981), with the coefficient -0.75.
    Cubic,
}

/// What stands outside of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// Zeros.
    Zeros,
    /// The border.
    Border,
    /// The image mirrored at its borders.
    Reflection,
}

/// A sampling of images with `channels` channels of shape `image` at `points` positions each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// How values are made up.
    pub between: Between,
    /// What stands outside.
    pub outside: Outside,
    /// -1 and 1 stand for the centers of the outermost elements, instead of their outer edges.
    pub align_corners: bool,
    /// Number of channels.
    pub channels: usize,
    /// Sizes of the spatial axes, none of them 0.
    pub image: Vec<usize>,
    /// Positions per image.
    pub points: usize,
}

/// An element that a position sees along one axis, with its weight and how that grows with the coordinate.
type Tap = (usize, f32, f32);

/// An element that a position sees, with its weight and how that grows with each coordinate of the grid.
struct Corner {
    at: usize,
    weight: f32,
    slopes: Vec<f32>,
}

/// Positions further out than this are all the same.
const FAR: f32 = (1u64 << 40) as f32;

/// `x` mirrored until it lies between `low` and `high`, and the direction in which it then moves.
fn reflect(x: f32, low: f32, high: f32) -> (f32, f32) {
    let range = high - low;
    if (low..=high).contains(&x) || range <= 0.0 {
        return (if range <= 0.0 { low.max(0.0) } else { x }, if range <= 0.0 { 0.0 } else { 1.0 });
    }
    let (distance, below) = if x < low { (low - x, true) } else { (x - high, false) };
    let turns = (distance / range).floor();
    let rest = distance - turns * range;
    match (turns % 2.0 == 0.0, below) {
        (true, true) => (low + rest, -1.0),
        (true, false) => (high - rest, -1.0),
        (false, true) => (high - rest, 1.0),
        (false, false) => (low + rest, 1.0),
    }
}

/// Weights of the four neighbours for a position `t` behind the second, and their derivatives.
fn cubic(t: f32) -> [(f32, f32); 4] {
    const A: f32 = -0.75;
    let far =
        |d: f32| (((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A, (3.0 * A * d - 10.0 * A) * d + 8.0 * A);
    let near =
        |d: f32| (((A + 2.0) * d - (A + 3.0)) * d * d + 1.0, (3.0 * (A + 2.0) * d - 2.0 * (A + 3.0)) * d);
    let back = |(w, d): (f32, f32)| (w, -d);
    [far(t + 1.0), near(t), back(near(1.0 - t)), back(far(2.0 - t))]
}

impl Sampling {
    /// Number of coordinates of a position.
    fn axes(&self) -> usize {
        self.image.len()
    }

    /// Elements of one channel.
    fn area(&self) -> usize {
        self.image.iter().product()
    }

    /// The taps along an axis of `n` elements, for a coordinate of the grid.
    fn taps(&self, coordinate: f32, n: usize) -> Vec<Tap> {
        let size = n as f32;
        let (mut x, mut slope) = match self.align_corners {
            true => ((coordinate + 1.0) / 2.0 * (size - 1.0), (size - 1.0) / 2.0),
            false => (((coordinate + 1.0) * size - 1.0) / 2.0, size / 2.0),
        };
        let (low, high) = if self.align_corners { (0.0, size - 1.0) } else { (-0.5, size - 0.5) };
        x = if x.is_nan() { 0.0 } else { x.clamp(-FAR, FAR) };
        if self.between == Between::Nearest {
            x = x.round_ties_even();
        }
        if !(low..=high).contains(&x) {
            match self.outside {
                Outside::Zeros => {}
                Outside::Border => (x, slope) = (x.clamp(0.0, size - 1.0), 0.0),
                Outside::Reflection => {
                    let (mirrored, direction) = reflect(x, low, high);
                    (x, slope) = (mirrored, slope * direction);
                }
            }
        }
        let place = |at: f32| match self.outside {
            _ if (0.0..size).contains(&at) => Some(at as usize),
            Outside::Zeros => None,
            Outside::Border => Some(at.clamp(0.0, size - 1.0) as usize),
            Outside::Reflection => Some((reflect(at, low, high).0.max(0.0) as usize).min(n - 1)),
        };
        let (first, t) = (x.floor(), x - x.floor());
        let taps = match self.between {
            Between::Nearest => vec![(place(x.trunc()), 1.0f32, 0.0f32)],
            Between::Linear => {
                vec![(place(first), 1.0 - t, -slope), (place(first + 1.0), t, slope)]
            }
            Between::Cubic => {
                let weights = cubic(t).into_iter().enumerate();
                weights.map(|(i, (w, d))| (place(first - 1.0 + i as f32), w, d * slope)).collect()
            }
        };
        // Those of one place as one: there are not more than places.
        let mut merged: Vec<Tap> = Vec::with_capacity(taps.len());
        for (at, weight, slope) in taps {
            match (at, merged.iter_mut().find(|tap| Some(tap.0) == at)) {
                (None, _) => {}
                (Some(_), Some(tap)) => (tap.1, tap.2) = (tap.1 + weight, tap.2 + slope),
                (Some(at), None) => merged.push((at, weight, slope)),
            }
        }
        merged
    }

    /// The most elements that a position sees.
    pub fn most_corners(&self) -> u64 {
        let taps = match self.between {
            Between::Nearest => 1,
            Between::Linear => 2,
            Between::Cubic => 4,
        };
        self.image.iter().map(|&n| n.min(taps) as u64).fold(1, u64::saturating_mul)
    }

    /// What a position sees, with slopes where they are asked for. Its coordinates come in the reverse order of the axes.
    fn corners(&self, position: &[f32], slopes: bool) -> Vec<Corner> {
        let axes = self.axes();
        let slopes = if slopes { vec![1.0; axes] } else { Vec::new() };
        let mut corners = vec![Corner { at: 0, weight: 1.0, slopes }];
        for (axis, &n) in self.image.iter().enumerate() {
            let coordinate = axes - 1 - axis;
            let taps = self.taps(position[coordinate], n);
            let mut next = Vec::with_capacity(corners.len() * taps.len());
            for corner in &corners {
                for &(at, weight, slope) in &taps {
                    let slopes = corner.slopes.iter().enumerate();
                    let slopes = slopes.map(|(i, s)| s * if i == coordinate { slope } else { weight });
                    next.push(Corner {
                        at: corner.at * n + at,
                        weight: corner.weight * weight,
                        slopes: slopes.collect(),
                    });
                }
            }
            corners = next;
        }
        corners
    }

    /// `y` `(N, channels, points)` of images `x` `(N, channels, image...)` at the positions `grid` `(N, points, axes)`.
    ///
    /// # Panics
    /// When a slice has not the length that follows from the others.
    pub fn forward(&self, x: &[f32], grid: &[f32], y: &mut [f32]) {
        let (area, axes) = (self.area(), self.axes());
        if self.points == 0 || self.channels == 0 {
            return;
        }
        for_each_chunk(y, self.channels * self.points, |n, y| {
            let x = &x[n * self.channels * area..][..self.channels * area];
            let grid = &grid[n * self.points * axes..][..self.points * axes];
            for (point, position) in grid.chunks_exact(axes).enumerate() {
                let corners = self.corners(position, false);
                for (x, y) in x.chunks_exact(area).zip(y.chunks_exact_mut(self.points)) {
                    y[point] = corners.iter().map(|c| c.weight * x[c.at]).sum();
                }
            }
        });
    }

    /// Gradients `dx` of the images and `dgrid` of the positions, for gradients `dy` of the values.
    ///
    /// # Panics
    /// When a slice has not the length that follows from the others.
    pub fn gradients(&self, dy: &[f32], x: &[f32], grid: &[f32], dx: &mut [f32], dgrid: &mut [f32]) {
        let (area, axes) = (self.area(), self.axes());
        dx.fill(0.0);
        dgrid.fill(0.0);
        if self.points == 0 || self.channels == 0 {
            return;
        }
        let places = grid.chunks_exact(axes).zip(dgrid.chunks_exact_mut(axes)).enumerate();
        for (i, (position, slopes)) in places {
            let (n, point) = (i / self.points, i % self.points);
            let corners = self.corners(position, true);
            for channel in n * self.channels..(n + 1) * self.channels {
                let d = dy[channel * self.points + point];
                for corner in &corners {
                    let at = channel * area + corner.at;
                    dx[at] += d * corner.weight;
                    for (slope, s) in slopes.iter_mut().zip(&corner.slopes) {
                        *slope += d * x[at] * s;
                    }
                }
            }
        }
    }
}
