//! `dynamic-quantize`: products with a constant matrix in int8, without data. The range of the other operand is found anew
//! at every run.
//!
//! ```text
//! fc = Gemm (x, w, b)                                   # w: float[64,10], b: float[10]
//! ->
//! x_quantized, x_scale, x_zero_point = DynamicQuantizeLinear (x)
//! fc_integer = MatMulInteger (x_quantized, w_quantized, x_zero_point, w_zero_point)
//! fc_integer_cast = Cast <to=1> (fc_integer)
//! fc_scale = Mul (x_scale, w_scale)
//! fc_product = Mul (fc_integer_cast, fc_scale)
//! fc = Add (fc_product, b)                              # w_quantized: uint8[64,10], w_scale: float[10]
//! ```
//!
//! ONNX Runtime fuses these nodes into one `DynamicQuantizeMatMul`, or into `MatMulIntegerToFloat` where several products
//! share the codes of one tensor. A convolution has no such form that runs fast; it needs ranges from data.

use crate::config::QuantConfig;
use crate::pass::{Pass, Report, operations, supersede};
use crate::selection::Selection;
use ir::{Graph, GraphError, NodeId, Op, QuantRole, ValueId};
use kernels::quant::{
    Axis, Extremes, Grid, Quantizer, Scales, extremes, extremes_channels, quantize_i8, quantize_u8,
};
use observe::Range;
use observe::scale::{self, Affine};
use ops::{Add, Cast, DynamicQuantizeLinear, Gemm, MatMul, MatMulInteger, Mul};
use std::collections::BTreeMap;
use std::sync::Arc;
use tensor::{DType, Tensor};

/// The codes of a weight beside uint8 activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DynamicWeights {
    /// uint8, asymmetric. Exact everywhere.
    #[default]
    Uint8,
    /// int8, symmetric. x86 without VNNI instructions adds neighbouring products in 16 bits, which saturate where both are
    /// large: results may be far off there. 7-bit weights (`weight_bits`) cannot saturate.
    Int8,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct DynamicQuantize {
    /// Which operators, one scale per column of a weight or one in all (`weight_quantize_type`), and the bits of weights,
    /// 2 to 8.
    pub config: QuantConfig,
    /// The codes of weights.
    pub weights: DynamicWeights,
}

/// Smaller weights gain nothing: the range of the activation and the further nodes take more than the product saves.
const WORTH: usize = 256;
/// The largest uint8 times the largest uint8 fits this many times into int32.
const LONGEST: usize = i32::MAX as usize / (255 * 255);

impl Pass for DynamicQuantize {
    fn name(&self) -> &'static str {
        "dynamic-quantize"
    }

    fn run(&self, graph: &mut Graph, report: &mut Report) -> Result<(), GraphError> {
        let selection = Selection::of(graph, &self.config)?;
        let mut activations = BTreeMap::new();
        let mut weights = BTreeMap::new();
        for id in operations(graph)? {
            let label = graph.node(id).label();
            let product = match self.find(graph, &selection, id) {
                None => continue,
                Some(Ok(product)) => product,
                Some(Err(why)) => {
                    report.skip(self.name(), label, why);
                    continue;
                }
            };
            let Product { x, w, transposed, bias } = product;
            let weight = match weights.get(&(w, transposed)) {
                Some(&weight) => weight,
                None => match self.weight(graph, w, transposed) {
                    Ok(weight) => *weights.entry((w, transposed)).or_insert(weight),
                    Err(why) => {
                        report.skip(self.name(), label, why);
                        continue;
                    }
                },
            };
            let codes = match activations.get(&x) {
                Some(&codes) => codes,
                None => *activations.entry(x).or_insert(quantize(graph, x)?),
            };
            emit(graph, id, codes, weight, bias)?;
            let (bits, one) = (self.config.weight_bits, graph.ty(weight.scale).rank() == Some(0));
            let sign = if self.weights == DynamicWeights::Uint8 { "u" } else { "" };
            let grain = if one { "one scale" } else { "a scale per column" };
            let what = format!("{sign}int{bits} weight, {grain}");
            report.done(self.name(), label, format!("{what}, activation quantized at run time"));
        }
        Ok(())
    }
}

/// A product that can be computed with codes.
struct Product {
    x: ValueId,
    w: ValueId,
    /// The weight is `(columns, inner)`.
    transposed: bool,
    bias: Option<ValueId>,
}

