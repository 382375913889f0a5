//! What `RNN`, `GRU` and `LSTM` share: attributes, shape rule, and the loop over time.

use ir::{Attr, Attrs, Dim, Infer, Io, Lower, Parse, Step, Type};
use tensor::DType;

/// The cell that the loop repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Rnn,
    Gru,
    Lstm,
}

impl Cell {
    /// Number of gates: rows of the weights in units of the hidden size.
    fn gates(self) -> usize {
        match self {
            Cell::Rnn => 1,
            Cell::Gru => 3,
            Cell::Lstm => 4,
        }
    }

    /// Activations of one direction, by default.
    fn activations(self) -> &'static [Activation] {
        use Activation::{Sigmoid, Tanh};
        match self {
            Cell::Rnn => &[Tanh],
            Cell::Gru => &[Sigmoid, Tanh],
            Cell::Lstm => &[Sigmoid, Tanh, Tanh],
        }
    }

    /// Slot of the cell state, where there is one, and of the peephole weights behind it.
    fn cell_state(self) -> Option<usize> {
        (self == Cell::Lstm).then_some(6)
    }
}

/// In which order the steps are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// From the first to the last.
    #[default]
    Forward,
    /// From the last to the first.
    Reverse,
    /// Both, with weights of their own.
    Bidirectional,
}

const DIRECTIONS: [(&str, Direction); 3] = [
    ("forward", Direction::Forward),
    ("reverse", Direction::Reverse),
    ("bidirectional", Direction::Bidirectional),
];

/// A function of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Activation {
    Relu,
    Sigmoid,
    Softsign,
    Tanh,
}

const ACTIVATIONS: [(&str, Activation); 4] = [
    ("Relu", Activation::Relu),
    ("Sigmoid", Activation::Sigmoid),
    ("Softsign", Activation::Softsign),
    ("Tanh", Activation::Tanh),
];

impl Activation {
    fn at(self, x: f32) -> f32 {
        match self {
            Activation::Relu => x.max(0.0),
            Activation::Sigmoid => kernels::elementwise::math::sigmoid(x),
            Activation::Softsign => x / (1.0 + x.abs()),
            Activation::Tanh => kernels::elementwise::math::tanh(x),
        }
    }
}

/// Attributes of a recurrent operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Recurrence {
    /// Order of the steps.
    pub direction: Direction,
    /// Size of the state.
    pub hidden: usize,
    /// The batch is the first axis of sequences and states, not time (opset 14).
    pub batch_first: bool,
    /// Bound of what goes into activations, where there is one.
    pub clip: Option<f32>,
    /// Activations of all directions.
    pub activations: Vec<Activation>,
    /// `GRU`: the reset gate multiplies behind the recurrent product, as cuDNN and PyTorch have it.
    pub linear_before_reset: bool,
}

