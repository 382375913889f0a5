//! What happens to a stored value or picture before the model sees it.

use crate::{Error, InputSpec};
use kernels::resample::Filter;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt::{self, Display};
use std::path::Path;
use std::str::FromStr;

fn wrong(problem: impl Into<String>) -> Error {
    Error::Preprocess { problem: problem.into() }
}

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
            _ => Err(wrong(format!("layout '{s}' is unknown; use nchw or nhwc"))),
        }
    }
}

impl Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::Nchw => "nchw",
            Layout::Nhwc => "nhwc",
        })
    }
}

/// Channels of a picture as the model takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One channel: 0.299 red + 0.587 green + 0.114 blue.
    Gray,
}

impl FromStr for Color {
    type Err = Error;

    fn from_str(s: &str) -> Result<Color, Error> {
        match s {
            "rgb" => Ok(Color::Rgb),
            "bgr" => Ok(Color::Bgr),
            "gray" | "grey" => Ok(Color::Gray),
            _ => Err(wrong(format!("color '{s}' is unknown; use rgb, bgr or gray"))),
        }
    }
}

impl Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Color::Rgb => "rgb",
            Color::Bgr => "bgr",
            Color::Gray => "gray",
        })
    }
}

/// Height and width in pixels; written `224` or `48x192`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// No model takes pictures beyond this many pixels to a side.
const LARGEST_SIDE: usize = 1 << 14;

fn side(s: &str) -> Option<usize> {
    s.trim().parse().ok().filter(|n| (1..=LARGEST_SIDE).contains(n))
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(s: &str) -> Result<Size, Error> {
        let (height, width) = s.split_once('x').unwrap_or((s, s));
        match (side(height), side(width)) {
            (Some(height), Some(width)) => Ok(Size { height, width }),
            _ => {
                Err(wrong(format!("size '{s}' is not understood; write 224, or HEIGHTxWIDTH such as 48x192")))
            }
        }
    }
}

impl Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

/// How a picture is resized.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Resize {
    /// The shorter side to so many pixels, the other in proportion; written `256`.
    Shorter(usize),
    /// To this size, whatever becomes of the proportions; written `48x192`.
    Exact(Size),
    /// So that the crop takes this share of it, by which the size follows the model; written `87.5%`.
    Share(f64),
}

impl FromStr for Resize {
    type Err = Error;

    fn from_str(s: &str) -> Result<Resize, Error> {
        let share =
            |p: &str| p.trim().parse().ok().filter(|p| (1.0..=100.0).contains(p)).map(|p: f64| p / 100.0);
        let parsed = match (s.strip_suffix('%'), s.contains('x')) {
            (Some(p), _) => share(p).map(Resize::Share),
            (None, true) => s.parse().ok().map(Resize::Exact),
            (None, false) => side(s).map(Resize::Shorter),
        };
        parsed.ok_or_else(|| {
            wrong(format!(
                "resize '{s}' is not understood; write 256 for the shorter side, HEIGHTxWIDTH such as 48x192, or 87.5% for \
                 the share that the crop takes"
            ))
        })
    }
}

impl Display for Resize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resize::Shorter(side) => write!(f, "{side}"),
            Resize::Exact(size) => write!(f, "{size}"),
            Resize::Share(share) => write!(f, "{}%", 100.0 * share),
        }
    }
}

/// A cut at a random place, in training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RandomCrop {
    /// None: the geometry of evaluation.
    Off,
    /// A rectangle of a random share of the picture (first range) and a random ratio of width to height (second range),
    /// resized: the RandomResizedCrop of torchvision.
    Resized {
        /// Smallest and largest share of the area.
        scale: [f64; 2],
        /// Smallest and largest ratio of width to height.
        ratio: [f64; 2],
    },
    /// After resizing, so many black pixels around it, and a cut of the size that the model takes.
    Padded(usize),
}

impl RandomCrop {
    /// What ImageNet networks are usually trained with.
    pub const RESIZED: RandomCrop = RandomCrop::Resized { scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] };
}

impl FromStr for RandomCrop {
    type Err = Error;

    fn from_str(s: &str) -> Result<RandomCrop, Error> {
        let low = |low: &str| low.trim().parse::<f64>().ok().filter(|l| *l > 0.0 && *l <= 1.0);
        let ratio = [3.0 / 4.0, 4.0 / 3.0];
        match (s, s.strip_prefix("resized:").map(low)) {
            ("off", _) => Ok(RandomCrop::Off),
            ("resized", _) => Ok(RandomCrop::RESIZED),
            (_, Some(Some(low))) => Ok(RandomCrop::Resized { scale: [low, 1.0], ratio }),
            _ => side(s).map(RandomCrop::Padded).ok_or_else(|| {
                wrong(format!(
                    "random crop '{s}' is not understood; write off, resized, resized:0.5 for at least half of the \
                     picture, or a number of pixels to pad"
                ))
            }),
        }
    }
}