/// Codes with their scale and their zero point.
#[derive(Clone, Copy)]
struct Codes {
    codes: ValueId,
    scale: ValueId,
    zero_point: ValueId,
}

impl DynamicQuantize {
    /// The product that a node is; `None` where nothing is weighted, a sentence where it is left as it is.
    fn find(&self, graph: &Graph, selection: &Selection, id: NodeId) -> Option<Result<Product, String>> {
        let node = graph.node(id);
        let op = node.op()?;
        let QuantRole::Weighted { data, weight, bias, .. } = op.quant() else { return None };
        let transposed = op.is::<Gemm>().map(|g| g.trans_b).or(op.is::<MatMul>().map(|_| false));
        let operand = |slot: usize| node.ins.get(slot).copied().flatten();
        let (x, w) = (operand(data)?, operand(weight)?);
        Some((|| {
            selection.takes(op.name(), &node.name)?;
            let transposed = transposed
                .ok_or("only matrix products gain without data; ranges from data are needed here")?;
            let Some(t) = graph.constant(w) else { return Err("its second operand is computed".to_string()) };
            let &[rows, columns] = t.shape() else {
                return Err(format!("its second operand has shape {:?} and is no matrix", t.shape()));
            };
            let inner = if transposed { columns } else { rows };
            if t.dtype() != DType::F32 || graph.ty(x).dtype.is_some_and(|d| d != DType::F32) {
                return Err("it does not compute in float".to_string());
            }
            if t.len() < WORTH {
                return Err(format!("its weight has {} elements only", t.len()));
            }
            if inner > LONGEST {
                return Err(format!("sums of {inner} products can exceed int32"));
            }
            Ok(Product { x, w, transposed, bias: operand(bias) })
        })())
    }

    /// Adds the codes of a weight as constants, `(inner, columns)`.
    fn weight(&self, graph: &mut Graph, w: ValueId, transposed: bool) -> Result<Codes, String> {
        let name = graph.value(w).name.clone();
        let t = graph.constant(w).ok_or("its weight is computed")?;
        let &[rows, columns] = t.shape() else { return Err("its weight is no matrix".into()) };
        let (values, [inner, columns]) = match transposed {
            false => (t.to_f32(), [rows, columns]),
            true => (transpose(&t.to_f32(), rows, columns), [columns, rows]),
        };
        let all = extremes(&values);
        if !all.finite {
            return Err("its weight holds NaN or infinite values".into());
        }
        // One group of elements for each scale.
        let (axis, scale_shape): (_, &[usize]) = match self.config.weight_quantize_type.per_channel() {
            true => (Axis { outer: inner, channels: columns, inner: 1 }, &[columns]),
            false => (Axis::whole(values.len()), &[]),
        };
        let mut ranges = vec![all; axis.channels];
        extremes_channels(axis, &values, &mut ranges);
        let bits = self.config.weight_bits;
        let no_grid = || format!("weights of {bits} bits are not emitted");
        let shape = [inner, columns];
        let (codes, scale, zero_point) = match self.weights {
            DynamicWeights::Uint8 => {
                let grid = Grid::unsigned(bits).filter(|_| bits <= 8).ok_or_else(no_grid)?;
                let affine = |r: &Extremes| scale::asymmetric(Range { min: r.min, max: r.max }, grid);
                let affine: Vec<Affine> = ranges.iter().map(affine).collect();
                let scale: Vec<f32> = affine.iter().map(|a| a.scale).collect();
                let zero_point: Vec<i32> = affine.iter().map(|a| a.zero_point).collect();
                let mut codes = vec![0u8; values.len()];
                let scales = Scales::affine(&scale, &zero_point);
                quantize_u8(Quantizer::onnx(grid), axis, scales, &values, &mut codes);
                let zero_point = zero_point.into_iter().map(|z| z as u8).collect();
                (Tensor::new(&shape, codes), scale, Tensor::new(scale_shape, zero_point))
            }
            DynamicWeights::Int8 => {
                let grid = Grid::narrow(bits).filter(|_| bits <= 8).ok_or_else(no_grid)?;
                let abs_max: Vec<f32> = ranges.into_iter().map(Extremes::abs_max).collect();
                let scale = scale::weight(&abs_max, grid);
                let mut codes = vec![0i8; values.len()];
                let scales = Scales::symmetric(&scale);
                quantize_i8(Quantizer::onnx(grid), axis, scales, &values, &mut codes);
                (Tensor::new(&shape, codes), scale, Tensor::new(scale_shape, vec![0i8; axis.channels]))
            }
        };
        let scale = Tensor::new(scale_shape, scale);
        let mut add = |what: &str, value| graph.add_const(&format!("{name}_{what}"), value);
        let codes = add("quantized", codes);
        Ok(Codes { codes, scale: add("scale", scale), zero_point: add("zero_point", zero_point) })
    }
}

