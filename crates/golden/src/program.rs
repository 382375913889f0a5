//! Recorded Paddle programs as graphs.

use crate::case::{Fault, malformed};
use ir::{Dim, Graph, GraphError, Type, ValueId};
use ops::{
    Add, BatchNormalization, ClassLoss, Conv, Flatten, GlobalAveragePool, MatMul, MaxPool, Mul, ReduceForm,
    ReduceMean, Reduction, Relu, SoftmaxCrossEntropyLoss, Sub, Window,
};
use passes::{PACT_GROUP, Preprocess, Site};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use tensor::{DType, Tensor};

/// One operator of a program. Slots and variables have Paddle's names.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Operator {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "in")]
    ins: BTreeMap<String, Vec<String>>,
    out: BTreeMap<String, Vec<String>>,
    attrs: Map<String, Value>,
}

/// The stages of one variant, by name.
pub(crate) type Stages = BTreeMap<String, Vec<Operator>>;

impl Operator {
    /// Part of the forward pass; not of gradients, updates, or the sum of losses.
    pub fn is_forward(&self) -> bool {
        self.attrs.get("op_role").and_then(Value::as_i64) == Some(0)
    }

    fn variable<'a>(&self, slots: &'a BTreeMap<String, Vec<String>>, slot: &str) -> Result<&'a str, Fault> {
        match slots.get(slot).map(Vec::as_slice) {
            Some([name]) => Ok(name),
            _ => Err(malformed(format!("`{}` has not one variable at `{slot}`", self.kind))),
        }
    }

    fn input(&self, slot: &str) -> Result<&str, Fault> {
        self.variable(&self.ins, slot)
    }

    fn output(&self, slot: &str) -> Result<&str, Fault> {
        self.variable(&self.out, slot)
    }

    /// The variable that the operator is named after: its first result.
    fn result(&self) -> Result<&str, Fault> {
        let slot = ["Output", "Y", "Loss", "Out"].into_iter().find(|slot| self.out.contains_key(*slot));
        self.output(slot.unwrap_or("Out"))
    }

    fn attr<T>(&self, name: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T, Fault> {
        let found = self.attrs.get(name).and_then(read);
        found.ok_or_else(|| malformed(format!("`{}` has no usable attribute `{name}`", self.kind)))
    }

    fn number(&self, name: &str) -> Result<f32, Fault> {
        Ok(self.attr(name, Value::as_f64)? as f32)
    }

    fn size(&self, name: &str) -> Result<usize, Fault> {
        self.attr(name, |v| usize::try_from(v.as_u64()?).ok())
    }

    fn sizes(&self, name: &str) -> Result<Vec<usize>, Fault> {
        self.attr(name, |v| v.as_array()?.iter().map(|x| usize::try_from(x.as_u64()?).ok()).collect())
    }

    /// The window of a convolution or a pool; Paddle pads begin and end alike.
    fn window(&self, kernel: Vec<usize>) -> Result<Window, Fault> {
        let pads = self.sizes("paddings")?.repeat(2);
        Ok(Window { kernel, strides: self.sizes("strides")?, pads, ..Window::default() })
    }
}

/// What is wrong with a graph is wrong with its case.
pub(crate) fn graph_fault(e: GraphError) -> Fault {
    malformed(e.to_string())
}

/// Values by the names of their variables.
type Values = BTreeMap<String, ValueId>;

fn value(values: &Values, name: &str) -> Result<ValueId, Fault> {
    values.get(name).copied().ok_or_else(|| malformed(format!("nothing gives `{name}`")))
}

/// Adds an operator; its result gets the name that it has in Paddle.
fn emit(graph: &mut Graph, values: &mut Values, op: &Operator) -> Result<ValueId, Fault> {
    let name = op.result()?.to_string();
    let of = |values: &Values, slot: &str| value(values, op.input(slot)?);
    let x = |values: &Values| of(values, "X");
    let added = match op.kind.as_str() {
        "conv2d" | "depthwise_conv2d" => {
            let conv = Conv { window: op.window(vec![])?, group: op.size("groups")? };
            graph.add(conv, &[of(values, "Input")?, of(values, "Filter")?], &name)
        }
        "batch_norm" => {
            let norm = BatchNormalization {
                epsilon: op.number("epsilon")?,
                momentum: op.number("momentum")?,
                training: false,
            };
            let ins = ["X", "Scale", "Bias", "Mean", "Variance"].map(|slot| of(values, slot));
            graph.add(norm, &ins.into_iter().collect::<Result<Vec<_>, _>>()?, &name)
        }
        "relu" => graph.add(Relu, &[x(values)?], &name),
        "pool2d" => {
            let (kernel, kind) =
                (op.sizes("ksize")?, op.attr("pooling_type", |v| Some(v.as_str()?.to_string()))?);
            match (kind.as_str(), op.attr("adaptive", Value::as_bool)?) {
                ("max", false) => graph.add(
                    MaxPool { window: op.window(kernel)?, ..MaxPool::default() },
                    &[x(values)?],
                    &name,
                ),
                ("avg", true) if kernel == [1, 1] => graph.add(GlobalAveragePool, &[x(values)?], &name),
                _ => return Err(malformed(format!("this pooling is not understood: {:?}", op.attrs))),
            }
        }
        "elementwise_add" => graph.add(Add, &[x(values)?, of(values, "Y")?], &name),
        "elementwise_sub" => graph.add(Sub, &[x(values)?, of(values, "Y")?], &name),
        "scale" if op.number("bias")? == 0.0 => {
            let by = graph.add_const(&format!("{name}_factor"), Tensor::scalar(op.number("scale")?));
            graph.add(Mul, &[x(values)?, by], &name)
        }
        "mul" if op.size("x_num_col_dims")? == 1 => {
            let x = x(values)?;
            // Paddle multiplies a tensor of more axes as a matrix. It quantizes the one under the name of the other.
            let matrix = match graph.ty(x).rank() {
                Some(2) => x,
                _ => {
                    let flat =
                        graph.add(Flatten::default(), &[x], &format!("{name}_rows")).map_err(graph_fault)?;
                    graph.swap_names(x, flat);
                    flat
                }
            };
            graph.add(MatMul, &[matrix, of(values, "Y")?], &name)
        }
        "softmax_with_cross_entropy" => {
            let loss = ClassLoss { reduction: Reduction::None, ignore_index: None };
            let ins = [of(values, "Logits")?, of(values, "Label")?];
            graph.add(SoftmaxCrossEntropyLoss { loss }, &ins, &name)
        }
        "reduce_mean" => {
            let form = ReduceForm { keep_dims: false, ..ReduceForm::default() };
            graph.add(ReduceMean { form }, &[x(values)?], &name)
        }
        other => return Err(malformed(format!("the program has a `{other}`, which is not understood"))),
    };
    let added = added.map_err(graph_fault)?;
    values.insert(name, added);
    Ok(added)
}

