//! Ranges of tensors over many batches, and the scales and zero points that follow from them.
//!
//! An [`Observer`] sees the values of one tensor batch by batch and answers with a [`Range`]. A rule of [`scale`] turns
//! the range into what a quantizer needs. Values that are not finite are refused, and the caller says in which tensor:
//!
//! ```
//! use onnx_qat_observe::{MinMax, Observer, scale};
//! use kernels::quant::Grid;
//!
//! let mut observer = MinMax::default();
//! observer.update(&[0.0, 2.0])?;
//! observer.update(&[-0.55, 1.0])?;
//! let range = observer.range().ok_or("nothing observed")?;
//! let affine = scale::asymmetric(range, Grid::U8);
//! assert_eq!((affine.scale, affine.zero_point), (0.01, 55));
//!
//! let refused = observer.update(&[1.0, f32::NAN]).unwrap_err();
//! assert_eq!(refused.to_string(), "1 NaN and 0 infinite values among 2, the first at index 1");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod abs_max;
mod distribution;
mod growing;
pub mod histogram;
mod min_max;
pub mod scale;
mod statistic;

pub use abs_max::{AbsMax, MovingAverageAbsMax, RangeAbsMax};
pub use distribution::{Distribution, DistributionObserver, Distributions, Threshold, Thresholds};
pub use growing::{Bin, Histogram};
pub use min_max::{MinMax, MovingAverageMinMax};
pub use statistic::Statistic;

use kernels::quant::{Extremes, extremes};

/// An interval of real numbers, `min <= max`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The smallest value.
    pub min: f32,
    /// The largest value.
    pub max: f32,
}

impl Range {
    /// `-magnitude ..= magnitude`
    pub fn symmetric(magnitude: f32) -> Range {
        Range { min: -magnitude, max: magnitude }
    }

    /// The larger magnitude of both ends.
    pub fn abs_max(self) -> f32 {
        self.max.max(-self.min)
    }
}

/// Values that have no place in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{nan} NaN and {infinite} infinite values among {len}, the first at index {first}")]
pub struct NonFinite {
    /// How many are NaN.
    pub nan: usize,
    /// How many are infinite.
    pub infinite: usize,
    /// How many values there are in all.
    pub len: usize,
    /// The index of the first that is not finite.
    pub first: usize,
}

/// A range statistic over a stream of batches.
pub trait Observer {
    /// Takes one batch of values into account. An empty batch changes nothing.
    ///
    /// # Errors
    /// When a value is not finite; the batch is then ignored.
    fn update(&mut self, x: &[f32]) -> Result<(), NonFinite>;

    /// The range so far; `None` before the first batch.
    fn range(&self) -> Option<Range>;

    /// Joins what another observer of the same kind and settings has seen of the same tensor, say on other batches.
    fn merge(&mut self, other: &Self)
    where
        Self: Sized;
}

/// The extremes of a batch, `None` when it is empty.
fn finite_extremes(x: &[f32]) -> Result<Option<Extremes>, NonFinite> {
    let e = extremes(x);
    if e.finite {
        return Ok((!x.is_empty()).then_some(e));
    }
    let count = |f: fn(f32) -> bool| x.iter().filter(|&&x| f(x)).count();
    Err(NonFinite {
        nan: count(f32::is_nan),
        infinite: count(f32::is_infinite),
        len: x.len(),
        first: x.iter().position(|x| !x.is_finite()).unwrap_or_default(),
    })
}
