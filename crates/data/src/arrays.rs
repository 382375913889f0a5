//! Stored arrays as samples: shapes fitted, layouts turned, values converted and normalized.

use crate::samples::{Row, Samples, View};
use crate::{Error, InputSpec, Layout, Place, Preprocess};
use tensor::{DType, Tensor};

/// An array whose first dimension counts samples. It stays as it was stored (u8 images as u8, a mapped file mapped); a
/// sample is converted when it is read.
#[derive(Debug)]
pub(crate) struct ArraySamples {
    name: String,
    place: Place,
    array: Tensor,
    /// Shape of one sample as delivered.
    sample: Vec<usize>,
    /// Elements of one sample, seen as channels x positions.
    channels: usize,
    positions: usize,
    /// Stored with channels last.
    channels_last: bool,
    scale: f32,
    /// (mean, std) per channel.
    norm: Vec<(f32, f32)>,
}

impl Samples for ArraySamples {
    fn len(&self) -> usize {
        self.array.shape()[0]
    }

    fn shape(&self) -> &[usize] {
        &self.sample
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn read(&self, sample: usize, _: View, out: Row) -> Result<(), Error> {
        let bytes = self.array.dtype().bytes(self.channels * self.positions);
        let stored = &self.array.bytes()[sample * bytes..(sample + 1) * bytes];
        match out {
            Row::F32(out) => self.floats(sample, stored, out),
            Row::I64(out) => self.integers(sample, stored, out),
        }
    }
}

impl ArraySamples {
    /// # Errors
    /// When the array is empty, is not of numbers or does not fit the input's shape.
    pub(crate) fn new(
        spec: &InputSpec,
        place: Place,
        array: Tensor,
        preprocess: &Preprocess,
    ) -> Result<ArraySamples, Error> {
        if array.is_empty() || array.shape().is_empty() {
            return Err(Error::Empty { place, shape: array.shape().to_vec() });
        }
        if matches!(array.dtype(), DType::BF16 | DType::I4 | DType::U4) {
            let fix = "convert it to float32";
            return Err(Error::ElementType { place, found: array.dtype(), input: spec.name.clone(), fix });
        }
        let stored = &array.shape()[1..];
        let Some((sample, channels_last)) = fit(spec.shape.as_deref(), stored, preprocess.layout) else {
            return Err(shape_error(spec, place, stored, preprocess.layout));
        };
        let float = spec.dtype.is_float();
        let elements: usize = sample.iter().product();
        // With channels last the stored array itself says how many there are, whatever the model flattens it to.
        let channels = match (channels_last, stored.last()) {
            (true, Some(&c)) => c,
            _ => sample.first().copied().unwrap_or(1),
        };
        let mut norm = if float { preprocess.per_channel(channels, &spec.name)? } else { Vec::new() };
        // One pass over the whole sample where channels make no difference.
        let uniform = !channels_last && norm.iter().all(|n| *n == norm[0]);
        let channels = if uniform { 1 } else { channels };
        norm.truncate(channels);
        Ok(ArraySamples {
            name: spec.name.clone(),
            place,
            sample,
            channels,
            positions: elements / channels,
            channels_last,
            scale: preprocess.scale,
            norm,
            array,
        })
    }

    /// Where in the stored sample channel `c` begins, and the step from one position to the next.
    fn stride(&self, c: usize) -> (usize, usize) {
        if self.channels_last { (c, self.channels) } else { (c * self.positions, 1) }
    }

