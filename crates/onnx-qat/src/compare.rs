//! A float model beside its int8 model, on the same data: what the command `compare` does.

use crate::{Error, Model};
use data::{Batch, Batches, Dataset, Last, Loader, Order, View};
use ir::{Graph, ValueId};
use kernels::quant::{Axis, Grid, Quantizer, Scales, fake_quantize};
use ops::{DequantizeLinear, QuantizeLinear};
use passes::{Equalize, Normalize, Pipeline};
use tensor::{DType, Tensor};
use train::{Accuracy, Runner};

/// How alike two models are.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// How many samples both saw.
    pub samples: usize,
    /// How alike the class scores are, where both have some.
    pub classes: Option<Classes>,
    /// Every output, in the order of the float model.
    pub outputs: Vec<Output>,
    /// Every tensor that the int8 model quantizes and the float model has under the same name, in graph order.
    pub layers: Vec<Layer>,
    /// The layers are compared after cross-layer equalization of the float model, which the int8 model was made with.
    pub equalized: bool,
}

/// How alike class scores are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Classes {
    /// Accuracy of the float model, where there are labels.
    pub float: Option<Accuracy>,
    /// Accuracy of the int8 model, where there are labels.
    pub int8: Option<Accuracy>,
    /// The samples for which the largest score is that of another class.
    pub differing: Vec<Difference>,
}

/// A sample that the two models see differently.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Number of the sample.
    pub sample: usize,
    /// Its class, where there are labels.
    pub label: Option<i64>,
    /// What the float model says.
    pub float: usize,
    /// What the int8 model says.
    pub int8: usize,
    /// How much larger the float model's score of its own class is than that of the int8 model's: close calls are small.
    pub margin: f32,
}

/// How alike an output is.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Its name in the float model.
    pub name: String,
    /// Signal-to-noise ratio: float values over differences, in dB.
    pub sqnr: f64,
    /// Cosine of the angle between both, as vectors over all samples.
    pub cosine: f64,
}

/// How alike a tensor inside is.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Name of the tensor in the float model.
    pub name: String,
    /// The operator that makes it there.
    pub operator: String,
    /// Signal-to-noise ratio in dB with all errors of the layers before.
    pub sqnr: f64,
    /// Signal-to-noise ratio in dB of quantizing the float tensor alone, with the int8 model's scale.
    pub own: f64,
}

impl Comparison {
    /// The layers that differ most first.
    pub fn worst_first(&self) -> Vec<&Layer> {
        let mut layers: Vec<&Layer> = self.layers.iter().collect();
        layers.sort_by(|a, b| a.sqnr.total_cmp(&b.sqnr));
        layers
    }

    /// Share of samples for which both say the same class.
    pub fn agreement(&self) -> Option<f64> {
        let classes = self.classes.as_ref()?;
        Some(1.0 - classes.differing.len() as f64 / self.samples.max(1) as f64)
    }
}

/// Sums over pairs of a value and what became of it.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    signal: f64,
    other: f64,
    product: f64,
    noise: f64,
}

impl Sums {
    fn add(&mut self, x: &[f32], y: &[f32]) {
        for (&x, &y) in x.iter().zip(y) {
            let (x, y) = (x as f64, y as f64);
            self.signal += x * x;
            self.other += y * y;
            self.product += x * y;
            self.noise += (x - y) * (x - y);
        }
    }

    fn sqnr(self) -> f64 {
        if self.noise == 0.0 { f64::INFINITY } else { 10.0 * (self.signal / self.noise).log10() }
    }

    fn cosine(self) -> f64 {
        // Two vectors of zeros point the same way.
        if self.noise == 0.0 { 1.0 } else { self.product / (self.signal * self.other).sqrt() }
    }
}

/// A tensor in both graphs.
struct Pair {
    name: String,
    operator: String,
    float: ValueId,
    int8: ValueId,
    scale: f32,
    zero_point: i32,
    grid: Grid,
}

/// The tensors that `int8` quantizes and `float` has too, in the order of `float`.
fn pairs(float: &Graph, int8: &Graph) -> Result<Vec<Pair>, Error> {
    let mut found = Vec::new();
    for id in int8.order()? {
        let node = int8.node(id);
        if node.is::<QuantizeLinear>().is_none() {
            continue;
        }
        let (Some(x), Some(scale)) = (node.ins[0], node.ins[1].and_then(|s| int8.tensor(s))) else {
            continue;
        };
        let readers = int8.consumers(id.into());
        let Some(back) = readers.iter().find(|r| int8.node(r.0).is::<DequantizeLinear>().is_some()) else {
            continue;
        };
        let names = [&int8.value(x).name, &int8.value(back.0.into()).name];
        let Some(same) = names.into_iter().find_map(|name| float.find(name)) else { continue };
        let same_shape = float.ty(same).rank() == int8.ty(x).rank();
        if scale.len() != 1 || float.constant(same).is_some() || !same_shape {
            continue;
        }
        let zero_point = node.ins.get(2).copied().flatten().and_then(|z| int8.tensor(z));
        let grid = match zero_point.map(Tensor::dtype) {
            Some(DType::I8) => Grid::I8,
            None | Some(DType::U8) => Grid::U8,
            Some(_) => continue,
        };
        found.push(Pair {
            name: float.value(same).name.clone(),
            operator: float.node(same.node).op().map_or("input".into(), |op| op.name().to_string()),
            float: same,
            int8: back.0.into(),
            scale: scale.to_f32()[0],
            zero_point: zero_point.map_or(0, |z| z.to_i64()[0] as i32),
            grid,
        });
    }
    let order = float.order()?;
    let place = |p: &Pair| order.iter().position(|&id| id == p.float.node);
    found.sort_by_key(place);
    found.dedup_by(|a, b| a.float == b.float);
    Ok(found)
}