/// A graph with a loss, made of the forward pass of a program.
pub(crate) struct Network {
    pub graph: Graph,
    /// Name of the input for images.
    pub image: String,
    /// Name of the input for labels.
    pub label: String,
}

/// Names of the graph outputs.
pub(crate) const LOSS: &str = "loss";
pub(crate) const LOGITS: &str = "logits";

impl Network {
    /// Builds the forward pass. `parameters` are the variables that hold a value; what else is read must come from
    /// outside: labels, `[N]`, and an input of the shape `image`.
    pub fn build(
        program: &[Operator],
        parameters: &BTreeMap<&str, &Tensor>,
        image: &[usize],
    ) -> Result<Network, Fault> {
        let mut graph = Graph::new("recorded");
        let mut values = Values::new();
        let (mut data, mut label, mut logits, mut last) = (None, None, None, None);
        let batch = *image.first().ok_or_else(|| malformed("images have no shape"))?;
        for op in program.iter().filter(|op| op.is_forward()) {
            for (slot, name) in op.ins.iter().flat_map(|(slot, names)| names.iter().map(move |n| (slot, n))) {
                if values.contains_key(name) {
                    continue;
                }
                let leaf = match parameters.get(name.as_str()) {
                    Some(tensor) => graph.add_const(name, (*tensor).clone()),
                    None if slot == "Label" => {
                        label = Some(name.clone());
                        graph.add_input(name, Type::new(DType::I64, [batch]))
                    }
                    None if data.is_none() => {
                        data = Some(name.clone());
                        graph.add_input(name, Type::new(DType::F32, image.iter().copied().map(Dim::Fixed)))
                    }
                    None => return Err(malformed(format!("nothing gives `{name}`"))),
                };
                values.insert(name.clone(), leaf);
            }
            if op.ins.contains_key("Logits") {
                logits = Some(value(&values, op.input("Logits")?)?);
            }
            last = Some(emit(&mut graph, &mut values, op)?);
        }
        let missing = |what: &str| malformed(format!("the program has no {what}"));
        graph.add_output(LOSS, last.ok_or_else(|| missing("operator"))?);
        graph.add_output(LOGITS, logits.ok_or_else(|| missing("logits"))?);
        let (image, label) =
            (data.ok_or_else(|| missing("images"))?, label.ok_or_else(|| missing("labels"))?);
        Ok(Network { graph, image, label })
    }
}

/// The pre-process function that the user gave to PaddleSlim, as its program records it: operator by operator, so that each
/// has an output scale.
pub(crate) struct Replayed {
    pub program: Vec<Operator>,
    pub thresholds: BTreeMap<String, f32>,
}

impl Replayed {
    fn emit(&self, graph: &mut Graph, site: &Site) -> Result<ValueId, Fault> {
        let parameter = format!("{}_tmp_input_pact", site.name);
        let initial = self.thresholds.get(&site.name);
        let initial = *initial.ok_or_else(|| malformed(format!("`{}` has no threshold", site.name)))?;
        let role = ir::Role::Param(PACT_GROUP.into());
        let threshold =
            graph.add_variable(&format!("{}_threshold", site.name), Tensor::new(&[1], vec![initial]), role);
        let mut values = Values::from([(site.name.clone(), site.value), (parameter.clone(), threshold)]);
        // The operators that compute from the threshold, directly or not, and from nothing else but the tensor.
        let mut own: Vec<&str> = vec![&parameter];
        let mut result = None;
        for op in self.program.iter().filter(|op| op.is_forward()) {
            let reads = || op.ins.values().flatten();
            let is_own = |name: &String| own.contains(&name.as_str());
            if reads().any(is_own) && reads().all(|name| is_own(name) || *name == site.name) {
                result = Some(emit(graph, &mut values, op)?);
                own.push(op.result()?);
            }
        }
        result.ok_or_else(|| malformed(format!("the program does not process `{}`", site.name)))
    }
}

impl Preprocess for Replayed {
    fn insert(&self, graph: &mut Graph, site: &Site) -> Result<ValueId, GraphError> {
        self.emit(graph, site).map_err(|fault| match fault {
            Fault::Malformed(what) | Fault::Refused(what) => {
                GraphError { place: format!("tensor \"{}\"", site.name), what }
            }
        })
    }
}
