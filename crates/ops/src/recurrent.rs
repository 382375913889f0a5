//! What `RNN`, `GRU` and `LSTM` share: attributes, shape rule, the loop over time, and `qat.RecurrentGrad`, the gradient of
//! all three.

use crate::cell::{Activation, Cell, Sums, Unit};
use ir::{Arg, Attr, Attrs, Dim, Infer, Io, Lower, Op, Parse, Parsed, Step, Type, Vjp};
use std::ops::Range;
use std::sync::Arc;
use tensor::DType;

impl Cell {
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
                    let known = Activation::NAMES.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
                    known.map(|(_, a)| *a).ok_or_else(|| format!("the activation {name} is not supported"))
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
        let name = |a: &Activation| {
            Activation::NAMES.iter().find(|(_, b)| a == b).map_or("Tanh", |(n, _)| n).to_string()
        };
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
            let rows = n.saturating_mul(cell.gates());
            expect(1, "weight", vec![directions(), rows.into(), width.clone()])?;
            expect(2, "recurrent weight", vec![directions(), rows.into(), n.into()])?;
            expect(3, "bias", vec![directions(), rows.saturating_mul(2).into()])?;
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
        let walk = Walk::new(self, cell, cx, 0)?;
        let results = cx.outs.len();
        let (state, record) = (cell.state(walk.hidden), cell.record(walk.hidden));
        let workspace = 2 * state + record;
        let run = move |io: &mut Io| {
            let mut parts = io.split();
            let [sequence, last, last_cell]: [&mut [f32]; 3] =
                std::array::from_fn(|i| if i < results { parts.output(i) } else { &mut [] });
            let scratch = &mut parts.workspace::<f32>()[..workspace];
            sequence.fill(0.0);
            let operand = |i| parts.optional::<f32>(i);
            let (mut before, rest) = scratch.split_at_mut(state);
            let (mut after, record) = rest.split_at_mut(state);
            for (direction, b) in walk.sequences() {
                let unit = walk.unit(&operand, direction);
                let steps = walk.steps(parts.optional(LENGTHS), b)?;
                walk.start(&operand, direction, b, before);
                for step in 0..steps {
                    let t = walk.time(direction, step, steps);
                    unit.forward(&operand(X).unwrap_or_default()[walk.element(t, b)], before, after, record);
                    if !sequence.is_empty() {
                        sequence[walk.result(t, direction, b)].copy_from_slice(&after[..walk.hidden]);
                    }
                    std::mem::swap(&mut before, &mut after);
                }
                let (h, c) = before.split_at(walk.hidden);
                for (to, from) in [(&mut *last, h), (&mut *last_cell, c)] {
                    if !to.is_empty() {
                        to[walk.state(direction, b)].copy_from_slice(from);
                    }
                }
            }
            Ok(())
        };
        Ok(Step::new(run).workspace::<f32>(workspace))
    }

    /// Emits [`RecurrentGrad`].
    pub(crate) fn vjp(&self, cell: Cell, cx: &mut Vjp) -> Option<()> {
        let slots = cell.cell_state().map_or(6, |c| c + 2);
        let operands: Vec<_> = (0..slots).map(|i| cx.input(i)).collect();
        let wrt: Vec<usize> =
            (0..slots).filter(|&i| i != LENGTHS && operands[i].is_some() && cx.wants(i)).collect();
        let ins: Vec<_> = (0..OPERANDS).map(|i| cx.d_output(i)).chain(operands).collect();
        let op = RecurrentGrad { cell, form: self.clone(), wrt: wrt.clone() };
        let gradients = cx.add_multi(Arc::new(op), &ins, wrt.len())?;
        wrt.into_iter().zip(gradients).for_each(|(i, d)| cx.set(i, d));
        Some(())
    }
}

/// Slots of operands that all three operators have.
const X: usize = 0;
const LENGTHS: usize = 4;
const INITIAL: usize = 5;

/// Operations of a sequence in operand `at`, `(.., width)`, with the weights that follow it, which every step reads.
pub(crate) fn flops(cx: &Lower, at: usize) -> Option<u64> {
    let [x, w, r] = [cx.optional(at)?, cx.optional(at + 1)?, cx.optional(at + 2)?];
    let steps = x.len() / x.shape.last().copied().unwrap_or(1).max(1);
    crate::shapes::products(steps, w.len() + r.len())
}