/// A graph that is run, and the tensors of it that are looked at: outputs of the model, then the pairs.
fn watch(graph: &Graph, pairs: impl Iterator<Item = ValueId>) -> Result<(Graph, Vec<String>), Error> {
    let mut graph = graph.clone();
    let outputs: Vec<_> = graph.outputs().iter().map(|o| (o.name.clone(), o.value)).collect();
    // Outputs of the model keep their names; the others get some that nobody else has.
    let inside = pairs.enumerate().map(|(i, v)| (format!("\u{1}{i}"), v));
    let watched: Vec<_> = outputs.into_iter().chain(inside).collect();
    let names = watched.iter().map(|(name, _)| name.clone()).collect();
    graph.set_outputs(watched);
    graph.sweep();
    passes::evaluation().run(&mut graph)?;
    Ok((graph, names))
}

/// A float model and an int8 model made of it, layer by layer.
struct Side {
    float: Graph,
    int8: Graph,
    /// Names under which both graphs put out what is compared; outputs of the model come first.
    names: Vec<(String, String)>,
    pairs: Vec<Pair>,
}

impl Side {
    fn new(float: &Graph, int8: &Graph) -> Result<Side, Error> {
        let pairs = pairs(float, int8)?;
        let (float, float_names) = watch(float, pairs.iter().map(|p| p.float))?;
        let (int8, int8_names) = watch(int8, pairs.iter().map(|p| p.int8))?;
        let names = float_names.into_iter().zip(int8_names).collect();
        Ok(Side { float, int8, names, pairs })
    }

    /// Mean signal-to-noise ratio of the layers on one batch, cut off where it no longer matters.
    fn likeness(&self, data: &Dataset, batch: &Batch) -> Result<f64, Error> {
        let (mut float, mut int8) = (Runner::new(&self.float, data), Runner::new(&self.int8, data));
        let (a, b) = (float.run(batch)?, int8.run(batch)?);
        let mut ratios = Vec::new();
        for (x, y) in &self.names[self.names.len() - self.pairs.len()..] {
            let mut sums = Sums::default();
            sums.add(&a.output(x)?.to_f32(), &b.output(y)?.to_f32());
            ratios.push(sums.sqnr().clamp(-20.0, 60.0));
        }
        Ok(ratios.iter().sum::<f64>() / ratios.len().max(1) as f64)
    }
}

/// Runs both models on the same data and compares outputs, class scores and every tensor that the int8 model quantizes. The
/// int8 model is computed on integers, as runtimes do. `done` hears of each batch: samples so far, and all.
///
/// # Errors
/// When the models have not the same inputs and outputs, or the data does not fit.
pub fn compare(
    float: &Model,
    int8: &Model,
    data: &Dataset,
    batch: usize,
    done: &mut dyn FnMut(usize, usize),
) -> Result<Comparison, Error> {
    let plain = {
        let mut graph = float.graph.clone();
        train::strip_loss(&mut graph);
        passes::normalize(&mut graph, Normalize { fold_batch_norm: false })?;
        graph
    };
    same_interface(&plain, &int8.graph)?;
    let batch = train::batch_size(&plain, train::batch_size(&int8.graph, batch)).min(data.len().max(1));
    let batches = Batches::new(data.len(), batch, Order::Stored, Last::Keep)?;

    let mut side = Side::new(&plain, &int8.graph)?;
    let mut equalized = plain.clone();
    let report = Pipeline::new().then(Equalize).run(&mut equalized)?;
    let mut is_equalized = false;
    // Whether the int8 model was equalized is not written in it, but its tensors show it.
    if report.lines.iter().any(|l| matches!(l.verdict, passes::Verdict::Done(_))) {
        let first = &data.batch(&(0..batch).collect::<Vec<_>>())?;
        let other = Side::new(&equalized, &int8.graph)?;
        if other.likeness(data, first)? > side.likeness(data, first)? {
            (side, is_equalized) = (other, true);
        }
    }

    let outputs = side.names.len() - side.pairs.len();
    let scores = float.signature().scores.and_then(|s| side.names.iter().position(|n| n.0 == s));
    let mut classes = scores.map(|_| Classes::default());
    let mut sums = vec![Sums::default(); side.names.len()];
    let mut own = vec![Sums::default(); side.pairs.len()];
    let mut samples = 0;
    let (mut a, mut b) = (Runner::new(&side.float, data), Runner::new(&side.int8, data));
    for batch in Loader::new(data, batches, View::Plain) {
        let batch = &batch?;
        let (a, b) = (a.run(batch)?, b.run(batch)?);
        for (i, (x, y)) in side.names.iter().enumerate() {
            let (x, y) = (a.output(x)?, b.output(y)?);
            if x.shape() != y.shape() {
                let problem =
                    format!("is {:?} in the float model, {:?} in the int8 model", x.shape(), y.shape());
                return Err(Error::Usage(format!(
                    "'{}' {problem}: these are not the same network",
                    side.names[i].0
                )));
            }
            let (x, y) = (x.to_f32(), y.to_f32());
            sums[i].add(&x, &y);
            if let Some(p) = i.checked_sub(outputs) {
                own[p].add(&x, &quantized(&side.pairs[p], &x));
            }
            if let (Some(classes), true) = (&mut classes, Some(i) == scores) {
                let labels = data.labels().map(|_| &batch.labels[..]);
                classes.add(&batch.samples, labels, &x, &y);
            }
        }
        samples += batch.samples.len();
        done(samples, data.len());
    }
    let output = |(i, sums): (usize, &Sums)| Output {
        name: side.names[i].0.clone(),
        sqnr: sums.sqnr(),
        cosine: sums.cosine(),
    };
    let layer = |(p, (sums, own)): (&Pair, (&Sums, &Sums))| Layer {
        name: p.name.clone(),
        operator: p.operator.clone(),
        sqnr: sums.sqnr(),
        own: own.sqnr(),
    };
    Ok(Comparison {
        samples,
        classes,
        outputs: sums[..outputs].iter().enumerate().map(output).collect(),
        layers: side.pairs.iter().zip(sums[outputs..].iter().zip(&own)).map(layer).collect(),
        equalized: is_equalized,
    })
}

