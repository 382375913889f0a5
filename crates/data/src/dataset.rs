//! Samples in memory, as stored, and their conversion to what the model takes.

use crate::{Error, Layout, Place, Preprocess};
use tensor::{DType, Tensor};

/// One input of the model, as far as data must fit it.
#[derive(Clone, Debug, PartialEq)]
pub struct InputSpec {
    /// Name in the model.
    pub name: String,
    /// Element type in the model: floating point is fed as `f32`, anything else as `i64`.
    pub dtype: DType,
    /// Shape in the model, batch first; `None` for dimensions, or a rank, that the model leaves open. The first
    /// dimension is not looked at: it is the batch.
    pub shape: Option<Vec<Option<usize>>>,
}

impl InputSpec {
    /// A float input of this shape, batch first.
    pub fn float(name: &str, shape: &[Option<usize>]) -> InputSpec {
        InputSpec { name: name.to_string(), dtype: DType::F32, shape: Some(shape.to_vec()) }
    }
}

/// Samples with one or more input arrays each, and perhaps a class number.
///
/// Arrays stay in memory as they were stored (u8 images as u8); a batch is converted when it is read.
#[derive(Debug)]
pub struct Dataset {
    inputs: Vec<Input>,
    labels: Option<Labels>,
    len: usize,
}

#[derive(Debug)]
struct Input {
    name: String,
    float: bool,
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

#[derive(Debug)]
struct Labels {
    place: Place,
    values: Vec<i64>,
}

impl Dataset {
    /// A dataset of arrays in memory, in the order of `specs`.
    ///
    /// # Errors
    /// As [`Source::open`](crate::Source::open), but for those of files.
    pub fn from_arrays(
        specs: &[InputSpec],
        arrays: Vec<Tensor>,
        labels: Option<Tensor>,
        preprocess: &Preprocess,
    ) -> Result<Dataset, Error> {
        let places = specs.iter().map(|s| Place::memory(&s.name));
        Dataset::new(
            specs,
            places.zip(arrays).collect(),
            labels.map(|t| (Place::memory("labels"), t)),
            preprocess,
        )
    }

    pub(crate) fn new(
        specs: &[InputSpec],
        arrays: Vec<(Place, Tensor)>,
        labels: Option<(Place, Tensor)>,
        preprocess: &Preprocess,
    ) -> Result<Dataset, Error> {
        preprocess.check()?;
        if specs.is_empty() || specs.len() != arrays.len() {
            let problem =
                format!("the model has {} inputs, but there are {} arrays", specs.len(), arrays.len());
            return Err(Error::Spec { spec: String::new(), problem });
        }
        if preprocess.changes_values() && specs.iter().all(|s| !s.dtype.is_float()) {
            let problem = "mean, std and scale were given, but the model takes integers only".to_string();
            return Err(Error::Preprocess { problem });
        }
        let inputs: Vec<Input> = specs
            .iter()
            .zip(arrays)
            .map(|(spec, (place, array))| Input::new(spec, place, array, preprocess))
            .collect::<Result<_, _>>()?;
        let len = inputs[0].array.shape()[0];
        let same = |place: &Place, n: usize| match n == len {
            true => Ok(()),
            false => Err(Error::Lengths {
                first: inputs[0].place.clone(),
                first_len: len,
                second: place.clone(),
                second_len: n,
            }),
        };
        inputs.iter().try_for_each(|i| same(&i.place, i.array.shape()[0]))?;
        let labels = labels.map(|(place, array)| Labels::new(place, &array)).transpose()?;
        if let Some(l) = &labels {
            same(&l.place, l.values.len())?;
        }
        Ok(Dataset { inputs, labels, len })
    }

    /// Number of samples; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Keeps the first `len` samples (all, when there are fewer; at least one).
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len.max(1));
        if let Some(labels) = &mut self.labels {
            labels.values.truncate(self.len);
        }
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// Name in the model of an input.
    pub fn name(&self, input: usize) -> &str {
        &self.inputs[input].name
    }

    /// Where an input comes from.
    pub fn place(&self, input: usize) -> &Place {
        &self.inputs[input].place
    }

