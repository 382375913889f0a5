//! Pictures as samples: files that are decoded when they are read, or arrays of 8 bits that are treated as pictures.

use crate::picture::Picture;
use crate::samples::{Row, Samples, View};
use crate::{Color, Error, InputSpec, Jitter, Layout, Place, Preprocess, RandomCrop, Resize, Rng, Size};
use kernels::resample::Window;
use std::path::{Path, PathBuf};
use tensor::{DType, Tensor};

/// The largest file that is read as one picture.
const LARGEST_FILE: u64 = 1 << 28;

/// Pixels of the largest picture that resizing makes before a random cut.
const MOST_RESIZED: usize = 1 << 26;

/// The pictures of one input, and what becomes of them.
#[derive(Debug)]
pub(crate) struct PictureSamples {
    origin: Origin,
    place: Place,
    preprocess: Preprocess,
    /// What the model takes.
    size: Size,
    color: Color,
    order: Order,
    shape: Vec<usize>,
    /// Per channel, the float of each of the 256 values.
    tables: Vec<[f32; 256]>,
}

/// Where pictures are.
#[derive(Debug)]
pub(crate) enum Origin {
    /// Files below a folder.
    Files { root: PathBuf, files: Vec<Box<str>> },
    /// An array `[N, H, W]`, `[N, C, H, W]` or `[N, H, W, C]` of 8 bits with 1 or 3 channels.
    Array { array: Tensor, height: usize, width: usize, channels: usize, layout: Layout },
}

/// What is done to a picture: of the rectangle `from`, resized to `height` and `width`, the rectangle `window`; and of that,
/// where there is an `offset`, what begins there.
struct Cut {
    from: Window,
    height: usize,
    width: usize,
    window: Window,
    /// Rows and columns from the corner, outside of which it is black.
    offset: Option<(isize, isize)>,
}

/// How the values of a sample lie.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    /// `[C, H, W]`.
    Planes,
    /// `[H, W, C]`.
    Pixels,
}

impl Origin {
    /// An array as pictures.
    ///
    /// # Errors
    /// When its type or shape is not that of pictures.
    pub fn array(place: &Place, array: Tensor, layout: Layout) -> Result<Origin, Error> {
        let found = (array.dtype(), array.shape().to_vec());
        let (height, width, channels) = match (&found.1[..], layout) {
            (&[_, h, w], _) => (h, w, 1),
            (&[_, c, h, w], Layout::Nchw) | (&[_, h, w, c], Layout::Nhwc) => (h, w, c),
            _ => (0, 0, 0),
        };
        if found.0 != DType::U8 || !matches!(channels, 1 | 3) || array.is_empty() {
            let problem = format!(
                "{place} is a {} array of shape {:?}: color, resize, crop, flip and jitter are for pictures, uint8 arrays \
                 [N, H, W] or with 1 or 3 channels ({}); leave these steps out, or choose --layout",
                found.0,
                found.1,
                if layout == Layout::Nchw { "[N, C, H, W]" } else { "[N, H, W, C]" }
            );
            return Err(Error::Preprocess { problem });
        }
        Ok(Origin::Array { array, height, width, channels, layout })
    }

    fn len(&self) -> usize {
        match self {
            Origin::Files { files, .. } => files.len(),
            Origin::Array { array, .. } => array.shape()[0],
        }
    }

    /// Size and channels, where all pictures have the same.
    fn known(&self) -> (Option<Size>, Option<usize>) {
        match *self {
            Origin::Files { .. } => (None, None),
            Origin::Array { height, width, channels, .. } => (Some(Size { height, width }), Some(channels)),
        }
    }

    fn place(&self, sample: usize, whole: &Place) -> Place {
        match self {
            Origin::Files { root, files } => Place::file(&root.join(&*files[sample])),
            Origin::Array { .. } => whole.clone(),
        }
    }