impl Display for RandomCrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RandomCrop::Off => f.write_str("off"),
            // The other ends have no form in text.
            RandomCrop::Resized { scale, .. } => write!(f, "resized:{}", scale[0]),
            RandomCrop::Padded(pixels) => write!(f, "{pixels}"),
        }
    }
}

/// Random changes of colour, in training: each factor is drawn from `1 - x ..= 1 + x`. Written `0.4` or `0.4,0.4,0.2`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Jitter {
    /// Of all values.
    pub brightness: f32,
    /// Of the distance from the mean gray value.
    pub contrast: f32,
    /// Of the distance from the gray picture.
    pub saturation: f32,
}

impl FromStr for Jitter {
    type Err = Error;

    fn from_str(s: &str) -> Result<Jitter, Error> {
        let values: Option<Vec<f32>> =
            s.split(',').map(|v| v.trim().parse().ok().filter(|v| (0.0..=1.0).contains(v))).collect();
        match values.as_deref() {
            Some(&[all]) => Ok(Jitter { brightness: all, contrast: all, saturation: all }),
            Some(&[brightness, contrast, saturation]) => Ok(Jitter { brightness, contrast, saturation }),
            _ => Err(wrong(format!(
                "jitter '{s}' is not understood; write one number from 0 to 1, or three for brightness, contrast, saturation"
            ))),
        }
    }
}

impl Display for Jitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.brightness, self.contrast, self.saturation)
    }
}

/// The steps between what is stored and what the model takes, in this order: color, resize and crop (in training the random
/// crop instead), flip and jitter (in training only), then `y = (x * scale - mean) / std` in 32-bit floats.
///
/// The steps up to jitter are for pictures of 8 bits, in files or in arrays. `mean` and `std` hold one value for all or one
/// per channel, and are for float inputs. The default leaves everything as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Steps", into = "Steps")]
pub struct Preprocess {
    /// Channels of pictures; `None`: as many as the model takes, in the order red, green, blue.
    pub color: Option<Color>,
    /// How pictures are resized, if at all.
    pub resize: Option<Resize>,
    /// How resized pixels follow from stored ones.
    pub filter: Filter,
    /// What is cut out of the centre after resizing; `None`: the size that the model takes.
    pub crop: Option<Size>,
    /// What is cut out in training.
    pub random_crop: RandomCrop,
    /// The share of pictures that is mirrored left to right in training.
    pub flip: f64,
    /// How colours change in training.
    pub jitter: Jitter,
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
        Preprocess {
            color: None,
            resize: None,
            filter: Filter::Bilinear,
            crop: None,
            random_crop: RandomCrop::Off,
            flip: 0.0,
            jitter: Jitter::default(),
            scale: 1.0,
            mean: vec![0.0],
            std: vec![1.0],
            layout: Layout::Nchw,
        }
    }
}

/// Names of presets, for messages and help.
pub const PRESETS: [&str; 5] = ["imagenet", "imagenet-tf", "mnist", "cifar10", "none"];

/// Steps that are given, by flags or in a TOML file; the others are left as they are.
///
/// ```toml
/// preset = "imagenet"           # imagenet, imagenet-tf, mnist, cifar10, none: what the keys below change
/// color = "rgb"                 # rgb, bgr, gray
/// resize = 256                  # shorter side; "224x224" exact; "87.5%" such that the crop takes this share
/// filter = "bilinear"           # bilinear, bicubic
/// crop = 224                    # centre; "48x192"
/// random_crop = "resized:0.5"   # training: off, resized, resized:SMALLEST_SHARE, or pixels to pad
/// flip = 0.5                    # training: share of pictures mirrored
/// jitter = "0.4,0.4,0.4"        # training: brightness, contrast, saturation
/// scale = "1/255"               # y = (x * scale - mean) / std
/// mean = [0.485, 0.456, 0.406]
/// std = [0.229, 0.224, 0.225]
/// layout = "nchw"               # of stored arrays: nchw, nhwc
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Steps {
    pub preset: Option<String>,
    #[serde(deserialize_with = "from_text", serialize_with = "to_text")]
    pub color: Option<Color>,
    #[serde(deserialize_with = "from_text", serialize_with = "to_text")]
    pub resize: Option<Resize>,
    #[serde(deserialize_with = "filter_from_text", serialize_with = "filter_to_text")]
    pub filter: Option<Filter>,
    #[serde(deserialize_with = "from_text", serialize_with = "to_text")]
    pub crop: Option<Size>,
    #[serde(deserialize_with = "from_text", serialize_with = "to_text")]
    pub random_crop: Option<RandomCrop>,
    pub flip: Option<f64>,
    #[serde(deserialize_with = "from_text", serialize_with = "to_text")]
    pub jitter: Option<Jitter>,
    #[serde(deserialize_with = "scale_from_text")]
    pub scale: Option<f32>,
    pub mean: Option<Vec<f32>>,
    pub std: Option<Vec<f32>>,
    #[serde(deserialize_with = "from_text", serialize_with = "to_text")]
    pub layout: Option<Layout>,
}