impl Recurrence {
    pub(crate) fn parse(cell: Cell, cx: &Parse) -> Result<Recurrence, String> {
        let name = cx.attrs.str("direction", "forward")?;
        let direction = DIRECTIONS.iter().find(|(n, _)| *n == name).map(|(_, d)| *d);
        let direction = direction.ok_or_else(|| format!("attribute direction is \"{name}\""))?;
        let hidden = cx.attrs.int("hidden_size", 0)?;
        let hidden = usize::try_from(hidden).map_err(|_| format!("attribute hidden_size is {hidden}"))?;
        if cx.attrs.int("input_forget", 0)? != 0 {
            return Err("coupled input and forget gates are not supported".into());
        }
        if ["activation_alpha", "activation_beta"].iter().any(|name| cx.attrs.get(name).is_some()) {
            return Err("activations with parameters are not supported".into());
        }
        let count = if direction == Direction::Bidirectional { 2 } else { 1 };
        let activations = match cx.attrs.get("activations") {
            None => cell.activations().repeat(count),
            Some(Attr::Strs(names)) => names
                .iter()
                .map(|name| {
                    let known =
                        ACTIVATIONS.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, a)| *a);
                    known.ok_or_else(|| format!("the activation {name} is not supported"))
                })
                .collect::<Result<Vec<_>, _>>()?,
            Some(other) => {
                return Err(format!("attribute activations should be a list of names, but is {other:?}"));
            }
        };
        if activations.len() != count * cell.activations().len() {
            return Err(format!(
                "{} activations instead of {}",
                activations.len(),
                count * cell.activations().len()
            ));
        }
        let clip = cx.attrs.float("clip", 0.0)?;
        Ok(Recurrence {
            direction,
            hidden,
            batch_first: cx.attrs.int("layout", 0)? != 0,
            clip: (clip > 0.0).then_some(clip),
            activations,
            linear_before_reset: cx.attrs.int("linear_before_reset", 0)? != 0,
        })
    }

    pub(crate) fn attrs(&self, cell: Cell) -> Attrs {
        let direction = DIRECTIONS.iter().find(|(_, d)| *d == self.direction).map_or("forward", |(n, _)| n);
        let name =
            |a: &Activation| ACTIVATIONS.iter().find(|(_, b)| a == b).map_or("Tanh", |(n, _)| n).to_string();
        let attrs = Attrs::new()
            .with_int("hidden_size", self.hidden as i64, 0)
            .with_str("direction", direction, "forward")
            .with_int("layout", self.batch_first.into(), 0)
            .with_float("clip", self.clip.unwrap_or(0.0), 0.0)
            .with_int("linear_before_reset", self.linear_before_reset.into(), 0);
        match self.activations == cell.activations().repeat(self.directions()) {
            true => attrs,
            false => attrs.with("activations", Attr::Strs(self.activations.iter().map(name).collect())),
        }
    }

    fn directions(&self) -> usize {
        if self.direction == Direction::Bidirectional { 2 } else { 1 }
    }

    /// Sequence, last hidden state, and last cell state of an `LSTM`.
    pub(crate) fn infer(&self, cell: Cell, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, w, r) = (cx.float(0)?, cx.float(1)?, cx.float(2)?);
        let hidden = match (self.hidden, r.shape.as_deref()) {
            (0, Some([_, _, hidden])) => hidden.clone(),
            (n, _) => Dim::Fixed(n),
        };
        let Some(dims) = &x.shape else { return Ok(vec![Type { dtype: x.dtype, shape: None }; 3]) };
        let [first, second, width] = &dims[..] else { return Err(format!("{x} is no batch of sequences")) };
        let (time, batch) = if self.batch_first { (second, first) } else { (first, second) };
        let directions = || Dim::Fixed(self.directions());
        if let Some(n) = hidden.fixed() {
            let expect = |i: usize, what: &str, dims: Vec<Dim>| {
                let fits =
                    cx.ty(i).map_or(true, |t| t.agrees(&Type { dtype: t.dtype, shape: Some(dims.clone()) }));
                if fits {
                    Ok(())
                } else {
                    Err(format!("the {what} {} should have the sizes {dims:?}", cx.ty(i)?))
                }
            };
            let rows = cell.gates() * n;
            expect(1, "weight", vec![directions(), rows.into(), width.clone()])?;
            expect(2, "recurrent weight", vec![directions(), rows.into(), n.into()])?;
            expect(3, "bias", vec![directions(), (2 * rows).into()])?;
            expect(4, "lengths", vec![batch.clone()])?;
            let state = match self.batch_first {
                true => vec![batch.clone(), directions(), n.into()],
                false => vec![directions(), batch.clone(), n.into()],
            };
            expect(5, "initial state", state.clone())?;
            if let Some(c) = cell.cell_state() {
                expect(c, "initial cell state", state)?;
                expect(c + 1, "peephole weight", vec![directions(), (3 * n).into()])?;
            }
        }
        if w.dtype.zip(x.dtype).is_some_and(|(a, b)| a != b) {
            return Err(format!("the weight {w} and the sequences {x} should have one element type"));
        }
        let (sequence, state) = match self.batch_first {
            true => (
                vec![batch.clone(), time.clone(), directions(), hidden.clone()],
                vec![batch.clone(), directions(), hidden],
            ),
            false => (
                vec![time.clone(), directions(), batch.clone(), hidden.clone()],
                vec![directions(), batch.clone(), hidden],
            ),
        };
        let [sequence, state] = [sequence, state].map(|shape| Type { dtype: x.dtype, shape: Some(shape) });
        Ok(vec![sequence, state.clone(), state])
    }

    pub(crate) fn lower(&self, cell: Cell, cx: &Lower) -> Result<Step, String> {
        let (x, r) = (cx.typed::<f32>(0)?, cx.typed::<f32>(2)?);
        for i in (1..cx.ins.len()).filter(|&i| i != 4 && cx.optional(i).is_some()) {
            cx.typed::<f32>(i)?;
        }
        let lengths = match cx.optional(4).map(|l| l.dtype) {
            None => false,
            Some(DType::I32) => true,
            Some(other) => return Err(format!("lengths should be int32, but are {other}")),
        };
        let (time, batch) =
            if self.batch_first { (x.shape[1], x.shape[0]) } else { (x.shape[0], x.shape[1]) };
        let sizes =
            Sizes { time, batch, width: x.shape[2], hidden: r.shape[2], directions: self.directions() };
        let (this, results) = (self.clone(), cx.outs.len());
        let scratch = (cell.gates() + 4) * sizes.hidden;
        let run = move |io: &mut Io| {
            let mut parts = io.split();
            let [sequence, last, last_cell]: [&mut [f32]; 3] =
                std::array::from_fn(|i| if i < results { parts.output(i) } else { &mut [] });
            let scratch = &mut parts.workspace::<f32>()[..scratch];
            sequence.fill(0.0);
            let operand = |i| parts.optional::<f32>(i);
            let cell_slot = cell.cell_state();
            for direction in 0..sizes.directions {
                let rows = cell.gates() * sizes.hidden;
                let part = |i: usize, n: usize| operand(i).map_or(&[][..], |all| &all[direction * n..][..n]);
                let weights = Weights {
                    w: part(1, rows * sizes.width),
                    r: part(2, rows * sizes.hidden),
                    bias: part(3, 2 * rows),
                    peephole: cell_slot.map_or(&[][..], |c| part(c + 1, 3 * sizes.hidden)),
                    activations: &this.activations[direction * cell.activations().len()..],
                };
                let reverse = direction == 1 || this.direction == Direction::Reverse;
                for b in 0..sizes.batch {
                    let steps = if lengths { i64::from(parts.input::<i32>(4)[b]) } else { sizes.time as i64 };
                    let steps = usize::try_from(steps).ok().filter(|&n| n <= sizes.time);
                    let steps = steps.ok_or("a length is below 0 or beyond the sequence")?;
                    let state = this.state_at(&sizes, direction, b);
                    let (h, rest) = scratch.split_at_mut(sizes.hidden);
                    let (c, rest) = rest.split_at_mut(sizes.hidden);
                    let initial = |i: usize, to: &mut [f32]| match operand(i) {
                        Some(all) => to.copy_from_slice(&all[state..][..sizes.hidden]),
                        None => to.fill(0.0),
                    };
                    initial(5, h);
                    match cell_slot {
                        Some(slot) => initial(slot, c),
                        None => c.fill(0.0),
                    }
                    for step in 0..steps {
                        let t = if reverse { steps - 1 - step } else { step };
                        let row = if this.batch_first { b * sizes.time + t } else { t * sizes.batch + b };
                        let x = &operand(0).unwrap_or_default()[row * sizes.width..][..sizes.width];
                        this.step(cell, &weights, x, h, c, rest);
                        if !sequence.is_empty() {
                            let at = match this.batch_first {
                                true => (b * sizes.time + t) * sizes.directions + direction,
                                false => (t * sizes.directions + direction) * sizes.batch + b,
                            };
                            sequence[at * sizes.hidden..][..sizes.hidden].copy_from_slice(h);
                        }
                    }
                    for (to, from) in [(&mut *last, &*h), (&mut *last_cell, &*c)] {
                        if !to.is_empty() {
                            to[state..][..sizes.hidden].copy_from_slice(from);
                        }
                    }
                }
            }
            Ok(())
        };
        Ok(Step::new(run).workspace::<f32>(scratch))
    }

    /// Where the state of a sequence begins in the tensor of all states.
    fn state_at(&self, sizes: &Sizes, direction: usize, batch: usize) -> usize {
        let row = match self.batch_first {
            true => batch * sizes.directions + direction,
            false => direction * sizes.batch + batch,
        };
        row * sizes.hidden
    }

    /// One step in time: the new hidden state `h`, and the new cell state `c` of an LSTM. Scratch holds the gates and two
    /// vectors of the hidden size.
    fn step(
        &self,
        cell: Cell,
        weights: &Weights,
        x: &[f32],
        h: &mut [f32],
        c: &mut [f32],
        scratch: &mut [f32],
    ) {
        let n = h.len();
        let (gates, scratch) = scratch.split_at_mut(cell.gates() * n);
        let clip = |x: f32| self.clip.map_or(x, |limit| x.clamp(-limit, limit));
        let f = |k: usize, x: f32| weights.activations[k].at(clip(x));
        for (i, gate) in gates.iter_mut().enumerate() {
            *gate = dot(&weights.w[i * x.len()..], x) + weights.bias.get(i).copied().unwrap_or(0.0);
        }
        let recurrent = |i: usize, h: &[f32]| {
            dot(&weights.r[i * n..], h) + weights.bias.get(cell.gates() * n + i).copied().unwrap_or(0.0)
        };
        match cell {
            Cell::Rnn => {
                gates.iter_mut().enumerate().for_each(|(i, gate)| *gate += recurrent(i, h));
                h.iter_mut().zip(&*gates).for_each(|(h, &gate)| *h = f(0, gate));
            }
            Cell::Gru => {
                // Gates: update, reset, new state.
                let (reset, candidate) = scratch.split_at_mut(n);
                for (i, gate) in gates[..2 * n].iter_mut().enumerate() {
                    *gate = f(0, *gate + recurrent(i, h));
                }
                for i in 0..n {
                    reset[i] = gates[n + i] * h[i];
                }
                for i in 0..n {
                    let from_state = match self.linear_before_reset {
                        true => gates[n + i] * recurrent(2 * n + i, h),
                        false => recurrent(2 * n + i, reset),
                    };
                    candidate[i] = f(1, gates[2 * n + i] + from_state);
                }
                for i in 0..n {
                    h[i] = (1.0 - gates[i]) * candidate[i] + gates[i] * h[i];
                }
            }
            Cell::Lstm => {
                // Gates: input, output, forget, new cell state.
                gates.iter_mut().enumerate().for_each(|(i, gate)| *gate += recurrent(i, h));
                let peephole =
                    |gate: usize, i: usize| weights.peephole.get(gate * n + i).copied().unwrap_or(0.0);
                for i in 0..n {
                    let input = f(0, gates[i] + peephole(0, i) * c[i]);
                    let forget = f(0, gates[2 * n + i] + peephole(2, i) * c[i]);
                    c[i] = forget * c[i] + input * f(1, gates[3 * n + i]);
                    h[i] = f(0, gates[n + i] + peephole(1, i) * c[i]) * weights.activations[2].at(c[i]);
                }
            }
        }
    }
}