    /// A picture as it is stored.
    fn picture(&self, sample: usize) -> Result<Picture, Error> {
        match self {
            Origin::Files { root, files } => {
                let path = root.join(&*files[sample]);
                let broken = |problem| Error::Broken { place: Place::file(&path), problem };
                let bytes = read(&path).map_err(broken)?;
                Picture::decode(&bytes).map_err(broken)
            }
            &Origin::Array { ref array, height, width, channels, layout } => {
                let len = height * width * channels;
                let stored = &array.bytes()[sample * len..][..len];
                let data = match (channels, layout) {
                    (3, Layout::Nchw) => {
                        let (planes, at) = (height * width, stored);
                        (0..planes).flat_map(|i| [at[i], at[planes + i], at[2 * planes + i]]).collect()
                    }
                    _ => stored.to_vec(),
                };
                Ok(Picture { width, height, channels, data })
            }
        }
    }
}

/// The content of a picture file.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let text = |e: std::io::Error| format!("cannot be read: {e}");
    let size = std::fs::metadata(path).map_err(text)?.len();
    match size {
        ..=LARGEST_FILE => std::fs::read(path).map_err(text),
        _ => Err(format!("a file of {size} bytes is too large for a picture")),
    }
}

impl Samples for PictureSamples {
    fn len(&self) -> usize {
        self.origin.len()
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn read(&self, sample: usize, view: View, out: Row) -> Result<(), Error> {
        let mut rng = view.rng(sample);
        let place = || self.origin.place(sample, &self.place);
        let stored = self.origin.picture(sample)?;
        let cut = self.cut(stored.height, stored.width, rng.as_mut());
        let cut = cut.map_err(|problem| match self.preprocess.resize {
            Some(_) => Error::Broken { place: place(), problem },
            // All pictures have to have the size of the model then, so this is no single broken one.
            None => Error::Preprocess { problem: format!("{}: {problem}", place()) },
        })?;
        let stored = if self.color == Color::Gray { stored.gray() } else { stored };
        let mut picture = stored.resized(cut.from, cut.height, cut.width, cut.window, self.preprocess.filter);
        if let Some((top, left)) = cut.offset {
            picture = picture.cut(top, left, self.size.height, self.size.width);
        }
        if let Some(rng) = &mut rng {
            if self.preprocess.flip > 0.0 && rng.between(0.0, 1.0) < self.preprocess.flip {
                picture.mirror();
            }
            if self.preprocess.jitter != Jitter::default() {
                picture.jitter(self.preprocess.jitter, rng);
            }
        }
        match out {
            Row::F32(out) => self.write(&picture, out, |channel, value| self.tables[channel][value as usize]),
            Row::I64(out) => self.write(&picture, out, |_, value| value as i64),
        }
        Ok(())
    }
}

impl PictureSamples {
    /// # Errors
    /// When the pictures cannot be brought to what the input takes.
    pub fn new(
        spec: &InputSpec,
        place: Place,
        origin: Origin,
        preprocess: &Preprocess,
    ) -> Result<Self, Error> {
        if origin.len() == 0 {
            return Err(Error::Empty { place, shape: vec![0] });
        }
        let p = preprocess.clone();
        let (stored, channels) = origin.known();
        let asked = match (p.crop, p.resize) {
            (Some(size), _) | (None, Some(Resize::Exact(size))) => Some(size),
            (None, None) => stored,
            _ => None,
        };
        // What pictures hold unless told otherwise; a model of one channel takes them gray.
        let colors = match (p.color, channels) {
            (Some(color), _) => vec![color],
            (None, Some(1)) => vec![Color::Gray, Color::Rgb],
            (None, _) => vec![Color::Rgb, Color::Gray],
        };
        let Some((color, order, size)) = form(spec.shape.as_deref(), &colors, asked) else {
            return Err(shape_error(spec, place, &colors, asked));
        };
        let Size { height, width } = size.ok_or_else(|| Error::Preprocess {
            problem: format!(
                "the model's input '{}' leaves height and width open; give --crop or --resize HEIGHTxWIDTH",
                spec.name
            ),
        })?;
        let channels = if color == Color::Gray { 1 } else { 3 };
        let shape = match order {
            Order::Planes => vec![channels, height, width],
            Order::Pixels => vec![height, width, channels],
        };
        let table = |&(mean, std): &(f32, f32)| std::array::from_fn(|v| (v as f32 * p.scale - mean) / std);
        let tables = match spec.dtype.is_float() {
            true => p.per_channel(channels, &spec.name)?.iter().map(table).collect(),
            false => Vec::new(),
        };
        Ok(PictureSamples {
            origin,
            place,
            size: Size { height, width },
            color,
            order,
            shape,
            tables,
            preprocess: p,
        })
    }