/// The way through all sequences of a batch: where everything lies.
struct Walk {
    form: Recurrence,
    cell: Cell,
    /// Slot of the sequences; the other operands follow.
    at: usize,
    time: usize,
    batch: usize,
    width: usize,
    hidden: usize,
}

impl Walk {
    fn new(form: &Recurrence, cell: Cell, cx: &Lower, at: usize) -> Result<Walk, String> {
        let (x, r) = (cx.typed::<f32>(at)?, cx.typed::<f32>(at + 2)?);
        for i in (at + 1..cx.ins.len()).filter(|&i| i != at + LENGTHS && cx.optional(i).is_some()) {
            cx.typed::<f32>(i)?;
        }
        match cx.optional(at + LENGTHS).map(|l| l.dtype) {
            None | Some(DType::I32) => {}
            Some(other) => return Err(format!("lengths should be int32, but are {other}")),
        }
        let ([first, second, width], [_, _, hidden]) = (&x.shape[..], &r.shape[..]) else {
            return Err("sequences and recurrent weights should have three axes".into());
        };
        if *hidden == 0 {
            return Err("the hidden state has no elements".into());
        }
        let (time, batch) = if form.batch_first { (second, first) } else { (first, second) };
        let (time, batch, width, hidden) = (*time, *batch, *width, *hidden);
        Ok(Walk { form: form.clone(), cell, at, time, batch, width, hidden })
    }

    /// Direction and place in the batch of each sequence.
    fn sequences(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let batch = self.batch;
        (0..self.form.directions()).flat_map(move |direction| (0..batch).map(move |b| (direction, b)))
    }

    /// Elements per direction of operand `i`, one of the weights.
    fn weight(&self, i: usize) -> usize {
        let rows = self.cell.gates() * self.hidden;
        match i {
            1 => rows * self.width,
            2 => rows * self.hidden,
            3 => 2 * rows,
            _ => 3 * self.hidden,
        }
    }

    fn unit<'a>(&'a self, operand: &impl Fn(usize) -> Option<&'a [f32]>, direction: usize) -> Unit<'a> {
        let weight = |i: usize| {
            let n = self.weight(i);
            operand(self.at + i).map_or(&[][..], |all| &all[direction * n..][..n])
        };
        let activations = self.cell.activations().len();
        Unit {
            cell: self.cell,
            width: self.width,
            hidden: self.hidden,
            w: weight(1),
            r: weight(2),
            bias: weight(3),
            peephole: self.cell.cell_state().map_or(&[][..], |c| weight(c + 1)),
            activations: &self.form.activations[direction * activations..][..activations],
            clip: self.form.clip,
            linear_before_reset: self.form.linear_before_reset,
        }
    }

    /// Length of a sequence.
    fn steps(&self, lengths: Option<&[i32]>, b: usize) -> Result<usize, String> {
        let Some(&length) = lengths.and_then(|all| all.get(b)) else { return Ok(self.time) };
        let fits = usize::try_from(length).ok().filter(|&n| n <= self.time);
        fits.ok_or_else(|| format!("sequence {b} has length {length}, but there are {} steps", self.time))
    }

    /// The place in time of a step.
    fn time(&self, direction: usize, step: usize, steps: usize) -> usize {
        let reverse = direction == 1 || self.form.direction == Direction::Reverse;
        if reverse { steps - 1 - step } else { step }
    }

    /// Where an element of a sequence lies.
    fn element(&self, t: usize, b: usize) -> Range<usize> {
        let row = if self.form.batch_first { b * self.time + t } else { t * self.batch + b };
        row * self.width..(row + 1) * self.width
    }

    /// Where a state lies among the results.
    fn result(&self, t: usize, direction: usize, b: usize) -> Range<usize> {
        let directions = self.form.directions();
        let row = match self.form.batch_first {
            true => (b * self.time + t) * directions + direction,
            false => (t * directions + direction) * self.batch + b,
        };
        row * self.hidden..(row + 1) * self.hidden
    }

    /// Where a state lies among the initial or the last ones.
    fn state(&self, direction: usize, b: usize) -> Range<usize> {
        let row = match self.form.batch_first {
            true => b * self.form.directions() + direction,
            false => direction * self.batch + b,
        };
        row * self.hidden..(row + 1) * self.hidden
    }

