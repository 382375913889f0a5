//! What happens to a stored value before the model sees it.

use crate::{Error, InputSpec};
use std::str::FromStr;

/// Where the channels of a stored array lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Channels follow the samples, as ONNX has it.
    #[default]
    Nchw,
    /// Channels come last; the array is turned to [`Layout::Nchw`] when read.
    Nhwc,
}

impl FromStr for Layout {
    type Err = Error;

    fn from_str(s: &str) -> Result<Layout, Error> {
        match s.to_ascii_lowercase().as_str() {
            "nchw" => Ok(Layout::Nchw),
            "nhwc" => Ok(Layout::Nhwc),
            _ => Err(Error::Preprocess { problem: format!("layout '{s}' is unknown; use nchw or nhwc") }),
        }
    }
}

/// `y = (x * scale - mean) / std`, in 32-bit floats, for every float input; and the layout of stored arrays.
///
/// `mean` and `std` hold one value for all or one per channel. The default leaves values as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// Multiplied first, for instance 1/255.
    pub scale: f32,
    /// Subtracted second; in units after the scale.
    pub mean: Vec<f32>,
    /// Divides last; in units after the scale.
    pub std: Vec<f32>,
    /// Layout of the arrays as stored.
    pub layout: Layout,
}

impl Default for Preprocess {
    fn default() -> Preprocess {
        Preprocess { scale: 1.0, mean: vec![0.0], std: vec![1.0], layout: Layout::Nchw }
    }
}

impl Preprocess {
    /// Refuses what no data could pass through.
    ///
    /// # Errors
    /// When a value is not finite, `scale` is 0 or a `std` not positive, or values would change but all inputs are integers.
    pub(crate) fn check(&self, inputs: &[InputSpec]) -> Result<(), Error> {
        let problem = if !self.scale.is_normal() {
            format!("scale is {}, it must be a finite number other than 0", self.scale)
        } else if let Some(m) = self.mean.iter().find(|m| !m.is_finite()) {
            format!("mean holds {m}, it must hold finite numbers")
        } else if let Some(s) = self.std.iter().find(|s| !(s.is_normal() && **s > 0.0)) {
            format!("std holds {s}, it must hold positive numbers: values are divided by it")
        } else if self.changes_values() && !inputs.is_empty() && inputs.iter().all(|s| !s.dtype.is_float()) {
            "mean, std and scale were given, but the model takes integers only".to_string()
        } else {
            return Ok(());
        };
        Err(Error::Preprocess { problem })
    }

    /// Values are changed, not only moved.
    pub(crate) fn changes_values(&self) -> bool {
        self.scale != 1.0 || self.mean.iter().any(|&m| m != 0.0) || self.std.iter().any(|&s| s != 1.0)
    }

    /// Mean and std per channel.
    ///
    /// # Errors
    /// When there are neither one nor `channels` values.
    pub(crate) fn per_channel(&self, channels: usize, input: &str) -> Result<Vec<(f32, f32)>, Error> {
        let spread = |what: &str, values: &[f32]| match values {
            [one] => Ok(vec![*one; channels]),
            all if all.len() == channels => Ok(all.to_vec()),
            all => Err(Error::Preprocess {
                problem: format!(
                    "{what} has {} values, but the model's input '{input}' has {channels} channels; \
                     give one value or {channels}",
                    all.len()
                ),
            }),
        };
        Ok(spread("mean", &self.mean)?.into_iter().zip(spread("std", &self.std)?).collect())
    }
}