    /// What is done to a picture of this size to get one of the size that the model takes.
    fn cut(&self, height: usize, width: usize, rng: Option<&mut Rng>) -> Result<Cut, String> {
        let whole = |height, width| Window { top: 0, left: 0, height, width };
        let size = self.size;
        let (h, w) = self.resized_size(height, width);
        let from = whole(height, width);
        match rng.map(|rng| (rng, self.preprocess.random_crop)) {
            Some((rng, RandomCrop::Resized { scale, ratio })) => {
                let from = random_window(height, width, scale, ratio, rng);
                let window = whole(size.height, size.width);
                return Ok(Cut { from, height: size.height, width: size.width, window, offset: None });
            }
            Some((rng, RandomCrop::Padded(pad))) => {
                if h.saturating_mul(w) > MOST_RESIZED {
                    return Err(format!("{h}x{w} pixels after resizing are too many"));
                }
                let rest = |have: usize, need: usize| (have + 2 * pad).checked_sub(need);
                let (Some(down), Some(right)) = (rest(h, size.height), rest(w, size.width)) else {
                    return Err(self.too_small((height, width), (h, w)));
                };
                let mut offset = |most: usize| rng.below(most as u64 + 1) as isize - pad as isize;
                let offset = Some((offset(down), offset(right)));
                return Ok(Cut { from, height: h, width: w, window: whole(h, w), offset });
            }
            _ => {}
        }
        if h < size.height || w < size.width || (!self.cuts() && (h, w) != (size.height, size.width)) {
            return Err(self.too_small((height, width), (h, w)));
        }
        let (top, left) = ((h - size.height) / 2, (w - size.width) / 2);
        let window = Window { top, left, height: size.height, width: size.width };
        Ok(Cut { from, height: h, width: w, window, offset: None })
    }

    /// Whether a picture may be larger than what the model takes.
    fn cuts(&self) -> bool {
        self.preprocess.crop.is_some() || self.preprocess.resize.is_some()
    }

    fn too_small(&self, stored: (usize, usize), resized: (usize, usize)) -> String {
        let Size { height, width } = self.size;
        let fix = match self.cuts() {
            true => "resize to a larger size, or crop a smaller one",
            false => "add --preprocess imagenet, or --resize and --crop",
        };
        let after = match stored == resized {
            true => String::new(),
            false => format!(" ({}x{} after resizing)", resized.0, resized.1),
        };
        format!(
            "the picture has {}x{} pixels{after}, height by width, but {height}x{width} are needed; {fix}",
            stored.0, stored.1
        )
    }

    /// Height and width of the whole picture after resizing. Sizes are rounded as PaddleSlim's reader rounds them.
    fn resized_size(&self, height: usize, width: usize) -> (usize, usize) {
        let (h, w) = (height as f64, width as f64);
        let scaled = |factor: f64, least: (usize, usize)| {
            let side = |s: f64, least: usize| ((s * factor).round_ties_even() as usize).max(least);
            (side(h, least.0), side(w, least.1))
        };
        match self.preprocess.resize {
            None => (height, width),
            Some(Resize::Exact(size)) => (size.height, size.width),
            Some(Resize::Shorter(n)) => scaled(n as f64 / h.min(w), (n, n)),
            Some(Resize::Share(share)) => {
                let least = |s: usize| (s as f64 / share).round_ties_even();
                let (lh, lw) = (least(self.size.height), least(self.size.width));
                scaled((lh / h).max(lw / w), (lh as usize, lw as usize))
            }
        }
    }