/// Sizes of a batch of sequences.
struct Sizes {
    time: usize,
    batch: usize,
    width: usize,
    hidden: usize,
    directions: usize,
}

/// What one direction reads.
struct Weights<'a> {
    w: &'a [f32],
    r: &'a [f32],
    bias: &'a [f32],
    peephole: &'a [f32],
    activations: &'a [Activation],
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Defines a recurrent operator: its struct, its reader and its [`Op`](ir::Op).
macro_rules! operator {
    ($(#[$doc:meta])* pub struct $name:ident: $cell:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            /// Attributes.
            pub form: crate::recurrent::Recurrence,
        }

        /// Reads the operator. Forms of it that are not computed here are carried through.
        pub fn parse(cx: &ir::Parse) -> Result<ir::Parsed, String> {
            let form = crate::recurrent::Recurrence::parse(crate::recurrent::Cell::$cell, cx);
            let untouched = |_| crate::shapes::untouched(stringify!($name), cx);
            Ok(form.map_or_else(untouched, |form| $name { form }.into()))
        }

        impl ir::Op for $name {
            fn name(&self) -> &str {
                stringify!($name)
            }

            fn attrs(&self) -> ir::Attrs {
                self.form.attrs(crate::recurrent::Cell::$cell)
            }

            fn to_onnx(&self, opset: i64) -> Result<ir::OnnxForm, String> {
                if self.form.batch_first {
                    return crate::unary::since(self, opset, 14);
                }
                crate::unary::since(self, opset, 7)
            }

            fn infer(&self, cx: &ir::Infer) -> Result<Vec<ir::Type>, String> {
                self.form.infer(crate::recurrent::Cell::$cell, cx)
            }

            fn lower(&self, cx: &ir::Lower) -> Result<ir::Step, String> {
                self.form.lower(crate::recurrent::Cell::$cell, cx)
            }
        }
    };
}
pub(crate) use operator;
