//! The contract of an operator. This crate names none: it asks.

use crate::{Compose, Evaluate, Layouts, Lower, Step, Subgraph, Type, ValueId, Vjp};
use bytes::Bytes;
use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;
use tensor::{DType, Tensor};

/// The value of one attribute, as ONNX has them.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Attr {
    Int(i64),
    Float(f32),
    Str(String),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strs(Vec<String>),
    Tensor(Tensor),
    /// A sub-graph, read.
    Graph(Subgraph),
    /// Anything else (types, sparse tensors, sub-graphs that could not be read): the encoded `AttributeProto`, untouched.
    Raw(Bytes),
}

/// Attributes in the order in which they print and are written: by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attrs(Vec<(String, Attr)>);

impl Attrs {
    /// No attributes.
    pub fn new() -> Attrs {
        Attrs::default()
    }

    /// Adds or replaces an attribute.
    pub fn set(&mut self, name: &str, value: Attr) {
        match self.0.binary_search_by(|(n, _)| n.as_str().cmp(name)) {
            Ok(i) => self.0[i].1 = value,
            Err(i) => self.0.insert(i, (name.to_string(), value)),
        }
    }

    /// [`Attrs::set`] for building in one expression.
    pub fn with(mut self, name: &str, value: Attr) -> Attrs {
        self.set(name, value);
        self
    }

    /// `with`, unless the value is the default one: only what differs is printed and written.
    pub fn with_int(self, name: &str, value: i64, default: i64) -> Attrs {
        if value == default { self } else { self.with(name, Attr::Int(value)) }
    }

    /// As [`Attrs::with_int`].
    pub fn with_float(self, name: &str, value: f32, default: f32) -> Attrs {
        if value == default { self } else { self.with(name, Attr::Float(value)) }
    }

    /// As [`Attrs::with_int`]; sizes are written as ONNX integers.
    pub fn with_sizes(self, name: &str, value: &[usize], default: &[usize]) -> Attrs {
        if value == default {
            self
        } else {
            self.with(name, Attr::Ints(value.iter().map(|&x| x as i64).collect()))
        }
    }

    /// As [`Attrs::with_int`].
    pub fn with_str(self, name: &str, value: &str, default: &str) -> Attrs {
        if value == default { self } else { self.with(name, Attr::Str(value.into())) }
    }

    /// The attribute of this name.
    pub fn get(&self, name: &str) -> Option<&Attr> {
        self.0.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok().map(|i| &self.0[i].1)
    }

    /// An integer attribute, or `default` where it is absent.
    ///
    /// # Errors
    /// When the attribute is there with another type.
    pub fn int(&self, name: &str, default: i64) -> Result<i64, String> {
        match self.get(name) {
            None => Ok(default),
            Some(Attr::Int(x)) => Ok(*x),
            Some(other) => Err(wrong(name, "an integer", other)),
        }
    }

    /// A float attribute, or `default`. Errors as [`Attrs::int`].
    pub fn float(&self, name: &str, default: f32) -> Result<f32, String> {
        match self.get(name) {
            None => Ok(default),
            Some(Attr::Float(x)) => Ok(*x),
            Some(other) => Err(wrong(name, "a float", other)),
        }
    }

    /// A string attribute, or `default`. Errors as [`Attrs::int`].
    pub fn str<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str, String> {
        match self.get(name) {
            None => Ok(default),
            Some(Attr::Str(x)) => Ok(x),
            Some(other) => Err(wrong(name, "a string", other)),
        }
    }

