//! Samples of all inputs of a model, and their labels.

use crate::arrays::ArraySamples;
use crate::listing::Listing;
use crate::loader::{Batch, Values};
use crate::pictures::{Origin, PictureSamples};
use crate::samples::{Row, Samples, View};
use crate::tolerance::{MaxBroken, Tolerance};
use crate::{Error, Place, Preprocess};
use std::sync::Arc;
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

/// Samples with one or more inputs each, and perhaps a class number. Cloning shares them.
///
/// Nothing is converted or decoded before it is read: see [`Loader`](crate::Loader).
#[derive(Clone, Debug)]
pub struct Dataset {
    inputs: Arc<[Input]>,
    labels: Option<Labels>,
    len: usize,
    workers: usize,
    tolerance: Arc<Tolerance>,
}

#[derive(Debug)]
struct Input {
    name: String,
    float: bool,
    samples: Box<dyn Samples>,
}

#[derive(Clone, Debug)]
struct Labels {
    place: Place,
    values: Arc<[i64]>,
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
        Dataset::of_arrays(
            specs,
            places.zip(arrays).collect(),
            labels.map(|t| (Place::memory("labels"), t)),
            preprocess,
        )
    }

    pub(crate) fn of_arrays(
        specs: &[InputSpec],
        arrays: Vec<(Place, Tensor)>,
        labels: Option<(Place, Tensor)>,
        preprocess: &Preprocess,
    ) -> Result<Dataset, Error> {
        preprocess.check(specs)?;
        if specs.is_empty() || specs.len() != arrays.len() {
            let problem =
                format!("the model has {} inputs, but there are {} arrays", specs.len(), arrays.len());
            return Err(Error::Spec { spec: String::new(), problem });
        }
        // Of several inputs some may be pictures and others not; a single one has to be, or the steps make no sense.
        let is_picture = |place: &Place, array: &Tensor| match preprocess.changes_pictures() {
            false => Ok(None),
            true => match Origin::array(place, array.clone(), preprocess.layout) {
                Err(_) if specs.len() > 1 => Ok(None),
                origin => origin.map(Some),
            },
        };
        let open = |(spec, (place, array)): (&InputSpec, (Place, Tensor))| {
            let samples: Box<dyn Samples> = match is_picture(&place, &array)? {
                Some(origin) => Box::new(PictureSamples::new(spec, place, origin, preprocess)?),
                None => Box::new(ArraySamples::new(spec, place, array, preprocess)?),
            };
            Ok((spec.clone(), samples))
        };
        let inputs = specs.iter().zip(arrays).map(open).collect::<Result<_, Error>>()?;
        let labels =
            labels.map(|(place, array)| Ok::<_, Error>((whole(&place, &array)?, place))).transpose()?;
        Dataset::from_samples(inputs, labels)
    }

    /// A dataset of picture files, for the only input of a model.
    ///
    /// # Errors
    /// When the model has several inputs, or pictures do not fit its input.
    pub(crate) fn of_pictures(
        specs: &[InputSpec],
        listing: Listing,
        preprocess: &Preprocess,
    ) -> Result<Dataset, Error> {
        preprocess.check(specs)?;
        let Listing { place, root, files, labels } = listing;
        let [spec] = specs else {
            let problem = format!("pictures are for one input, the model has {}", specs.len());
            return Err(Error::format(&place, problem));
        };
        let samples = PictureSamples::new(spec, place.clone(), Origin::Files { root, files }, preprocess)?;
        Dataset::from_samples(vec![(spec.clone(), Box::new(samples))], labels.map(|l| (l, place)))
    }

    /// A dataset of any sources, one per input, and the class number of every sample with where these come from.
    ///
    /// # Errors
    /// When there are no inputs, or their numbers of samples differ.
    pub fn from_samples(
        inputs: Vec<(InputSpec, Box<dyn Samples>)>,
        labels: Option<(Vec<i64>, Place)>,
    ) -> Result<Dataset, Error> {
        let Some((_, first)) = inputs.first() else {
            return Err(Error::Spec { spec: String::new(), problem: "the model has no inputs".into() });
        };
        let len = first.len();
        let same = |place: &Place, n: usize| match n == len {
            true => Ok(()),
            false => Err(Error::Lengths {
                first: first.place().clone(),
                first_len: len,
                second: place.clone(),
                second_len: n,
            }),
        };
        inputs.iter().try_for_each(|(_, i)| same(i.place(), i.len()))?;
        if let Some((values, place)) = &labels {
            same(place, values.len())?;
        }
        let input = |(spec, samples): (InputSpec, _)| Input {
            float: spec.dtype.is_float(),
            name: spec.name,
            samples,
        };
        Ok(Dataset {
            inputs: inputs.into_iter().map(input).collect(),
            labels: labels.map(|(values, place)| Labels { place, values: values.into() }),
            len,
            workers: 0,
            tolerance: Arc::default(),
        })
    }

    /// Reads batches ahead on this many threads; with 0, as by default, the thread that asks for a batch reads it. Batches
    /// hold the same bytes for any number.
    pub fn with_workers(mut self, workers: usize) -> Dataset {
        self.workers = workers;
        self
    }

    /// Leaves out up to so many samples that cannot be used. The default is [`MaxBroken::default`].
    pub fn with_max_broken(mut self, limit: MaxBroken) -> Dataset {
        self.tolerance = Arc::new(Tolerance::new(limit));
        self
    }

    /// The samples that could not be used so far: their numbers and what is wrong with each.
    pub fn broken(&self) -> Vec<(usize, String)> {
        self.tolerance.found()
    }

    /// Number of samples; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Keeps the first `len` samples (all, when there are fewer; at least one).
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len.max(1));
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
        self.inputs[input].samples.place()
    }

    /// Shape of one sample of an input, as it is delivered.
    pub fn sample_shape(&self, input: usize) -> &[usize] {
        self.inputs[input].samples.shape()
    }

    /// Whether an input is read with [`Dataset::read_f32`] or else with [`Dataset::read_i64`].
    pub fn is_float(&self, input: usize) -> bool {
        self.inputs[input].float
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers
    }

    pub(crate) fn tolerance(&self) -> &Tolerance {
        &self.tolerance
    }

    /// Reads one sample of one input.
    pub(crate) fn read(&self, input: usize, sample: usize, view: View, out: Row) -> Result<(), Error> {
        assert!(sample < self.len, "sample {sample} of {}", self.len);
        self.inputs[input].samples.read(sample, view, out)
    }

    /// Reads samples of a float input, one after the other, into `out`, as evaluation sees them.
    ///
    /// # Errors
    /// When a sample cannot be read or decoded, or a value is NaN or infinite, stored so or after preprocessing.
    ///
    /// # Panics
    /// When `out` has another length than the samples take, or a sample number is out of range.
    pub fn read_f32(&self, input: usize, samples: &[usize], out: &mut [f32]) -> Result<(), Error> {
        self.rows(input, samples, out, |sample, row| self.read(input, sample, View::Plain, Row::F32(row)))
    }

    /// Reads samples of an integer input (token ids) into `out`.
    ///
    /// # Errors
    /// As [`Dataset::read_f32`], and when a value is not a whole number that `i64` holds.
    ///
    /// # Panics
    /// As [`Dataset::read_f32`].
    pub fn read_i64(&self, input: usize, samples: &[usize], out: &mut [i64]) -> Result<(), Error> {
        self.rows(input, samples, out, |sample, row| self.read(input, sample, View::Plain, Row::I64(row)))
    }

    /// These samples, as evaluation sees them.
    ///
    /// # Errors
    /// As [`Dataset::read_f32`] and [`Dataset::read_i64`].
    ///
    /// # Panics
    /// When a sample number is out of range.
    pub fn batch(&self, samples: &[usize]) -> Result<Batch, Error> {
        let input = |i: usize| {
            let len = samples.len() * self.sample_shape(i).iter().product::<usize>();
            if self.is_float(i) {
                let mut values = vec![0.0; len];
                self.read_f32(i, samples, &mut values).map(|()| Values::F32(values))
            } else {
                let mut values = vec![0; len];
                self.read_i64(i, samples, &mut values).map(|()| Values::I64(values))
            }
        };
        let inputs = (0..self.inputs()).map(input).collect::<Result<_, _>>()?;
        let labels = self.labels().map(|l| samples.iter().map(|&s| l[s]).collect()).unwrap_or_default();
        Ok(Batch { samples: samples.to_vec(), labels, inputs })
    }

    /// Hands each sample its row of `out`.
    fn rows<T>(
        &self,
        input: usize,
        samples: &[usize],
        out: &mut [T],
        mut read: impl FnMut(usize, &mut [T]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let len: usize = self.sample_shape(input).iter().product();
        assert_eq!(out.len(), samples.len() * len, "buffer for {} samples of {len} values", samples.len());
        samples.iter().zip(out.chunks_exact_mut(len)).try_for_each(|(&sample, row)| read(sample, row))
    }

    /// The class number of every sample, if there are labels.
    pub fn labels(&self) -> Option<&[i64]> {
        self.labels.as_ref().map(|l| &l.values[..self.len])
    }

    /// Checks that there are labels and that each is one of `classes` classes.
    ///
    /// # Errors
    /// When there are none, or one is out of range: the first such sample is named.
    pub fn check_labels(&self, classes: usize) -> Result<(), Error> {
        let Some(labels) = &self.labels else {
            return Err(Error::NoLabels { place: self.place(0).clone() });
        };
        let values = &labels.values[..self.len];
        let bad = values.iter().position(|&l| usize::try_from(l).map_or(true, |l| l >= classes));
        bad.map_or(Ok(()), |sample| {
            let label = values[sample];
            Err(Error::LabelRange { place: labels.place.clone(), sample, label, classes })
        })
    }
}

/// The whole numbers of an array of labels.
fn whole(place: &Place, array: &Tensor) -> Result<Vec<i64>, Error> {
    let place = || place.clone();
    let ([_] | [_, 1]) = array.shape() else {
        return Err(Error::LabelShape { place: place(), shape: array.shape().to_vec() });
    };
    if array.is_empty() {
        return Err(Error::Empty { place: place(), shape: array.shape().to_vec() });
    }
    if !array.dtype().is_float() {
        return Ok(array.to_i64());
    }
    let label = |(sample, label): (usize, f64)| match label.fract() == 0.0 && label.abs() < 1e15 {
        true => Ok(label as i64),
        false => Err(Error::LabelValue { place: place(), sample, label }),
    };
    array.to_f64().into_iter().enumerate().map(label).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Layout;
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