    /// Shape of one sample of an input, as it is delivered (channels first).
    pub fn sample_shape(&self, input: usize) -> &[usize] {
        &self.inputs[input].sample
    }

    /// Whether an input is read with [`Dataset::read_f32`] or else with [`Dataset::read_i64`].
    pub fn is_float(&self, input: usize) -> bool {
        self.inputs[input].float
    }

    /// Converts the samples of a batch, one after the other, into `out`.
    ///
    /// # Errors
    /// When a value is NaN or infinite, stored so or after preprocessing.
    ///
    /// # Panics
    /// When `out` has another length than the samples take, or a sample number is out of range.
    pub fn read_f32(&self, input: usize, samples: &[usize], out: &mut [f32]) -> Result<(), Error> {
        let input = &self.inputs[input];
        self.rows(input, samples, out, |sample, bytes, row| input.floats(sample, bytes, row))
    }

    /// Copies the samples of a batch of an integer input (token ids) into `out`.
    ///
    /// # Errors
    /// When a value is not a whole number that `i64` holds.
    ///
    /// # Panics
    /// As [`Dataset::read_f32`].
    pub fn read_i64(&self, input: usize, samples: &[usize], out: &mut [i64]) -> Result<(), Error> {
        let input = &self.inputs[input];
        self.rows(input, samples, out, |sample, bytes, row| input.integers(sample, bytes, row))
    }