    /// Reads the initial state, 0 where it is omitted.
    fn start<'a>(
        &self,
        operand: &impl Fn(usize) -> Option<&'a [f32]>,
        direction: usize,
        b: usize,
        state: &mut [f32],
    ) {
        let (h, c) = state.split_at_mut(self.hidden);
        for (to, slot) in [(h, Some(INITIAL)), (c, self.cell.cell_state())] {
            match slot.and_then(|i| operand(self.at + i)) {
                Some(all) => to.copy_from_slice(&all[self.state(direction, b)]),
                None => to.fill(0.0),
            }
        }
    }
}

/// Number of results of a recurrent operator, whose gradients stand before its operands in [`RecurrentGrad`].
const OPERANDS: usize = 3;

/// `RecurrentGrad(d_sequence?, d_last?, d_last_cell?, x, w, r, bias?, lengths?, initial_h?, initial_c?, peephole?)`:
/// gradients of operands of `RNN`, `GRU` or `LSTM`, by running each sequence again and going back through time (Werbos
/// 1990, "Backpropagation through time: what it does and how to do it"). Gradients of results that are omitted are 0.
#[derive(Clone, Debug, PartialEq)]
pub struct RecurrentGrad {
    cell: Cell,
    form: Recurrence,
    /// Slots of the operands whose gradients are the results, ascending.
    wrt: Vec<usize>,
}

/// Reads the gradient.
pub fn parse_grad(cx: &Parse) -> Result<Parsed, String> {
    let name = cx.attrs.str("of", "")?;
    let cell = Cell::ALL.into_iter().find(|c| c.name() == name);
    let cell = cell.ok_or_else(|| format!("attribute of names no recurrent operator: \"{name}\""))?;
    let wrt = cx.attrs.sizes("wrt")?.ok_or("attribute wrt is missing")?;
    let slots = cell.cell_state().map_or(6, |c| c + 2);
    if wrt.iter().any(|&i| i == LENGTHS || i >= slots) || !wrt.is_sorted_by(|a, b| a < b) {
        return Err(format!("attribute wrt should name slots of operands, but is {wrt:?}"));
    }
    Ok(RecurrentGrad { cell, form: Recurrence::parse(cell, cx)?, wrt }.into())
}

impl Op for RecurrentGrad {
    fn name(&self) -> &str {
        "RecurrentGrad"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        let attrs = self.form.attrs(self.cell).with("of", Attr::Str(self.cell.name().into()));
        attrs.with("wrt", Attr::Ints(self.wrt.iter().map(|&i| i as i64).collect()))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let operands: Vec<Option<Arg>> =
            (OPERANDS..cx.len()).map(|i| cx.ty(i).ok().map(|ty| Arg { ty, value: cx.value(i) })).collect();
        let results = self.form.infer(self.cell, &Infer::new(&operands, OPERANDS))?;
        for (i, result) in results.iter().enumerate().filter(|(i, _)| cx.has(*i)) {
            if !cx.ty(i)?.agrees(result) {
                return Err(format!("the gradient of result {i} should be {result}, but is {}", cx.ty(i)?));
            }
        }
        self.wrt.iter().map(|&i| cx.float(OPERANDS + i).cloned()).collect()
    }