    fn floats(&self, sample: usize, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
        match self.array.dtype() {
            DType::F32 => self.normalize(bytes, out, f32::from_le_bytes),
            DType::F64 => self.normalize(bytes, out, |b| f64::from_le_bytes(b) as f32),
            DType::F16 => self.normalize(bytes, out, |b| half::f16::from_le_bytes(b).to_f32()),
            DType::I8 => self.normalize(bytes, out, |b| i8::from_le_bytes(b) as f32),
            DType::I16 => self.normalize(bytes, out, |b| i16::from_le_bytes(b) as f32),
            DType::U16 => self.normalize(bytes, out, |b| u16::from_le_bytes(b) as f32),
            DType::I32 => self.normalize(bytes, out, |b| i32::from_le_bytes(b) as f32),
            DType::U32 => self.normalize(bytes, out, |b| u32::from_le_bytes(b) as f32),
            DType::I64 => self.normalize(bytes, out, |b| i64::from_le_bytes(b) as f32),
            DType::U64 => self.normalize(bytes, out, |b| u64::from_le_bytes(b) as f32),
            _ => self.normalize(bytes, out, |[b]: [u8; 1]| b as f32),
        }
        match out.iter().all(|v| v.is_finite()) {
            true => Ok(()),
            false => Err(self.not_finite(sample, out)),
        }
    }

    fn normalize<const W: usize>(&self, bytes: &[u8], out: &mut [f32], read: impl Fn([u8; W]) -> f32) {
        let (values, _) = bytes.as_chunks::<W>();
        for (c, (plane, &(mean, std))) in out.chunks_exact_mut(self.positions).zip(&self.norm).enumerate() {
            let (start, step) = self.stride(c);
            for (o, &v) in plane.iter_mut().zip(values[start..].iter().step_by(step)) {
                *o = (read(v) * self.scale - mean) / std;
            }
        }
    }

    /// The first value of a sample that came out as NaN or infinite, as it is stored.
    fn not_finite(&self, sample: usize, out: &[f32]) -> Error {
        let at = out.iter().position(|v| !v.is_finite()).unwrap_or(0);
        let (start, step) = self.stride(at / self.positions);
        let position = start + at % self.positions * step;
        Error::NotFinite { place: self.place.clone(), sample, position, value: self.stored(sample, position) }
    }

    /// One stored value.
    fn stored(&self, sample: usize, position: usize) -> f64 {
        let dtype = self.array.dtype();
        let at = dtype.bytes(sample * self.channels * self.positions + position);
        let bytes = self.array.bytes().slice(at..at + dtype.bytes(1));
        Tensor::from_bytes(dtype, &[], bytes).map_or(f64::NAN, |t| t.to_f64()[0])
    }

    fn integers(&self, sample: usize, bytes: &[u8], out: &mut [i64]) -> Result<(), Error> {
        // i64 holds every whole f64 below 2^63, and 2^63 itself is a f64.
        let whole = |x: f64| (x.fract() == 0.0 && x.abs() < 9_223_372_036_854_775_808.0).then_some(x as i64);
        let bad = match self.array.dtype() {
            DType::F32 => self.gather(bytes, out, |b| whole(f32::from_le_bytes(b) as f64)),
            DType::F64 => self.gather(bytes, out, |b| whole(f64::from_le_bytes(b))),
            DType::F16 => self.gather(bytes, out, |b| whole(half::f16::from_le_bytes(b).to_f64())),
            DType::I8 => self.gather(bytes, out, |b| Some(i8::from_le_bytes(b) as i64)),
            DType::I16 => self.gather(bytes, out, |b| Some(i16::from_le_bytes(b) as i64)),
            DType::U16 => self.gather(bytes, out, |b| Some(u16::from_le_bytes(b) as i64)),
            DType::I32 => self.gather(bytes, out, |b| Some(i32::from_le_bytes(b) as i64)),
            DType::U32 => self.gather(bytes, out, |b| Some(u32::from_le_bytes(b) as i64)),
            DType::I64 => self.gather(bytes, out, |b| Some(i64::from_le_bytes(b))),
            DType::U64 => self.gather(bytes, out, |b| i64::try_from(u64::from_le_bytes(b)).ok()),
            _ => self.gather(bytes, out, |[b]: [u8; 1]| Some(b as i64)),
        };
        bad.map_or(Ok(()), |position| {
            Err(Error::NotInteger {
                place: self.place.clone(),
                sample,
                position,
                value: self.stored(sample, position),
                input: self.name.clone(),
            })
        })
    }

