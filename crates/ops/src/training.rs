//! What the optimizers of `ai.onnx.preview.training` share: the layout of their operands.
//!
//! An optimizer takes the rate `R` (a number), the count `T` of updates done so far (int64), and for each of `n` tensors the
//! tensor, its gradient and its states, sorted by kind: `R, T, X_1, …, X_n, G_1, …, G_n, V_1, …, V_n`. It gives the new tensors
//! and the new states in the same order, without the gradients.

use ir::{Infer, Io, Lower, Step, Type};
use tensor::DType;

/// Domain of the operators.
pub(crate) const DOMAIN: &str = "ai.onnx.preview.training";

/// Where the operands stand of an optimizer with so many states per tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    tensors: usize,
    states: usize,
}

impl Slots {
    /// Of an operator with `ins` operands.
    ///
    /// # Errors
    /// When the operands do not come in whole groups.
    pub fn new(ins: usize, states: usize) -> Result<Slots, String> {
        let of_tensors = ins.saturating_sub(2);
        match of_tensors % (2 + states) {
            0 if of_tensors > 0 => Ok(Slots { tensors: of_tensors / (2 + states), states }),
            _ => {
                let each = 2 + states;
                Err(format!("it takes 2 inputs and {each} for each tensor, but has {ins}"))
            }
        }
    }

    /// How many tensors are updated.
    pub fn tensors(self) -> usize {
        self.tensors
    }

    /// How many states each has.
    pub fn states(self) -> usize {
        self.states
    }

    /// Operand slot of tensor `i`; result `i` is what it becomes.
    pub fn tensor(self, i: usize) -> usize {
        2 + i
    }

    /// Operand slot of the gradient of tensor `i`.
    pub fn gradient(self, i: usize) -> usize {
        2 + self.tensors + i
    }

    /// Operand slot of state `k` of tensor `i`.
    pub fn state(self, i: usize, k: usize) -> usize {
        2 + (2 + k) * self.tensors + i
    }

    /// Result of state `k` of tensor `i`.
    pub fn new_state(self, i: usize, k: usize) -> usize {
        (1 + k) * self.tensors + i
    }

    /// Types of the results: those of the tensors and their states.
    pub(crate) fn infer(self, cx: &Infer) -> Result<Vec<Type>, String> {
        cx.float(0)?;
        let count = cx.ty(1)?;
        if count.dtype.is_some_and(|d| d != DType::I64) {
            return Err(format!("the update count T should be int64, but is {count}"));
        }
        let tensors: Vec<Type> =
            (0..self.tensors).map(|i| cx.float(self.tensor(i)).cloned()).collect::<Result<_, _>>()?;
        for (i, x) in tensors.iter().enumerate() {
            let slots = (0..self.states).map(|k| self.state(i, k)).chain([self.gradient(i)]);
            for slot in slots {
                let ty = cx.float(slot)?;
                if !ty.agrees(x) {
                    return Err(format!("input {slot} should be {x} as its tensor, but is {ty}"));
                }
            }
        }
        Ok((0..=self.states).flat_map(|_| tensors.iter().cloned()).collect())
    }

    /// A step that updates tensor after tensor: `update` gets rate, count, gradient, tensor, and the first and the last of its
    /// states.
    pub(crate) fn lower(
        self,
        cx: &Lower,
        update: impl Fn(f32, i64, &[f32], &mut [f32], [&mut [f32]; 2]) + Send + Sync + 'static,
    ) -> Result<Step, String> {
        cx.typed::<i64>(1)?;
        (0..cx.ins.len()).filter(|&i| i != 1).try_for_each(|i| cx.typed::<f32>(i).map(|_| ()))?;
        let mut step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let rate = parts.input::<f32>(0).first().copied().unwrap_or_default();
            let count = parts.input::<i64>(1).first().copied().unwrap_or_default();
            for i in 0..self.tensors {
                let x = parts.updated::<f32>(self.tensor(i), i);
                let g = parts.input::<f32>(self.gradient(i));
                let first = parts.updated::<f32>(self.state(i, 0), self.new_state(i, 0));
                let last: &mut [f32] = match self.states {
                    2.. => parts.updated(self.state(i, 1), self.new_state(i, 1)),
                    _ => &mut [],
                };
                update(rate, count, g, x, [first, last]);
            }
            Ok(())
        });
        for i in 0..self.tensors {
            step = step.in_place(self.tensor(i), i);
            for k in 0..self.states {
                step = step.in_place(self.state(i, k), self.new_state(i, k));
            }
        }
        Ok(step)
    }
}
