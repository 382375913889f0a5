//! The configured quantizers, and the book of what is quantized already.

use crate::config::{Numerics, QuantConfig, WeightQuantizeType};
use crate::fold_constants::evaluate;
use crate::hooks::{Hooks, Quantize, Site, pact_threshold, process, unprocessed};
use crate::tensor_override;
use ir::{Graph, GraphError, Kind, NodeId, QuantRole, Role, ValueId};
use kernels::quant::{Grid, Quantizer, Round};
use observe::{Range, Statistic};
use ops::{AbsMax, ActivationScale, FakeQuant, Observe, Processed, Scheme, WeightScale};
use std::collections::BTreeMap;
use std::sync::Arc;
use tensor::Tensor;

/// Weight scales from the weight itself: `abs_max`, `channel_wise_abs_max`, and Paddle's tracked kinds.
pub struct WeightQuantizer;

/// Activation scales from a tracked range.
pub struct ActivationQuantizer;

fn grid_error(site: &Site) -> GraphError {
    GraphError { place: format!("tensor \"{}\"", site.name), what: "quantizers have 2 to 16 bits".into() }
}

/// Adds the observer of a tensor with its state; returns the state after the batch.
fn track(graph: &mut Graph, site: &Site, statistic: Statistic) -> Result<ValueId, GraphError> {
    let initial = match site.config.numerics {
        Numerics::Deploy => statistic.initial(),
        Numerics::Compat => statistic.initial_paddle(),
    };
    let initial = Tensor::new(&[initial.len()], initial);
    let state = graph.add_variable(&format!("{}_range", site.name), initial, Role::State);
    let next = graph.add(Observe { statistic }, &[site.value, state], &format!("{}_observed", site.name))?;
    if !site.config.scale_trainable {
        return Ok(state);
    }
    graph.set_update(state, next);
    Ok(next)
}

/// Keeps the scales per channel with which a step quantized the weight: Paddle's evaluation and `convert` take them from
/// the last training step, one update behind the weight. They start at those of the weight; at 0 in Paddle.
fn keep(graph: &mut Graph, site: &Site, scales: ValueId) -> Result<ValueId, GraphError> {
    let Some(initial) = evaluate(graph, scales) else { return Ok(scales) };
    let kept = graph.add_variable(&format!("{}_scale", site.name), initial, Role::State);
    if !site.config.scale_trainable {
        return Ok(kept);
    }
    graph.set_update(kept, scales);
    Ok(scales)
}

/// Paddle's arithmetic of the configured format.
fn paddle(config: &QuantConfig, bits: u32) -> Option<Quantizer> {
    Quantizer::paddle(bits, if config.onnx_format { Round::HalfEven } else { Round::HalfAway })
}