    /// A list of integers, or `None`. Errors as [`Attrs::int`].
    pub fn ints(&self, name: &str) -> Result<Option<Vec<i64>>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(Attr::Ints(x)) => Ok(Some(x.clone())),
            Some(other) => Err(wrong(name, "a list of integers", other)),
        }
    }

    /// A list of sizes, or `None`.
    ///
    /// # Errors
    /// As [`Attrs::int`], and when a size is negative.
    pub fn sizes(&self, name: &str) -> Result<Option<Vec<usize>>, String> {
        let Some(list) = self.ints(name)? else { return Ok(None) };
        let sizes = list.iter().map(|&x| usize::try_from(x)).collect::<Result<_, _>>();
        sizes.map(Some).map_err(|_| format!("attribute {name} holds a negative size: {list:?}"))
    }

    /// A sub-graph, where the attribute is one that was read.
    pub fn subgraph(&self, name: &str) -> Option<&Subgraph> {
        match self.get(name) {
            Some(Attr::Graph(subgraph)) => Some(subgraph),
            _ => None,
        }
    }

    /// A list of floats, or `None`. Errors as [`Attrs::int`].
    pub fn floats(&self, name: &str) -> Result<Option<Vec<f32>>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(Attr::Floats(x)) => Ok(Some(x.clone())),
            Some(other) => Err(wrong(name, "a list of floats", other)),
        }
    }

    /// In order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Attr)> {
        self.0.iter().map(|(n, a)| (n.as_str(), a))
    }

    /// No attribute at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(String, Attr)> for Attrs {
    fn from_iter<I: IntoIterator<Item = (String, Attr)>>(items: I) -> Attrs {
        let mut attrs = Attrs::new();
        for (name, value) in items {
            attrs.set(&name, value);
        }
        attrs
    }
}

fn wrong(name: &str, expected: &str, found: &Attr) -> String {
    format!("attribute {name} should be {expected}, but is {found:?}")
}

/// An operand as shape inference sees it.
#[derive(Clone, Copy, Debug)]
pub struct Arg<'a> {
    /// Its type.
    pub ty: &'a Type,
    /// Its value, where it is constant.
    pub value: Option<&'a Tensor>,
}

/// The question to [`Op::infer`].
#[derive(Debug)]
pub struct Infer<'a> {
    ins: &'a [Option<Arg<'a>>],
    outs: usize,
}

impl<'a> Infer<'a> {
    /// A question with these operands (holes are omitted optional inputs) for `outs` results.
    pub fn new(ins: &'a [Option<Arg<'a>>], outs: usize) -> Infer<'a> {
        Infer { ins, outs }
    }

    /// Number of operand slots.
    pub fn len(&self) -> usize {
        self.ins.len()
    }

    /// No operands.
    pub fn is_empty(&self) -> bool {
        self.ins.is_empty()
    }

    /// Number of results that the node has.
    pub fn outs(&self) -> usize {
        self.outs
    }

    /// Whether operand `i` is given.
    pub fn has(&self, i: usize) -> bool {
        self.ins.get(i).is_some_and(Option::is_some)
    }

    /// Type of operand `i`.
    ///
    /// # Errors
    /// When it is omitted.
    pub fn ty(&self, i: usize) -> Result<&'a Type, String> {
        self.ins.get(i).copied().flatten().map(|a| a.ty).ok_or_else(|| format!("input {i} is missing"))
    }

    /// Type of operand `i`, which must be floating point where known.
    ///
    /// # Errors
    /// When it is omitted or of another element type.
    pub fn float(&self, i: usize) -> Result<&'a Type, String> {
        let ty = self.ty(i)?;
        match ty.dtype {
            Some(d) if !d.is_float() => Err(format!("input {i} should be floating point, but is {ty}")),
            _ => Ok(ty),
        }
    }

    /// Value of operand `i`, where it is constant.
    pub fn value(&self, i: usize) -> Option<&'a Tensor> {
        self.ins.get(i).copied().flatten().and_then(|a| a.value)
    }
}