    /// Hands the stored bytes of each sample and its row of `out` to `convert`.
    fn rows<T>(
        &self,
        input: &Input,
        samples: &[usize],
        out: &mut [T],
        mut convert: impl FnMut(usize, &[u8], &mut [T]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let len = input.channels * input.positions;
        assert_eq!(out.len(), samples.len() * len, "buffer for {} samples of {len} values", samples.len());
        let bytes = input.array.dtype().bytes(len);
        for (&sample, row) in samples.iter().zip(out.chunks_exact_mut(len)) {
            assert!(sample < self.len, "sample {sample} of {}", self.len);
            convert(sample, &input.array.bytes()[sample * bytes..(sample + 1) * bytes], row)?;
        }
        Ok(())
    }

    /// The class number of every sample, if there are labels.
    pub fn labels(&self) -> Option<&[i64]> {
        self.labels.as_ref().map(|l| &l.values[..])
    }

    /// Checks that there are labels and that each is one of `classes` classes.
    ///
    /// # Errors
    /// When there are none, or one is out of range: the first such sample is named.
    pub fn check_labels(&self, classes: usize) -> Result<(), Error> {
        let labels = self.labels.as_ref().ok_or_else(|| self.no_labels())?;
        let bad = labels.values.iter().position(|&l| usize::try_from(l).map_or(true, |l| l >= classes));
        bad.map_or(Ok(()), |sample| {
            let label = labels.values[sample];
            Err(Error::LabelRange { place: labels.place.clone(), sample, label, classes })
        })
    }

    /// Copies the class numbers of a batch into `out`.
    ///
    /// # Errors
    /// When there are no labels.
    ///
    /// # Panics
    /// As [`Dataset::read_f32`].
    pub fn read_labels(&self, samples: &[usize], out: &mut [i64]) -> Result<(), Error> {
        let labels = self.labels().ok_or_else(|| self.no_labels())?;
        assert_eq!(out.len(), samples.len(), "buffer for {} labels", samples.len());
        out.iter_mut().zip(samples).for_each(|(o, &s)| *o = labels[s]);
        Ok(())
    }

    fn no_labels(&self) -> Error {
        Error::NoLabels { place: self.inputs[0].place.clone() }
    }
}

impl Input {
    fn new(spec: &InputSpec, place: Place, array: Tensor, preprocess: &Preprocess) -> Result<Input, Error> {
        if array.is_empty() || array.shape().is_empty() {
            return Err(Error::Empty { place, shape: array.shape().to_vec() });
        }
        if !(array.dtype() == DType::Bool || NUMBERS.contains(&array.dtype())) {
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
        Ok(Input {
            name: spec.name.clone(),
            float,
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

/// Element types that are read, but for `Bool`.
const NUMBERS: [DType; 11] = [
    DType::F32,
    DType::F64,
    DType::F16,
    DType::I8,
    DType::U8,
    DType::I16,
    DType::U16,
    DType::I32,
    DType::U32,
    DType::I64,
    DType::U64,
];

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

impl Labels {
    fn new(place: Place, array: &Tensor) -> Result<Labels, Error> {
        let ([_] | [_, 1]) = array.shape() else {
            return Err(Error::LabelShape { place, shape: array.shape().to_vec() });
        };
        if array.is_empty() {
            return Err(Error::Empty { place, shape: array.shape().to_vec() });
        }
        if !array.dtype().is_float() {
            return Ok(Labels { place, values: array.to_i64() });
        }
        let label = |(sample, label): (usize, f64)| match label.fract() == 0.0 && label.abs() < 1e15 {
            true => Ok(label as i64),
            false => Err(Error::LabelValue { place: place.clone(), sample, label }),
        };
        let values = array.to_f64().into_iter().enumerate().map(label).collect::<Result<_, _>>()?;
        Ok(Labels { place, values })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use half::f16;

    fn spec(dims: &[usize]) -> InputSpec {
        let dims: Vec<Option<usize>> = dims.iter().map(|&d| (d > 0).then_some(d)).collect();
        InputSpec::float("x", &[&[None], &dims[..]].concat())
    }

    fn tokens(len: usize) -> InputSpec {
        InputSpec { name: "ids".into(), dtype: DType::I64, shape: Some(vec![None, Some(len)]) }
    }

    fn open(spec: InputSpec, x: Tensor, y: Option<Tensor>, p: &Preprocess) -> Result<Dataset, String> {
        Dataset::from_arrays(&[spec], vec![x], y, p).map_err(|e| e.to_string())
    }

    /// All samples of the only input.
    fn all(data: &Dataset) -> Vec<f32> {
        let samples: Vec<usize> = (0..data.len()).collect();
        let mut out = vec![0.0; data.len() * data.sample_shape(0).iter().product::<usize>()];
        data.read_f32(0, &samples, &mut out).unwrap();
        out
    }

    fn ramp(shape: &[usize]) -> Tensor {
        Tensor::new(shape, (0..shape.iter().product()).map(|i: usize| i as u8).collect())
    }

    #[test]
    fn normalization_per_channel_and_scalar() {
        let p = Preprocess { scale: 0.5, mean: vec![1.0, 2.0], std: vec![4.0], ..Default::default() };
        let data = open(spec(&[2, 1, 2]), ramp(&[2, 2, 1, 2]), None, &p).unwrap();
        assert_eq!(all(&data), [-0.25, -0.125, -0.25, -0.125, 0.25, 0.375, 0.25, 0.375]);
        let p = Preprocess { mean: vec![1.0], std: vec![0.5], ..Default::default() };
        let data = open(spec(&[2, 1, 2]), ramp(&[2, 2, 1, 2]), None, &p).unwrap();
        assert_eq!(all(&data), [-2.0, 0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
    }

    #[test]
    fn every_element_type_is_converted() {
        let float = [0.0f32, 1.0, 2.0, 3.0];
        let arrays = [
            Tensor::new(&[4], float.to_vec()),
            Tensor::new(&[4], float.map(f64::from).to_vec()),
            Tensor::new(&[4], float.map(f16::from_f32).to_vec()),
            Tensor::new(&[4], float.map(|v| v as i8).to_vec()),
            Tensor::new(&[4], float.map(|v| v as u8).to_vec()),
            Tensor::new(&[4], float.map(|v| v as i16).to_vec()),
            Tensor::new(&[4], float.map(|v| v as u16).to_vec()),
            Tensor::new(&[4], float.map(|v| v as i32).to_vec()),
            Tensor::new(&[4], float.map(|v| v as u32).to_vec()),
            Tensor::new(&[4], float.map(|v| v as i64).to_vec()),
            Tensor::new(&[4], float.map(|v| v as u64).to_vec()),
        ];
        for x in arrays {
            let x = x.reshape(&[2, 2]).unwrap();
            let data = open(spec(&[2]), x.clone(), None, &Preprocess::default()).unwrap();
            assert_eq!(all(&data), float, "{}", x.dtype());
            let data = open(tokens(2), x, None, &Preprocess::default()).unwrap();
            let mut out = [9; 2];
            data.read_i64(0, &[1], &mut out).unwrap();
            assert_eq!(out, [2, 3]);
        }
        let data =
            open(spec(&[2]), Tensor::bools(&[1, 2], &[true, false]), None, &Preprocess::default()).unwrap();
        assert_eq!(all(&data), [1.0, 0.0]);
        let packed = Tensor::zeros(DType::I4, &[1, 2]);
        let e = open(spec(&[2]), packed, None, &Preprocess::default()).unwrap_err();
        assert!(e.contains("elements of type int4 cannot be used"), "{e}");
    }

    #[test]
    fn channels_last_is_turned() {
        let p = Preprocess { layout: Layout::Nhwc, mean: vec![0.0, 1.0, 2.0], ..Default::default() };
        // Two pixels of three channels; channel c holds c and 3 + c, and its mean is c.
        for shape in [&[3, 1, 2][..], &[0, 0, 0], &[6]] {
            let data = open(spec(shape), ramp(&[1, 1, 2, 3]), None, &p).unwrap();
            assert_eq!(all(&data), [0.0, 3.0, 0.0, 3.0, 0.0, 3.0]);
        }
        let data = open(spec(&[3, 1, 2]), ramp(&[1, 1, 2, 3]), None, &p).unwrap();
        assert_eq!(data.sample_shape(0), [3, 1, 2]);
        let unknown = InputSpec { shape: None, ..spec(&[]) };
        let data = open(unknown, ramp(&[1, 1, 2, 3]), None, &p).unwrap();
        assert_eq!(data.sample_shape(0), [3, 1, 2]);
        let ids = InputSpec { dtype: DType::I32, ..spec(&[3, 1, 2]) };
        let p = Preprocess { layout: Layout::Nhwc, ..Default::default() };
        let data = open(ids, ramp(&[1, 1, 2, 3]), None, &p).unwrap();
        let mut out = [0; 6];
        data.read_i64(0, &[0], &mut out).unwrap();
        assert_eq!(out, [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn shapes_that_fit() {
        let fitted = |want: &[usize], stored: &[usize], layout| {
            let p = Preprocess { layout, ..Default::default() };
            open(spec(want), ramp(stored), None, &p).unwrap().sample_shape(0).to_vec()
        };
        // Grey images get their channel, in either layout, and with open sizes too.
        assert_eq!(fitted(&[1, 2, 3], &[4, 2, 3], Layout::Nchw), [1, 2, 3]);
        assert_eq!(fitted(&[1, 2, 3], &[4, 2, 3], Layout::Nhwc), [1, 2, 3]);
        assert_eq!(fitted(&[0, 0, 0], &[4, 2, 3], Layout::Nchw), [1, 2, 3]);
        assert_eq!(fitted(&[1, 2, 3], &[4, 2, 3, 1], Layout::Nhwc), [1, 2, 3]);
        // Flat inputs.
        assert_eq!(fitted(&[6], &[4, 2, 3], Layout::Nchw), [6]);
        assert_eq!(fitted(&[6], &[4, 1, 2, 3], Layout::Nchw), [6]);
        // One number per sample.
        assert_eq!(fitted(&[], &[4], Layout::Nchw), [0usize; 0]);
    }

    #[test]
    fn shapes_that_do_not_fit_say_what_would() {
        let told = |want: &[usize], stored: &[usize], layout| {
            open(spec(want), ramp(stored), None, &Preprocess { layout, ..Default::default() }).unwrap_err()
        };
        assert_eq!(
            told(&[3, 4, 5], &[2, 4, 5, 3], Layout::Nchw),
            "array 'x' has shape [N, 4, 5, 3], but the model's input 'x' takes [N, 3, 4, 5]; it would fit with \
             --layout nhwc"
        );
        let e = told(&[3, 4, 5], &[2, 3, 4, 5], Layout::Nhwc);
        assert!(e.contains("[N, 3, 4, 5] (nhwc)") && e.ends_with("it would fit with --layout nchw"), "{e}");
        assert!(
            told(&[3, 0, 8], &[2, 3, 4, 5], Layout::Nchw).contains("takes [N, 3, ?, 8]; resize the samples")
        );
        assert!(told(&[3, 4, 5], &[2, 60, 2], Layout::Nchw).contains("number of dimensions differs"));
        assert!(told(&[0], &[2, 6, 2], Layout::Nchw).contains("number of dimensions differs"));
        let scalar = InputSpec { shape: Some(vec![]), ..spec(&[]) };
        let e = open(scalar, ramp(&[2]), None, &Preprocess::default()).unwrap_err();
        assert!(e.contains("takes a scalar"), "{e}");
    }

    #[test]
    fn preprocessing_that_makes_no_sense() {
        let told = |p: Preprocess| open(spec(&[3, 1, 1]), ramp(&[1, 3, 1, 1]), None, &p).unwrap_err();
        let d = Preprocess::default;
        let e = told(Preprocess { mean: vec![1.0, 2.0], ..d() });
        assert_eq!(
            e,
            "preprocessing: mean has 2 values, but the model's input 'x' has 3 channels; give one value or 3"
        );
        assert!(told(Preprocess { std: vec![], ..d() }).contains("std has 0 values"));
        assert!(told(Preprocess { std: vec![1.0, 0.0, 1.0], ..d() }).contains("std holds 0"));
        assert!(told(Preprocess { std: vec![-1.0], ..d() }).contains("std holds -1"));
        assert!(told(Preprocess { mean: vec![f32::NAN], ..d() }).contains("mean holds NaN"));
        assert!(told(Preprocess { scale: 0.0, ..d() }).contains("scale is 0"));
        let e = open(tokens(1), ramp(&[2, 1]), None, &Preprocess { scale: 2.0, ..d() }).unwrap_err();
        assert!(e.contains("takes integers only"), "{e}");
        assert!("nwhc".parse::<Layout>().unwrap_err().to_string().contains("use nchw or nhwc"));
        assert_eq!("NHWC".parse::<Layout>().unwrap(), Layout::Nhwc);
    }

    #[test]
    fn values_that_are_not_finite_are_named() {
        let mut x = vec![1.0f32; 12];
        x[6 + 4] = f32::NAN;
        for layout in [Layout::Nchw, Layout::Nhwc] {
            let want = if layout == Layout::Nchw { [1, 2, 3] } else { [3, 1, 2] };
            let p = Preprocess { layout, ..Default::default() };
            let data = open(spec(&want), Tensor::new(&[2, 1, 2, 3], x.clone()), None, &p).unwrap();
            let mut out = [0.0; 6];
            data.read_f32(0, &[0], &mut out).unwrap();
            let e = data.read_f32(0, &[1], &mut out).unwrap_err().to_string();
            assert!(e.starts_with("array 'x', sample 1: the value NaN at position 4 is not a finite"), "{e}");
        }
        let data =
            open(spec(&[1]), Tensor::new(&[1, 1], vec![1e300f64]), None, &Preprocess::default()).unwrap();
        assert!(data.read_f32(0, &[0], &mut [0.0]).unwrap_err().to_string().contains("position 0"));
    }

    #[test]
    fn integer_inputs_take_whole_numbers() {
        let data =
            open(tokens(2), Tensor::new(&[1, 2], vec![3.0f32, 2.5]), None, &Preprocess::default()).unwrap();
        assert!(!data.is_float(0));
        let e = data.read_i64(0, &[0], &mut [0; 2]).unwrap_err().to_string();
        assert!(
            e.contains("array 'ids', sample 0: the value 2.5 at position 1 is not a whole number"),
            "{e}"
        );
        for x in [Tensor::new(&[1, 2], vec![0, u64::MAX]), Tensor::new(&[1, 2], vec![f64::NAN, 0.0])] {
            let data = open(tokens(2), x, None, &Preprocess::default()).unwrap();
            assert!(data.read_i64(0, &[0], &mut [0; 2]).is_err());
        }
    }

    #[test]
    fn labels_of_any_whole_type() {
        let labels = |y: Tensor| open(spec(&[1]), ramp(&[3, 1]), Some(y), &Preprocess::default());
        for y in [
            Tensor::new(&[3], vec![2i64, 0, 1]),
            Tensor::new(&[3, 1], vec![2i32, 0, 1]),
            Tensor::new(&[3], vec![2u8, 0, 1]),
            Tensor::new(&[3, 1], vec![2f32, 0.0, 1.0]),
        ] {
            let data = labels(y).unwrap();
            assert_eq!(data.labels().unwrap(), [2, 0, 1]);
            data.check_labels(3).unwrap();
            let e = data.check_labels(2).unwrap_err().to_string();
            assert_eq!(
                e,
                "array 'labels', sample 0: the label 2 is out of range, the model has 2 classes (0 to 1)"
            );
            let mut out = [0; 2];
            data.read_labels(&[1, 0], &mut out).unwrap();
            assert_eq!(out, [0, 2]);
        }
        let negative = labels(Tensor::new(&[3], vec![0i8, 0, -1])).unwrap().check_labels(5);
        assert!(negative.unwrap_err().to_string().contains("sample 2: the label -1"));
        for (y, says) in [
            (Tensor::new(&[3], vec![0.0f32, 0.5, 0.0]), "sample 1: the label 0.5 is not a class number"),
            (Tensor::new(&[3], vec![0.0f32, 1.0, f32::NAN]), "sample 2: the label NaN"),
            (Tensor::new(&[3, 2], vec![0u8; 6]), "labels have shape [3, 2]"),
            (Tensor::new(&[2], vec![0u8; 2]), "array 'x' has 3 samples, but array 'labels' has 2"),
            (Tensor::new(&[0], Vec::<u8>::new()), "no samples"),
        ] {
            let e = labels(y).unwrap_err();
            assert!(e.contains(says), "{e}");
        }
        let none = open(spec(&[1]), ramp(&[3, 1]), None, &Preprocess::default()).unwrap();
        assert!(none.labels().is_none());
        assert!(none.check_labels(9).unwrap_err().to_string().starts_with("array 'x': no labels were found"));
        assert!(none.read_labels(&[0], &mut [0]).is_err());
    }

    #[test]
    fn several_inputs() {
        let specs = [tokens(2), spec(&[1])];
        let arrays = || vec![ramp(&[2, 2]), Tensor::new(&[2, 1], vec![0.5f32, 0.25])];
        let mut data = Dataset::from_arrays(&specs, arrays(), None, &Preprocess::default()).unwrap();
        assert_eq!((data.inputs(), data.name(1), data.is_float(0), data.is_float(1)), (2, "x", false, true));
        let mut out = [0.0; 3];
        data.read_f32(1, &[1, 0, 1], &mut out).unwrap();
        assert_eq!(out, [0.25, 0.5, 0.25]);
        data.truncate(1);
        assert_eq!(data.len(), 1);
        let wrong = vec![ramp(&[2, 2]), Tensor::new(&[3, 1], vec![0.5f32; 3])];
        let e = Dataset::from_arrays(&specs, wrong, None, &Preprocess::default()).unwrap_err().to_string();
        assert!(e.starts_with("array 'ids' has 2 samples, but array 'x' has 3;"), "{e}");
        let e = Dataset::from_arrays(&specs, vec![ramp(&[2, 2])], None, &Preprocess::default()).unwrap_err();
        assert!(e.to_string().contains("2 inputs, but there are 1 arrays"), "{e}");
    }

    #[test]
    fn no_samples() {
        for shape in [&[0, 2][..], &[3, 0], &[]] {
            let e = open(spec(&[2]), Tensor::zeros(DType::F32, shape), None, &Preprocess::default());
            let empty = e.as_ref().is_err_and(|e| e.contains("there are no samples"));
            assert!(empty, "{shape:?}: {e:?}");
        }
    }
}