/// A float tensor as the int8 model would write it down.
fn quantized(pair: &Pair, x: &[f32]) -> Vec<f32> {
    let (scale, zero_point) = ([pair.scale], [pair.zero_point]);
    let mut y = vec![0.0; x.len()];
    let scales = Scales::affine(&scale, &zero_point);
    fake_quantize(Quantizer::onnx(pair.grid), Axis::whole(x.len()), scales, x, &mut y);
    y
}

impl Classes {
    fn add(&mut self, samples: &[usize], labels: Option<&[i64]>, float: &[f32], int8: &[f32]) {
        let classes = float.len() / samples.len().max(1);
        if classes == 0 {
            return;
        }
        if let Some(labels) = labels {
            self.float.get_or_insert_default().count(float, classes, labels);
            self.int8.get_or_insert_default().count(int8, classes, labels);
        }
        let rows = float.chunks_exact(classes).zip(int8.chunks_exact(classes));
        for (i, (float, int8)) in rows.enumerate() {
            let (of_float, of_int8) = (largest(float), largest(int8));
            if of_float != of_int8 {
                self.differing.push(Difference {
                    sample: samples[i],
                    label: labels.map(|l| l[i]),
                    float: of_float,
                    int8: of_int8,
                    margin: float[of_float] - float[of_int8],
                });
            }
        }
    }
}

/// Number of the largest score, the first of equals.
fn largest(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, &s)| if s > row[best] { i } else { best })
}

/// Refuses models that do not take and give the same.
fn same_interface(float: &Graph, int8: &Graph) -> Result<(), Error> {
    let inputs = |g: &Graph| g.inputs().iter().map(|&i| g.node(i).name.clone()).collect::<Vec<_>>();
    let outputs = |g: &Graph| g.outputs().iter().map(|o| o.name.clone()).collect::<Vec<_>>();
    for (what, a, b) in [("inputs", inputs(float), inputs(int8)), ("outputs", outputs(float), outputs(int8))]
    {
        if a != b {
            let (a, b) = (a.join(", "), b.join(", "));
            return Err(Error::Usage(format!(
                "the {what} of the float model are {a}, those of the int8 model {b}: these are not the same network"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_and_angles() {
        let mut sums = Sums::default();
        sums.add(&[1.0, 0.0, 2.0], &[1.0, 0.5, 2.0]);
        assert!((sums.sqnr() - 10.0 * 20f64.log10()).abs() < 1e-12);
        assert!((sums.cosine() - 5.0 / (5.0f64 * 5.25).sqrt()).abs() < 1e-12);
        assert_eq!((Sums::default().sqnr(), Sums::default().cosine()), (f64::INFINITY, 1.0));
    }

    #[test]
    fn differing_samples_are_counted_with_their_margin() {
        let mut classes = Classes::default();
        classes.add(&[4, 5], Some(&[1, 0]), &[0.0, 1.0, 3.0, 2.5], &[0.0, 1.0, 2.0, 2.5]);
        let expected = Difference { sample: 5, label: Some(0), float: 0, int8: 1, margin: 0.5 };
        assert_eq!(classes.differing, [expected]);
        assert_eq!(classes.float.map(|a| a.top1), Some(2));
        assert_eq!(classes.int8.map(|a| a.top1), Some(1));
    }
}