impl Quantize for WeightQuantizer {
    fn insert(&self, graph: &mut Graph, site: &Site) -> Result<ValueId, GraphError> {
        let config = site.config;
        let axis = site.axis.filter(|_| config.weight_quantize_type.per_channel());
        let name = &site.name;
        let second_format = config.numerics == Numerics::Compat && config.onnx_format;
        let statistic = match config.weight_quantize_type {
            // Learned scales begin there, too.
            WeightQuantizeType::ChannelWiseAbsMax
            | WeightQuantizeType::LsqWeight
            | WeightQuantizeType::ChannelWiseLsqWeight => None,
            _ if second_format => Some(Statistic::MovingAverageAbsMax { rate: config.moving_rate }),
            WeightQuantizeType::AbsMax => None,
            WeightQuantizeType::RangeAbsMax => Some(Statistic::RangeAbsMax { window: config.window_size }),
            WeightQuantizeType::MovingAverageAbsMax => {
                Some(Statistic::MovingAverageAbsMax { rate: config.moving_rate })
            }
        };
        let grid = Grid::narrow(config.weight_bits).ok_or_else(|| grid_error(site))?;
        let magnitude = match statistic {
            None => {
                let magnitude = graph.add(AbsMax { axis }, &[site.value], &format!("{name}_abs_max"))?;
                match (config.numerics, axis) {
                    (Numerics::Compat, Some(_)) => keep(graph, site, magnitude)?,
                    _ => magnitude,
                }
            }
            Some(statistic) => {
                let state = track(graph, site, statistic)?;
                let scale = ActivationScale { statistic, scheme: Scheme::Paddle, grid };
                pair(graph, scale, &[Some(state)], &format!("{name}_abs_max"))?.0
            }
        };
        let (quantizer, scale) = match config.numerics {
            Numerics::Deploy => {
                let scale = WeightScale { bits: config.weight_bits };
                (Quantizer::onnx(grid), graph.add(scale, &[magnitude], &format!("{name}_scale"))?)
            }
            Numerics::Compat => {
                (paddle(config, config.weight_bits).ok_or_else(|| grid_error(site))?, magnitude)
            }
        };
        // LSQ stops the gradients of weights that saturate, which no other rule lets happen.
        let learned = config.weight_quantize_type.learned();
        let quant = FakeQuant { quantizer, axis, clipped: learned, learned };
        graph.add(quant, &[site.value, scale], &format!("{name}_fq"))
    }
}

/// Adds a node with a scale and a zero point as results.
fn pair(
    graph: &mut Graph,
    op: ActivationScale,
    ins: &[Option<ValueId>],
    name: &str,
) -> Result<(ValueId, ValueId), GraphError> {
    let node = graph.add_node(Arc::new(op), ins, name, &[name, &format!("{name}_zero_point")])?;
    Ok((ValueId { node, out: 0 }, ValueId { node, out: 1 }))
}

impl Quantize for ActivationQuantizer {
    fn insert(&self, graph: &mut Graph, site: &Site) -> Result<ValueId, GraphError> {
        let (config, name) = (site.config, &site.name);
        let statistic = config.statistic();
        let threshold = pact_threshold(graph, site.value);
        let state = track(graph, site, statistic)?;
        let (quantizer, scheme) = match config.numerics {
            Numerics::Compat => (paddle(config, config.activation_bits), Scheme::Paddle),
            Numerics::Deploy => {
                let asymmetric = config.activation_quantize_type.asymmetric();
                let scheme = if asymmetric { Scheme::Asymmetric } else { Scheme::Symmetric };
                (Grid::unsigned(config.activation_bits).map(Quantizer::onnx), scheme)
            }
        };
        let quantizer = quantizer.ok_or_else(|| grid_error(site))?;
        let scale = ActivationScale { statistic, scheme, grid: quantizer.grid };
        let threshold = threshold.filter(|_| config.numerics == Numerics::Deploy);
        let ins: &[Option<ValueId>] =
            if threshold.is_some() { &[Some(state), threshold] } else { &[Some(state)] };
        let (scale, zero_point) = pair(graph, scale, ins, &format!("{name}_scale"))?;
        // PACT stops the gradient itself, at the threshold; a second mask would hide clipped values from it.
        let clipped = config.numerics == Numerics::Deploy && threshold.is_none();
        let ins: &[ValueId] = match config.numerics {
            Numerics::Deploy => &[site.value, scale, zero_point],
            Numerics::Compat => &[site.value, scale],
        };
        let learned = config.activation_quantize_type.learned();
        let quant = FakeQuant { quantizer, axis: None, clipped, learned };
        graph.add(quant, ins, &format!("{name}_fq"))
    }
}

/// Gives the state of an observer a range.
pub(crate) fn hold(
    graph: &mut Graph,
    state: NodeId,
    statistic: Statistic,
    range: Range,
) -> Result<(), GraphError> {
    let value = statistic.holding(range);
    let value = Tensor::new(&[value.len()], value);
    graph.set_leaf(state, Kind::Variable(value, Role::State))
}