/// A number or a string: what a flag takes, without quotes where it is a number.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Value {
        Integer(i64),
        Float(f64),
        Text(String),
    }
    Ok(match Value::deserialize(from)? {
        Value::Integer(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Text(s) => s,
    })
}

fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err = Error>>(from: D) -> Result<Option<T>, D::Error> {
    text(from)?.parse().map(Some).map_err(serde::de::Error::custom)
}

fn filter_from_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Filter>, D::Error> {
    filter(&text(from)?).map(Some).map_err(serde::de::Error::custom)
}

fn scale_from_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f32>, D::Error> {
    fraction(&text(from)?).map(Some).map_err(serde::de::Error::custom)
}

fn to_text<S: Serializer, T: Display>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(T::to_string).serialize(to)
}

fn filter_to_text<S: Serializer>(value: &Option<Filter>, to: S) -> Result<S::Ok, S::Error> {
    let name = |f: &Filter| match f {
        Filter::Bilinear => "bilinear",
        Filter::Bicubic => "bicubic",
    };
    value.as_ref().map(name).serialize(to)
}

/// The filter of this name.
///
/// # Errors
/// When there is none.
pub fn filter(name: &str) -> Result<Filter, Error> {
    match name {
        "bilinear" => Ok(Filter::Bilinear),
        "bicubic" => Ok(Filter::Bicubic),
        _ => Err(wrong(format!("filter '{name}' is unknown; use bilinear or bicubic"))),
    }
}

/// A number, or a fraction such as `1/255`.
///
/// # Errors
/// When it is neither.
pub fn fraction(s: &str) -> Result<f32, Error> {
    let parse = |s: &str| s.trim().parse::<f32>().map_err(|_| wrong(format!("'{s}' is no number")));
    match s.split_once('/') {
        Some((a, b)) => Ok(parse(a)? / parse(b)?),
        None => parse(s),
    }
}

impl Steps {
    /// The steps in a TOML file, or those of a preset, whichever `text` names.
    ///
    /// # Errors
    /// When the file cannot be read, or a key or value is not known.
    pub fn read(text: &str) -> Result<Steps, Error> {
        if !text.ends_with(".toml") {
            return Ok(Steps { preset: Some(text.to_string()), ..Steps::default() });
        }
        let place = crate::Place::file(Path::new(text));
        let content = std::fs::read_to_string(text).map_err(|e| Error::read(&place, e))?;
        toml::from_str(&content).map_err(|e| Error::format(&place, e.to_string().trim_end()))
    }

    /// These steps where they are given, else those of `other`.
    pub fn or(self, other: Steps) -> Steps {
        Steps {
            preset: self.preset.or(other.preset),
            color: self.color.or(other.color),
            resize: self.resize.or(other.resize),
            filter: self.filter.or(other.filter),
            crop: self.crop.or(other.crop),
            random_crop: self.random_crop.or(other.random_crop),
            flip: self.flip.or(other.flip),
            jitter: self.jitter.or(other.jitter),
            scale: self.scale.or(other.scale),
            mean: self.mean.or(other.mean),
            std: self.std.or(other.std),
            layout: self.layout.or(other.layout),
        }
    }