/// How an operator behaves when its operands are quantized: what the quantization passes know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuantRole {
    /// Computes in floating point.
    Float,
    /// A product of data with a weight: int8 weight per channel along `axis` of the weight, int32 bias.
    Weighted {
        /// Slot of the data.
        data: usize,
        /// Slot of the weight.
        weight: usize,
        /// Output-channel axis of the weight.
        axis: usize,
        /// Slot of the bias.
        bias: usize,
    },
    /// Computes on codes when every operand and the result are quantized, each with its own scale (Add, Mul, …).
    Rescaling,
    /// Computes in floating point in runtimes, but is written in operators that compute on codes when operand and result are
    /// quantized (HardSwish, HardSigmoid).
    Lowered,
    /// Moves or selects values (MaxPool, Reshape, …): the result has the codes and the scale of operand 0.
    SameScale,
    /// A clamp that the quantizer of its result performs by saturation (Relu, Clip): no pair in front of it.
    Clamp,
    /// Quantized part by part: its composition takes its place in front of quantization (Attention).
    Composite,
    /// A per-channel affine map that is folded into the weighted operator in front of it (batch norm).
    Folded,
}

/// What [`Op::to_onnx`] gives the writer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OnnxForm {
    /// Operator type.
    pub op_type: String,
    /// Its attributes at that opset.
    pub attrs: Attrs,
    /// Constants to pass as further inputs: slot and value (attributes of ours that are inputs there).
    pub inputs: Vec<(usize, Tensor)>,
    /// Operands to pass as attributes instead (inputs of ours that are integer attributes there): slot and name. They
    /// must be constant.
    pub as_attrs: Vec<(usize, String)>,
    /// How many results ONNX has; those of ours behind them are not written. `None`: all.
    pub outs: Option<usize>,
    /// How many results the node must have: with fewer, it means something else there.
    pub fewest: usize,
}

/// One operator with its attributes: everything the compiler knows of it, in one file of the `ops` crate.
pub trait Op: Any + Debug + Send + Sync {
    /// ONNX name.
    fn name(&self) -> &str;

    /// Operator-set domain: empty for ONNX, `qat` for ours.
    fn domain(&self) -> &str {
        ""
    }

    /// Attributes that differ from their defaults, in the form of the newest opset that we know. Printed and compared.
    fn attrs(&self) -> Attrs {
        Attrs::new()
    }

    /// The form to write at `opset`.
    ///
    /// # Errors
    /// When the operator, as it is, cannot be expressed there.
    fn to_onnx(&self, _opset: i64) -> Result<OnnxForm, String> {
        Ok(OnnxForm { op_type: self.name().to_string(), attrs: self.attrs(), ..OnnxForm::default() })
    }

    /// The same operator in a plainer form, where these operands allow it: asked before [`Op::to_onnx`], which sees no
    /// operands.
    fn settled(&self, _cx: &Infer) -> Option<Arc<dyn Op>> {
        None
    }

    /// Types of the results.
    ///
    /// # Errors
    /// A sentence on what is wrong with the operands; the graph adds which node it is.
    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String>;

    /// The only result, where the types of the operands determine it (the shape of a tensor of fixed sizes), or these and the
    /// operands that are constant.
    fn known(&self, _cx: &Infer) -> Option<Tensor> {
        None
    }

    /// The operator in terms of others, whose results are its results: what is run, and differentiated, of an operator
    /// without a kernel of its own. `None`: it has a kernel, or the operands are not known well enough.
    fn compose(&self, _cx: &mut Compose) -> Option<Vec<ValueId>> {
        None
    }

    /// Emits the gradients of the operands (vector-Jacobian product). `None`: this operator has no gradient.
    fn vjp(&self, _cx: &mut Vjp) -> Option<()> {
        None
    }

    /// Binds shapes to a kernel.
    ///
    /// # Errors
    /// When the executor cannot run the operator on these operands.
    fn lower(&self, _cx: &Lower) -> Result<Step, String> {
        Err(format!("the executor has no kernel for {}", self.name()))
    }

    /// An operator that no kernel can be bound for: one that runs sub-graphs, or whose values decide how large the result is.
    /// `None`: [`Op::lower`] does it.
    fn evaluator(&self) -> Option<&dyn Evaluate> {
        None
    }