/// Shape of the scale of a quantizer.
fn scale_shape(graph: &Graph, quantizer: ValueId) -> Vec<usize> {
    graph.node(quantizer.node).ins[1].and_then(|scale| graph.ty(scale).dims()).unwrap_or_default()
}

/// Inserts quantizers, one per tensor.
pub(crate) struct Inserter<'a> {
    pub config: &'a QuantConfig,
    pub hooks: &'a Hooks,
    /// Weight, and axis of its scales, to its quantized form.
    weights: BTreeMap<(ValueId, usize), ValueId>,
    /// Activation to its quantized form.
    activations: BTreeMap<ValueId, ValueId>,
    /// Those of the activations whose quantized form stands for them among the outputs of the graph, too.
    redirected: BTreeMap<ValueId, ValueId>,
}

/// The operand of a node that only moves values.
fn moved(graph: &Graph, v: ValueId) -> Option<ValueId> {
    let node = graph.node(v.node);
    node.op().filter(|op| op.quant() == QuantRole::SameScale)?;
    node.ins.first().copied().flatten()
}

/// How the origin of a node begins that belongs to a quantizer: `quantize(x)`. By it, a later pass finds the tensor behind
/// whatever a hook put in front of the quantizer.
pub(crate) const MARK: &str = "quantize(";

/// The quantizers that a graph has, by the tensor that they quantize.
fn present(graph: &Graph) -> BTreeMap<ValueId, ValueId> {
    let mut found = BTreeMap::new();
    for id in graph.nodes() {
        if graph.node(id).is::<FakeQuant>().is_none() {
            continue;
        }
        let mut operand = graph.node(id).ins[0];
        while let Some(v) = operand {
            let v = unprocessed(graph, v);
            let node = graph.node(v.node);
            if !node.origin.starts_with(MARK) {
                found.insert(v, id.into());
                break;
            }
            operand = node.ins.first().copied().flatten();
        }
    }
    found
}

impl<'a> Inserter<'a> {
    pub(crate) fn new(graph: &Graph, config: &'a QuantConfig, hooks: &'a Hooks) -> Self {
        // Paddle's two passes know nothing of each other's quantizers.
        let activations = match config.numerics {
            Numerics::Deploy => present(graph),
            Numerics::Compat => BTreeMap::new(),
        };
        let (weights, redirected) = (BTreeMap::new(), BTreeMap::new());
        Inserter { config, hooks, weights, activations, redirected }
    }

    /// Gives the outputs of the graph their quantized form: all at once, as there may be as many of them as of tensors.
    pub(crate) fn finish(self, graph: &mut Graph) {
        let quantized = |v: ValueId| self.redirected.get(&v).copied().unwrap_or(v);
        let outputs: Vec<_> = graph.outputs().iter().map(|o| (o.name.clone(), quantized(o.value))).collect();
        graph.set_outputs(outputs);
    }

    /// The range that the configuration fixes for a tensor.
    fn fixed(&self, name: &str) -> Option<Range> {
        self.config.tensor_overrides.get(name)?.fixed()
    }

    /// Whether a value lies on the grid of a quantizer: it comes from one, directly or through nodes that only move
    /// values.
    pub(crate) fn quantized(&self, graph: &Graph, mut v: ValueId) -> bool {
        while let Some(operand) = moved(graph, v) {
            v = operand;
        }
        graph.producer::<FakeQuant>(v).is_some()
    }

    /// The quantized form of `v` for one reader more. In Paddle, the gradient of all readers but the first passes by a
    /// pre-process.
    fn again(&self, graph: &mut Graph, v: ValueId, q: ValueId) -> Result<ValueId, GraphError> {
        let processed = |x: ValueId| graph.producer::<Processed>(x).is_some();
        if self.config.numerics == Numerics::Deploy || !graph.node(q.node).ins[0].is_some_and(processed) {
            return Ok(q);
        }
        let name = format!("{}_bypassed", graph.value(v).name);
        graph.add(Processed { bypassed: true }, &[q, v], &name)
    }