    /// The preset with these steps changed.
    ///
    /// # Errors
    /// When there is no such preset.
    pub fn build(self) -> Result<Preprocess, Error> {
        let preset = Preprocess::preset(self.preset.as_deref().unwrap_or("none"))?;
        Ok(Preprocess {
            color: self.color.or(preset.color),
            resize: self.resize.or(preset.resize),
            filter: self.filter.unwrap_or(preset.filter),
            crop: self.crop.or(preset.crop),
            random_crop: self.random_crop.unwrap_or(preset.random_crop),
            flip: self.flip.unwrap_or(preset.flip),
            jitter: self.jitter.unwrap_or(preset.jitter),
            scale: self.scale.unwrap_or(preset.scale),
            mean: self.mean.unwrap_or(preset.mean),
            std: self.std.unwrap_or(preset.std),
            layout: self.layout.unwrap_or(preset.layout),
        })
    }
}

impl TryFrom<Steps> for Preprocess {
    type Error = Error;

    fn try_from(steps: Steps) -> Result<Preprocess, Error> {
        steps.build()
    }
}

impl From<Preprocess> for Steps {
    fn from(p: Preprocess) -> Steps {
        Steps {
            preset: None,
            color: p.color,
            resize: p.resize,
            filter: Some(p.filter),
            crop: p.crop,
            random_crop: Some(p.random_crop),
            flip: Some(p.flip),
            jitter: Some(p.jitter),
            scale: Some(p.scale),
            mean: Some(p.mean),
            std: Some(p.std),
            layout: Some(p.layout),
        }
    }
}

impl Preprocess {
    /// The usual steps for a family of networks; see [`PRESETS`].
    ///
    /// | name | pictures | values | in training |
    /// |---|---|---|---|
    /// | `imagenet` | resized such that the crop takes 87.5 % | scale 1/255, mean and std of ImageNet | random resized crop, flip |
    /// | `imagenet-tf` | the same | -1 to 1 | the same |
    /// | `mnist` | gray | -1 to 1 | - |
    /// | `cifar10` | as they are | scale 1/255, mean and std of CIFAR-10 | 4 pixels padded and a random crop, flip |
    /// | `none` | as they are | as they are | - |
    ///
    /// # Errors
    /// When there is no such preset.
    pub fn preset(name: &str) -> Result<Preprocess, Error> {
        let none = Preprocess::default();
        let pictures = Preprocess {
            color: Some(Color::Rgb),
            resize: Some(Resize::Share(0.875)),
            random_crop: RandomCrop::RESIZED,
            flip: 0.5,
            ..none.clone()
        };
        let half = Preprocess { mean: vec![127.5], std: vec![127.5], ..none.clone() };
        match name {
            "imagenet" => Ok(Preprocess {
                scale: 1.0 / 255.0,
                mean: vec![0.485, 0.456, 0.406],
                std: vec![0.229, 0.224, 0.225],
                ..pictures
            }),
            "imagenet-tf" => Ok(Preprocess { mean: half.mean, std: half.std, ..pictures }),
            "mnist" => Ok(half),
            "cifar10" => Ok(Preprocess {
                random_crop: RandomCrop::Padded(4),
                flip: 0.5,
                scale: 1.0 / 255.0,
                mean: vec![0.4914, 0.4822, 0.4465],
                std: vec![0.2470, 0.2435, 0.2616],
                ..none
            }),
            "none" => Ok(none),
            _ => {
                Err(wrong(format!("preset '{name}' is unknown; use {}, or a .toml file", PRESETS.join(", "))))
            }
        }
    }

    /// Whether stored pictures change in size, place or colour: arrays are pictures then.
    pub(crate) fn changes_pictures(&self) -> bool {
        let Preprocess { color, resize, crop, random_crop, flip, jitter, .. } = self;
        let still = color.is_none() && resize.is_none() && crop.is_none();
        !still || *random_crop != RandomCrop::Off || *flip != 0.0 || *jitter != Jitter::default()
    }

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
        } else if !(0.0..=1.0).contains(&self.flip) {
            format!("flip is {}, it must be a share from 0 to 1", self.flip)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn steps_survive_a_file() {
        for name in PRESETS {
            let preset = Preprocess::preset(name).unwrap();
            let text = toml::to_string(&preset).unwrap();
            assert_eq!(toml::from_str::<Preprocess>(&text).unwrap(), preset, "{text}");
        }
        let size = Size { height: 48, width: 192 };
        let all = Preprocess {
            color: Some(Color::Bgr),
            resize: Some(Resize::Exact(size)),
            filter: Filter::Bicubic,
            crop: Some(size),
            random_crop: RandomCrop::Padded(4),
            jitter: Jitter { brightness: 0.4, contrast: 0.3, saturation: 0.2 },
            layout: Layout::Nhwc,
            ..Preprocess::default()
        };
        assert_eq!(toml::from_str::<Preprocess>(&toml::to_string(&all).unwrap()).unwrap(), all);
    }
}