/// `(rows, columns)` to `(columns, rows)`.
fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..x.len()).map(|i| x[i % rows * columns + i / rows]).collect()
}

/// Adds the codes of an activation.
fn quantize(graph: &mut Graph, x: ValueId) -> Result<Codes, GraphError> {
    let name = graph.value(x).name.clone();
    let names = ["quantized", "scale", "zero_point"].map(|what| format!("{name}_{what}"));
    let names = names.each_ref().map(String::as_str);
    let label = format!("{name}_quantize");
    let node = graph.add_node(Arc::new(DynamicQuantizeLinear), &[Some(x)], &label, &names)?;
    let result = |out| ValueId { node, out };
    Ok(Codes { codes: result(0), scale: result(1), zero_point: result(2) })
}

/// Puts the product of codes in the place of `id`.
fn emit(graph: &mut Graph, id: NodeId, x: Codes, w: Codes, bias: Option<ValueId>) -> Result<(), GraphError> {
    let (name, origin) = (graph.node(id).name.clone(), graph.node(id).origin.clone());
    let mut add = |op: Arc<dyn Op>, ins: &[ValueId], what: &str| {
        let (ins, name) = (ins.iter().copied().map(Some).collect::<Vec<_>>(), format!("{name}_{what}"));
        let node = graph.add_node(op, &ins, &name, &[&name])?;
        graph.set_origin(node, &origin);
        Ok::<ValueId, GraphError>(node.into())
    };
    let sums = add(Arc::new(MatMulInteger), &[x.codes, w.codes, x.zero_point, w.zero_point], "integer")?;
    let sums = add(Arc::new(Cast { to: DType::F32 }), &[sums], "integer_cast")?;
    let scale = add(Arc::new(Mul), &[x.scale, w.scale], "scale")?;
    let mut result = add(Arc::new(Mul), &[sums, scale], "product")?;
    if let Some(bias) = bias {
        result = add(Arc::new(Add), &[result, bias], "biased")?;
    }
    supersede(graph, id, result.node)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::WeightQuantizeType;
    use crate::fold_constants::evaluate;
    use crate::pass::Verdict;

    /// Numbers in -1..1 that look drawn.
    fn numbers(shape: &[usize], seed: usize) -> Tensor {
        let at = |i: usize| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0;
        Tensor::new(shape, (0..shape.iter().product()).map(at).collect())
    }

    fn types(graph: &Graph) -> Vec<String> {
        operations(graph).unwrap().iter().map(|&id| graph.node(id).op().unwrap().name().to_string()).collect()
    }

    fn run(graph: &mut Graph, pass: &DynamicQuantize) -> Report {
        let mut report = Report::default();
        pass.run(graph, &mut report).unwrap();
        graph.sweep();
        graph.check().unwrap();
        report
    }

    /// Results before and after, which differ by the steps of the codes only.
    fn close(before: &Tensor, after: &Tensor, tolerance: f64) {
        assert_eq!(before.shape(), after.shape());
        for (a, b) in before.to_f64().iter().zip(after.to_f64()) {
            assert!((a - b).abs() < tolerance, "{a} against {b}");
        }
    }

    #[test]
    fn products_keep_their_results() {
        for weights in [DynamicWeights::Int8, DynamicWeights::Uint8] {
            for (trans_b, weight_quantize_type, scales) in [
                (false, WeightQuantizeType::ChannelWiseAbsMax, 10),
                (true, WeightQuantizeType::ChannelWiseAbsMax, 10),
                (true, WeightQuantizeType::AbsMax, 1),
            ] {
                let mut graph = Graph::new("fc");
                let x = graph.add_const("x", numbers(&[3, 32], 1));
                let shape = if trans_b { [10, 32] } else { [32, 10] };
                let w = graph.add_const("w", numbers(&shape, 2));
                let b = graph.add_const("b", numbers(&[10], 3));
                let fc = graph.add(Gemm { trans_b, ..Gemm::default() }, &[x, w, b], "fc").unwrap();
                graph.add_output("fc", fc);
                let before = evaluate(&graph, fc).unwrap();
                let config = QuantConfig { weight_quantize_type, ..QuantConfig::default() };
                let report = run(&mut graph, &DynamicQuantize { config, weights });
                assert_eq!(graph.constant(graph.find("w_scale").unwrap()).unwrap().len(), scales);
                assert!(matches!(&report.lines[..], [line] if matches!(line.verdict, Verdict::Done(_))));
                let want = ["DynamicQuantizeLinear", "Mul", "MatMulInteger", "Cast", "Mul", "Add"];
                let mut found = types(&graph);
                found.sort_unstable();
                let mut want = want.map(String::from).to_vec();
                want.sort_unstable();
                assert_eq!(found, want);
                let y = graph.outputs()[0].value;
                assert_eq!((graph.node(y.node).name.as_str(), graph.value(y).name.as_str()), ("fc", "fc"));
                close(&before, &evaluate(&graph, y).unwrap(), 0.1);
            }
        }
    }

    #[test]
    fn operands_are_quantized_once() {
        let mut graph = Graph::new("attention");
        let x = graph.add_const("x", numbers(&[2, 3, 16], 1));
        let w = graph.add_const("w", numbers(&[16, 16], 2));
        let q = graph.add(MatMul, &[x, w], "q").unwrap();
        let k = graph.add(MatMul, &[x, w], "k").unwrap();
        let v = graph.add(MatMul, &[q, w], "v").unwrap();
        for (name, value) in [("k", k), ("v", v)] {
            graph.add_output(name, value);
        }
        let before = evaluate(&graph, v).unwrap();
        run(&mut graph, &DynamicQuantize::default());
        let count = |name: &str| types(&graph).iter().filter(|t| *t == name).count();
        assert_eq!((count("MatMulInteger"), count("DynamicQuantizeLinear")), (3, 2));
        let codes = graph.nodes().into_iter().filter(|&id| {
            graph.constant(id.into()).is_some_and(|t| t.dtype() == DType::U8 && t.shape().len() == 2)
        });
        assert_eq!(codes.count(), 1);
        close(&before, &evaluate(&graph, graph.outputs()[1].value).unwrap(), 0.3);
    }

    #[test]
    fn weights_of_seven_bits() {
        let mut graph = Graph::new("fc");
        let x = graph.add_const("x", numbers(&[1, 32], 1));
        let w = graph.add_const("w", numbers(&[32, 16], 2));
        let y = graph.add(MatMul, &[x, w], "fc").unwrap();
        graph.add_output("fc", y);
        let config = QuantConfig { weight_bits: 7, ..QuantConfig::default() };
        run(&mut graph, &DynamicQuantize { config, weights: DynamicWeights::Int8 });
        let codes = graph.constant(graph.find("w_quantized").unwrap()).unwrap().to_i64();
        assert_eq!(codes.iter().map(|q| q.abs()).max(), Some(63));
    }

    #[test]
    fn what_is_left_is_told() {
        let mut graph = Graph::new("left");
        let x = graph.add_input("x", ir::Type::new(DType::F32, [1usize, 32]));
        let mut weight = numbers(&[32, 32], 2).to_f32();
        let good = graph.add_const("good", Tensor::new(&[32, 32], weight.clone()));
        weight[5] = f32::NAN;
        let bad = graph.add_const("bad", Tensor::new(&[32, 32], weight));
        let small = graph.add_const("small", numbers(&[32, 2], 3));
        let stack = graph.add_const("stack", numbers(&[2, 32, 32], 3));
        let scaled = Gemm { alpha: 2.0, ..Gemm::default() };
        let results = [
            graph.add(MatMul, &[x, bad], "broken").unwrap(),
            graph.add(MatMul, &[x, small], "tiny").unwrap(),
            graph.add(MatMul, &[x, stack], "stacked").unwrap(),
            graph.add(scaled, &[x, good], "scaled").unwrap(),
            graph.add(MatMul, &[x, good], "fc_skip_quant").unwrap(),
        ];
        for (i, y) in results.into_iter().enumerate() {
            graph.add_output(&format!("y{i}"), y);
        }
        let report = run(&mut graph, &DynamicQuantize::default());
        let lines: Vec<String> = report.lines.iter().map(ToString::to_string).collect();
        assert!(lines.iter().all(|l| l.contains("left")), "{lines:?}");
        for why in ["NaN", "64 elements only", "no matrix", "not_quant_pattern"] {
            assert_eq!(lines.iter().filter(|l| l.contains(why)).count(), 1, "{why}: {lines:?}");
        }
        assert!(types(&graph).iter().all(|t| t == "MatMul" || t == "Gemm"));
    }
}