    /// Writes the values of a picture in the order of the model.
    fn write<T>(&self, picture: &Picture, out: &mut [T], value: impl Fn(usize, u8) -> T) {
        let channels = if self.color == Color::Gray { 1 } else { 3 };
        // Which stored channel goes to channel `c`; a gray picture's one goes to all.
        let from = |c: usize| match (picture.channels, self.color) {
            (1, _) => 0,
            (_, Color::Bgr) => 2 - c,
            _ => c,
        };
        let positions = self.size.height * self.size.width;
        for c in 0..channels {
            let stored = picture.data[from(c)..].iter().step_by(picture.channels);
            match self.order {
                Order::Planes => out[c * positions..][..positions]
                    .iter_mut()
                    .zip(stored)
                    .for_each(|(o, &v)| *o = value(c, v)),
                Order::Pixels => {
                    out[c..].iter_mut().step_by(channels).zip(stored).for_each(|(o, &v)| *o = value(c, v))
                }
            }
        }
    }
}

/// Colour, order and size of pictures for an input of this shape (batch first); a size of `None` stands for one that is
/// neither asked for nor in the shape. `None` when they do not fit.
fn form(
    want: Option<&[Option<usize>]>,
    colors: &[Color],
    asked: Option<Size>,
) -> Option<(Color, Order, Option<Size>)> {
    let Some(want) = want else { return Some((colors[0], Order::Planes, asked)) };
    let &[_, a, b, c] = want else { return None };
    for &color in colors {
        for (order, channels, h, w) in [(Order::Planes, a, b, c), (Order::Pixels, c, a, b)] {
            let count = if color == Color::Gray { 1 } else { 3 };
            let side = |want: Option<usize>, asked: Option<usize>| match (want, asked) {
                (Some(want), Some(asked)) if want != asked => Err(()),
                (want, asked) => Ok(want.or(asked)),
            };
            let (h, w) = (side(h, asked.map(|s| s.height)), side(w, asked.map(|s| s.width)));
            if let (Ok(h), Ok(w), true) = (h, w, channels.is_none_or(|n| n == count)) {
                return Some((color, order, h.zip(w).map(|(height, width)| Size { height, width })));
            }
        }
    }
    None
}

fn shape_error(spec: &InputSpec, place: Place, colors: &[Color], asked: Option<Size>) -> Error {
    let open = |d: &Option<usize>| d.map_or("?".to_string(), |d| d.to_string());
    let want = spec.shape.as_deref().and_then(|s| s.get(1..)).unwrap_or_default();
    let expected: Vec<String> = std::iter::once("N".to_string()).chain(want.iter().map(open)).collect();
    let color = if colors.len() == 1 && colors[0] == Color::Gray { "1" } else { "3" };
    let (h, w) = asked.map_or(("H".into(), "W".into()), |s| (s.height.to_string(), s.width.to_string()));
    Error::Shape {
        place,
        found: format!("[N, {color}, {h}, {w}] (pictures)").into(),
        input: spec.name.as_str().into(),
        expected: format!("[{}]", expected.join(", ")).into(),
        fix: "choose --color, --resize and --crop such that the pictures fit".into(),
    }
}

/// A rectangle of a random share of the area and a random ratio of width to height, where it fits within ten attempts; else
/// the largest in the middle whose ratio is in range: torchvision's `RandomResizedCrop.get_params`.
fn random_window(height: usize, width: usize, scale: [f64; 2], ratio: [f64; 2], rng: &mut Rng) -> Window {
    let (h, w) = (height as f64, width as f64);
    for _ in 0..10 {
        let area = h * w * rng.between(scale[0], scale[1]);
        let aspect = rng.between(ratio[0].ln(), ratio[1].ln()).exp();
        let (cut_w, cut_h) =
            ((area * aspect).sqrt().round() as usize, (area / aspect).sqrt().round() as usize);
        if (1..=width).contains(&cut_w) && (1..=height).contains(&cut_h) {
            let top = rng.below((height - cut_h) as u64 + 1) as usize;
            let left = rng.below((width - cut_w) as u64 + 1) as usize;
            return Window { top, left, height: cut_h, width: cut_w };
        }
    }
    let (cut_w, cut_h) = match w / h {
        r if r < ratio[0] => (width, ((w / ratio[0]).round() as usize).clamp(1, height)),
        r if r > ratio[1] => (((h * ratio[1]).round() as usize).clamp(1, width), height),
        _ => (width, height),
    };
    Window { top: (height - cut_h) / 2, left: (width - cut_w) / 2, height: cut_h, width: cut_w }
}