    /// The last operands, so many, are not written: sub-graphs in the attributes read them by name.
    fn captured(&self) -> usize {
        0
    }

    /// For profiles, and for what is not worth its time: multiplications and additions of an operator that reads its operands
    /// again and again (products, windows), two for each pair of numbers. `None`: its work grows with the sizes of operands and
    /// results alone. Asked with operands that [`Op::lower`] took.
    fn flops(&self, _cx: &Lower) -> Option<u64> {
        None
    }

    /// Behaviour under quantization.
    fn quant(&self) -> QuantRole {
        QuantRole::Float
    }

    /// Which operands and results the kernel wants channels-last.
    fn layouts(&self) -> Layouts {
        Layouts::Plain
    }

    /// Slots that hold a trainable parameter when the operand is a constant (Conv: weight and bias).
    fn params(&self) -> &'static [usize] {
        &[]
    }
}

impl dyn Op {
    /// Whether an attribute is a sub-graph that was read.
    pub fn has_subgraphs(&self) -> bool {
        self.attrs().iter().any(|(_, attr)| matches!(attr, Attr::Graph(_)))
    }

    /// This operator as a concrete type, if it is one.
    pub fn is<T: Op>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

/// What the reader knows of a node when it asks a [`Registry`] for the operator.
#[derive(Clone, Copy, Debug)]
pub struct Parse<'a> {
    /// Attributes as written in the file.
    pub attrs: &'a Attrs,
    /// Version of the operator set.
    pub opset: i64,
    /// Which input slots are given.
    pub ins: usize,
    /// Number of outputs.
    pub outs: usize,
}

/// A parsed operator, and constants for inputs that older opsets had as attributes.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The operator.
    pub op: Arc<dyn Op>,
    /// Inputs to add: slot and value.
    pub inputs: Vec<(usize, Tensor)>,
    /// Floats among the inputs to add have the element type of operand 0: see [`Parsed::typed`].
    pub like_operand: bool,
    /// Inputs that stood elsewhere in older opsets: slot in the file and slot of ours. Done before adding.
    pub moved: Vec<(usize, usize)>,
}

impl<T: Op> From<T> for Parsed {
    fn from(op: T) -> Parsed {
        Parsed { op: Arc::new(op), inputs: Vec::new(), like_operand: false, moved: Vec::new() }
    }
}

impl Parsed {
    /// With floats among the inputs to add rounded to the type of operand 0, where they are to have it and it is a float.
    pub fn typed(mut self, operand: Option<DType>) -> Parsed {
        if let Some(dtype) = operand.filter(|_| self.like_operand) {
            for (_, value) in self.inputs.iter_mut().filter(|(_, value)| value.dtype().is_float()) {
                if let Ok(typed) = Tensor::from_f32(dtype, value.shape(), &value.to_f32()) {
                    *value = typed;
                }
            }
        }
        self
    }
}

/// Finds operators by name, for readers of ONNX and of graph text.
pub trait Registry: Sync {
    /// The operator, or `None` when it is unknown: the reader then keeps the node as [`Opaque`].
    ///
    /// # Errors
    /// A sentence on which attribute is wrong.
    fn parse(&self, domain: &str, op_type: &str, cx: &Parse) -> Option<Result<Parsed, String>>;
}

/// An operator that we do not understand, carried through untouched.
#[derive(Clone, Debug)]
pub struct Opaque {
    /// Operator-set domain.
    pub domain: String,
    /// Operator type.
    pub op_type: String,
    /// Attributes as read.
    pub attrs: Attrs,
    /// See [`Op::captured`].
    pub captured: usize,
}

impl Op for Opaque {
    fn name(&self) -> &str {
        &self.op_type
    }
    fn domain(&self) -> &str {
        &self.domain
    }
    fn attrs(&self) -> Attrs {
        self.attrs.clone()
    }
    fn captured(&self) -> usize {
        self.captured
    }
    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![Type::unknown(); cx.outs()])
    }
}