    fn flops(&self, cx: &Lower) -> Option<u64> {
        flops(cx, OPERANDS)
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        for i in (0..OPERANDS).filter(|&i| cx.optional(i).is_some()) {
            cx.typed::<f32>(i)?;
        }
        let (walk, wrt) = (Walk::new(&self.form, self.cell, cx, OPERANDS)?, self.wrt.clone());
        let (cell, hidden) = (self.cell, walk.hidden);
        let (state, record, scratch) = (cell.state(hidden), cell.record(hidden), cell.scratch(hidden));
        // All states of a sequence, the records of its steps, the gradient of a state, and the scratch memory of a step.
        let states = walk.time.checked_add(1).and_then(|n| n.checked_mul(state));
        let records = walk.time.checked_mul(record);
        let (Some(states), Some(records)) = (states, records) else {
            return Err(format!("{} steps are too many", walk.time));
        };
        let workspace = states.checked_add(records).and_then(|n| n.checked_add(state + scratch));
        let workspace = workspace.filter(|n| n.checked_mul(size_of::<f32>()).is_some());
        let workspace = workspace.ok_or_else(|| format!("{} steps are too many", walk.time))?;
        let run = move |io: &mut Io| {
            let mut parts = io.split();
            let mut gradients: [&mut [f32]; 8] = Default::default();
            for (result, &slot) in wrt.iter().enumerate() {
                gradients[slot] = parts.output(result);
                gradients[slot].fill(0.0);
            }
            let [d_x, d_w, d_r, d_bias, _, d_initial, d_initial_cell, d_peephole] = gradients;
            let (states, rest) = parts.workspace::<f32>()[..workspace].split_at_mut(states);
            let (records, rest) = rest.split_at_mut(records);
            let (d_state, scratch) = rest.split_at_mut(state);
            let operand = |i| parts.optional::<f32>(i);
            let x = operand(OPERANDS + X).unwrap_or_default();
            let of_state = |i: usize, at: Range<usize>, d: &mut [f32]| {
                if let Some(all) = operand(i) {
                    d.iter_mut().zip(&all[at]).for_each(|(d, more)| *d += more);
                }
            };
            for (direction, b) in walk.sequences() {
                let unit = walk.unit(&operand, direction);
                let steps = walk.steps(parts.optional(OPERANDS + LENGTHS), b)?;
                walk.start(&operand, direction, b, &mut states[..state]);
                for step in 0..steps {
                    let (before, after) = states[step * state..][..2 * state].split_at_mut(state);
                    let x = &x[walk.element(walk.time(direction, step, steps), b)];
                    unit.forward(x, before, after, &mut records[step * record..][..record]);
                }
                d_state.fill(0.0);
                let (d_h, d_c) = d_state.split_at_mut(walk.hidden);
                of_state(1, walk.state(direction, b), d_h);
                of_state(2, walk.state(direction, b), d_c);
                for step in (0..steps).rev() {
                    let t = walk.time(direction, step, steps);
                    of_state(0, walk.result(t, direction, b), &mut d_state[..walk.hidden]);
                    let mut sums = Sums {
                        x: d_x.get_mut(walk.element(t, b)).unwrap_or_default(),
                        w: of_direction(d_w, direction, walk.weight(1)),
                        r: of_direction(d_r, direction, walk.weight(2)),
                        bias: of_direction(d_bias, direction, walk.weight(3)),
                        peephole: of_direction(d_peephole, direction, walk.weight(7)),
                    };
                    let (before, after) = states[step * state..][..2 * state].split_at(state);
                    let record = &records[step * record..][..record];
                    let x = &x[walk.element(t, b)];
                    unit.backward(x, [before, after], record, d_state, &mut sums, scratch);
                }
                let (d_h, d_c) = d_state.split_at(walk.hidden);
                for (to, from) in [(&mut *d_initial, d_h), (&mut *d_initial_cell, d_c)] {
                    if !to.is_empty() {
                        to[walk.state(direction, b)].copy_from_slice(from);
                    }
                }
            }
            Ok(())
        };
        Ok(Step::new(run).workspace::<f32>(workspace))
    }
}

/// The part of a direction, `n` elements; nothing of nothing.
fn of_direction(all: &mut [f32], direction: usize, n: usize) -> &mut [f32] {
    all.get_mut(direction * n..(direction + 1) * n).unwrap_or_default()
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
            let form = crate::recurrent::Recurrence::parse(crate::cell::Cell::$cell, cx);
            let untouched = |_| crate::shapes::untouched(stringify!($name), cx);
            Ok(form.map_or_else(untouched, |form| $name { form }.into()))
        }

        impl ir::Op for $name {
            fn name(&self) -> &str {
                stringify!($name)
            }

            fn attrs(&self) -> ir::Attrs {
                self.form.attrs(crate::cell::Cell::$cell)
            }

            fn to_onnx(&self, opset: i64) -> Result<ir::OnnxForm, String> {
                if self.form.batch_first {
                    return crate::unary::since(self, opset, 14);
                }
                crate::unary::since(self, opset, 7)
            }

            fn infer(&self, cx: &ir::Infer) -> Result<Vec<ir::Type>, String> {
                self.form.infer(crate::cell::Cell::$cell, cx)
            }

            fn vjp(&self, cx: &mut ir::Vjp) -> Option<()> {
                self.form.vjp(crate::cell::Cell::$cell, cx)
            }

            fn lower(&self, cx: &ir::Lower) -> Result<ir::Step, String> {
                self.form.lower(crate::cell::Cell::$cell, cx)
            }

            fn flops(&self, cx: &ir::Lower) -> Option<u64> {
                crate::recurrent::flops(cx, 0)
            }

            /// Weights and biases; of an LSTM the peepholes too.
            fn params(&self) -> &'static [usize] {
                match crate::cell::Cell::$cell {
                    crate::cell::Cell::Lstm => &[1, 2, 3, 7],
                    _ => &[1, 2, 3],
                }
            }
        }
    };
}
pub(crate) use operator;