    /// Copies values, turning the layout; or the stored position of the first that `read` refuses.
    fn gather<const W: usize>(
        &self,
        bytes: &[u8],
        out: &mut [i64],
        read: impl Fn([u8; W]) -> Option<i64>,
    ) -> Option<usize> {
        let (values, _) = bytes.as_chunks::<W>();
        for (c, plane) in out.chunks_exact_mut(self.positions).enumerate() {
            let (start, step) = self.stride(c);
            for (p, o) in plane.iter_mut().enumerate() {
                let at = start + p * step;
                match read(values[at]) {
                    Some(v) => *o = v,
                    None => return Some(at),
                }
            }
        }
        None
    }
}

/// The shape in which samples of shape `stored` are delivered to a model input of shape `want` (batch first), and
/// whether they are turned from channels-last; `None` when they do not fit.
///
/// Beyond equal shapes: `[H, W]` fits `[1, H, W]` (grey images), and anything fits a flat `[F]` of as many elements.
fn fit(want: Option<&[Option<usize>]>, stored: &[usize], layout: Layout) -> Option<(Vec<usize>, bool)> {
    // Without a channel axis there is nothing to turn: [N, H, W] grey images, [N, F] features.
    let wanted_rank = want.map_or(stored.len(), |w| w.len().saturating_sub(1));
    let turned = layout == Layout::Nhwc && stored.len() >= 2 && wanted_rank <= stored.len();
    let mut sample = stored.to_vec();
    if turned {
        sample.rotate_right(1);
    }
    let Some(want) = want else { return Some((sample, turned)) };
    let want = want.get(1..)?;
    let fits =
        |s: &[usize]| s.len() == want.len() && s.iter().zip(want).all(|(s, w)| w.is_none_or(|w| w == *s));
    if fits(&sample) {
        return Some((sample, turned));
    }
    let grey = [&[1], &sample[..]].concat();
    if fits(&grey) {
        return Some((grey, false));
    }
    let flat = [sample.iter().product()];
    // A flat size that the model leaves open says nothing, so nothing is flattened for it.
    (want.first().is_some_and(Option::is_some) && fits(&flat)).then(|| (flat.to_vec(), turned))
}

fn shape_error(spec: &InputSpec, place: Place, stored: &[usize], layout: Layout) -> Error {
    let want = spec.shape.as_deref();
    let (other, flag) = match layout {
        Layout::Nchw => (Layout::Nhwc, "--layout nhwc"),
        Layout::Nhwc => (Layout::Nchw, "--layout nchw"),
    };
    let want_rank = want.map_or(0, <[_]>::len);
    let fix = if fit(want, stored, other).is_some() {
        format!("it would fit with {flag}")
    } else if want_rank == stored.len() + 1 {
        "resize the samples to that size, or export the model with open dimensions".to_string()
    } else {
        "the number of dimensions differs: reshape the array, the first dimension counts samples".to_string()
    };
    let text = |dims: &mut dyn Iterator<Item = String>| {
        format!("[{}]", std::iter::once("N".to_string()).chain(dims).collect::<Vec<_>>().join(", "))
    };
    let open = |d: &Option<usize>| d.map_or("?".to_string(), |d| d.to_string());
    let found = text(&mut stored.iter().map(usize::to_string));
    let found = if layout == Layout::Nhwc { format!("{found} (nhwc)") } else { found };
    let expected = match want {
        Some([_, dims @ ..]) => text(&mut dims.iter().map(open)),
        _ => "a scalar".to_string(),
    };
    Error::Shape {
        place,
        found: found.into(),
        input: spec.name.as_str().into(),
        expected: expected.into(),
        fix: fix.into(),
    }
}