    /// Quantizes a weight with output channels along `axis`. Readers with the same axis share the quantizer.
    pub(crate) fn weight(
        &mut self,
        graph: &mut Graph,
        v: ValueId,
        axis: usize,
    ) -> Result<ValueId, GraphError> {
        if let Some(&q) = self.weights.get(&(v, axis)) {
            return self.again(graph, v, q);
        }
        let name = graph.value(v).name.clone();
        let config = tensor_override::of_tensor(self.config, &name);
        let mut site = Site { value: v, name, axis: Some(axis), config: &config };
        if let Some(hook) = &self.hooks.weight_preprocess {
            site.value = process(&**hook, graph, &site)?;
        }
        let q = match &self.hooks.weight_quantize {
            Some(hook) => hook.insert(graph, &site)?,
            None => WeightQuantizer.insert(graph, &site)?,
        };
        if let Some(range) = self.fixed(&site.name) {
            let (high, shape) =
                (Grid::narrow(config.weight_bits).map_or(127, |g| g.high), scale_shape(graph, q));
            let scale = range.abs_max() / high as f32;
            let scale = Tensor::new(&shape, vec![scale; shape.iter().product()]);
            let scale = graph.add_const(&format!("{}_scale", site.name), scale);
            graph.set_input(q.node, 1, Some(scale));
        }
        self.weights.insert((v, axis), q);
        Ok(q)
    }

    /// Quantizes an activation. Under `Deploy` every reader of the tensor, float ones and, once it is
    /// [finished](Inserter::finish), graph outputs included, gets the quantized form: runtimes fuse only when a tensor has one
    /// quantizer and no other reader.
    pub(crate) fn activation(&mut self, graph: &mut Graph, v: ValueId) -> Result<ValueId, GraphError> {
        if let Some(&q) = self.activations.get(&v) {
            return self.again(graph, v, q);
        }
        if self.config.numerics == Numerics::Compat {
            return self.insert(graph, v);
        }
        // In the place of what nodes only moved here, what they moved is quantized.
        let mut source = v;
        while !self.activations.contains_key(&source)
            && let Some(operand) = moved(graph, source).filter(|&x| graph.constant(x).is_none())
        {
            source = operand;
        }
        if self.activations.contains_key(&source) || graph.producer::<FakeQuant>(source).is_some() {
            return Ok(v);
        }
        let q = self.insert(graph, source)?;
        Ok(if source == v { q } else { v })
    }

    /// Adds the quantizer of an activation.
    fn insert(&mut self, graph: &mut Graph, v: ValueId) -> Result<ValueId, GraphError> {
        let readers: Vec<_> = graph.consumers(v);
        let born = graph.now();
        let name = graph.value(v).name.clone();
        let config = tensor_override::of_tensor(self.config, &name);
        let mut site = Site { value: v, name, axis: None, config: &config };
        if let Some(hook) = &self.hooks.act_preprocess {
            site.value = process(&**hook, graph, &site)?;
        }
        let q = match &self.hooks.act_quantize {
            Some(hook) => hook.insert(graph, &site)?,
            None => ActivationQuantizer.insert(graph, &site)?,
        };
        let origin = format!("{MARK}{})", site.name);
        let fixed = self.fixed(&site.name);
        for id in graph.born_since(born) {
            graph.set_origin(id, &origin);
            if let (Some(range), Kind::Variable(_, Role::State)) = (fixed, &graph.node(id).kind) {
                hold(graph, id, config.statistic(), range)?;
            }
        }
        if self.config.numerics == Numerics::Deploy {
            graph.replace_if(v, q, |reader, slot| readers.contains(&(reader, slot)))?;
            self.redirected.insert(v, q);
        }
        self.activations.insert(v, q);
        Ok(q)
    }
}
