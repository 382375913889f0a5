//! Evaluates one operation on its operands: constant folding, what no program can be compiled for, and tests.

use crate::{Arg, Infer, Io, Layout, Layouts, Lower, Op, Operand, Type};
use smallvec::SmallVec;
use tensor::Tensor;

/// Why an operation was not evaluated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct EvalError(pub String);

/// An operator that computes its results itself; only running it tells how large they are and how long that takes.
pub trait Evaluate {
    /// The results on these operands.
    ///
    /// # Errors
    /// When the operands do not fit, or something within a sub-graph cannot be evaluated.
    fn evaluate(&self, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String>;
}

/// Zeroed memory aligned for every element type.
fn aligned(bytes: usize) -> Result<Vec<u64>, EvalError> {
    tensor::check_room(bytes).map_err(|e| EvalError(e.to_string()))?;
    Ok(vec![0; bytes.div_ceil(8)])
}

/// Reorders elements of `width` bytes from `(N, C, spatial...)` to channels-last or back.
fn relayout(src: &[u8], dst: &mut [u8], shape: &[usize], width: usize, to_channels_last: bool) {
    let (n, c, inner) = (shape[0], shape[1], shape[2..].iter().product::<usize>());
    for (b, ch, i) in (0..n).flat_map(|b| (0..c).flat_map(move |ch| (0..inner).map(move |i| (b, ch, i)))) {
        let (plain, last) = ((b * c + ch) * inner + i, (b * inner + i) * c + ch);
        let (from, to) = if to_channels_last { (plain, last) } else { (last, plain) };
        dst[to * width..][..width].copy_from_slice(&src[from * width..][..width]);
    }
}

/// The results of `op` on these operands: given and returned row-major, passed to the kernel as [`Op::layouts`] asks. An
/// operator that is composed of others is evaluated as these.
///
/// # Errors
/// When shapes do not fit, are not fully determined, or the operator has no kernel for them.
pub fn eval(op: &dyn Op, ins: &[Option<&Tensor>], outs: usize) -> Result<Vec<Tensor>, EvalError> {
    eval_within(op, ins, outs, &mut Budget::UNLIMITED.clone())
}

/// What an evaluation may cost.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Elements of one result.
    pub elements: usize,
    /// Elements that are read and written, and [`Op::flops`]: what is left of them.
    pub work: u64,
}

impl Budget {
    /// Whatever it costs.
    pub const UNLIMITED: Budget = Budget { elements: usize::MAX, work: u64::MAX };

    /// For the constants that compositions and gradients in a graph make for their own use.
    pub const TABLES: Budget = Budget { elements: 1 << 26, work: 1 << 27 };

    fn is_unlimited(&self) -> bool {
        self.work == u64::MAX
    }

    /// Takes off `work`; `None` where there is not enough of it.
    pub(crate) fn spend(&mut self, work: u64) -> Option<()> {
        if !self.is_unlimited() {
            self.work = self.work.checked_sub(work)?;
        }
        Some(())
    }
}

/// As [`eval`], within a budget, from which the work is taken.
///
/// # Errors
/// As [`eval`], and when the budget does not suffice, for the operator or a part that it is composed of. None does for
/// [`Op::evaluator`], of which nobody knows the cost.
pub fn eval_within(
    op: &dyn Op,
    ins: &[Option<&Tensor>],
    outs: usize,
    budget: &mut Budget,
) -> Result<Vec<Tensor>, EvalError> {
    if let Some(evaluator) = op.evaluator() {
        return match budget.is_unlimited() {
            true => evaluator.evaluate(ins).map_err(EvalError),
            false => Err(EvalError("only running it tells what it costs".into())),
        };
    }
    let types: Vec<Option<Type>> =
        ins.iter().map(|t| t.map(|t| Type::new(t.dtype(), t.shape().iter().copied()))).collect();
    let args: Vec<Option<Arg>> =
        types.iter().zip(ins).map(|(ty, &value)| ty.as_ref().map(|ty| Arg { ty, value })).collect();
    let (in_mask, out_mask) = match op.layouts() {
        Layouts::ChannelsLast { ins, outs } => (ins, outs),
        _ => (0, 0),
    };
    let layout = |mask: u32, i: usize, shape: &[usize]| match Layouts::names(mask, i) && shape.len() >= 3 {
        true => Layout::ChannelsLast,
        false => Layout::Plain,
    };
    let operand = |ty: &Type, value: Option<Tensor>, mask: u32, i: usize| match (ty.dtype, ty.dims()) {
        (Some(dtype), Some(shape)) => {
            let layout = layout(mask, i, &shape);
            Ok(Operand { dtype, shape, layout, value: value.filter(|_| layout == Layout::Plain) })
        }
        _ => Err(EvalError(format!("the result type {ty} is not fully known"))),
    };
    let uncountable = |ty: &Type| EvalError(format!("a tensor {ty} has more elements than any memory holds"));
    let out_types = match types.iter().flatten().find(|ty| !ty.is_countable()) {
        Some(ty) => return Err(uncountable(ty)),
        None => op.infer(&Infer::new(&args, outs)).map_err(EvalError)?,
    };
    if let Some(ty) = out_types.iter().find(|ty| !ty.is_countable()) {
        return Err(uncountable(ty));
    }
    let most = budget.elements;
    let large = |ty: &&Type| ty.dims().is_some_and(|d| tensor::element_count(&d).is_none_or(|n| n > most));
    if let Some(ty) = out_types.iter().find(large) {
        return Err(EvalError(format!("the result {ty} has more than {most} elements")));
    }
    if let Some(results) = crate::eval_composed(op, ins, outs, budget).map_err(EvalError)? {
        return Ok(results);
    }
    let lower = Lower {
        ins: types
            .iter()
            .zip(ins)
            .enumerate()
            .map(|(i, (ty, v))| ty.as_ref().map(|ty| operand(ty, v.cloned(), in_mask, i)).transpose())
            .collect::<Result<_, _>>()?,
        outs: out_types
            .iter()
            .take(outs)
            .enumerate()
            .map(|(i, ty)| operand(ty, None, out_mask, i))
            .collect::<Result<_, _>>()?,
    };
    let bytes = lower.outs.iter().map(|o| o.dtype.bytes(o.len())).sum();
    tensor::check_room(bytes).map_err(|e| EvalError(e.to_string()))?;
    let step = crate::widen::lower(op, &lower).map_err(EvalError)?;
    if !budget.is_unlimited() {
        let moved = lower.ins.iter().flatten().chain(&lower.outs).map(|o| o.len() as u64).sum::<u64>();
        let spent = budget.spend(op.flops(&lower).unwrap_or(0).saturating_add(moved));
        spent.ok_or_else(|| EvalError("it takes more work than it is worth".into()))?;
    }
    let tensor = |o: &Operand, bytes: bytes::Bytes| {
        Tensor::from_bytes(o.dtype, &o.shape, bytes).map_err(|e| EvalError(e.to_string()))
    };
    if step.view {
        let source = ins.first().copied().flatten().ok_or_else(|| EvalError("input 0 is missing".into()))?;
        return Ok(vec![tensor(&lower.outs[0], source.bytes().clone())?]);
    }
    // Operands may come unaligned from a mapped file.
    let copies: Vec<Option<Vec<u64>>> = ins
        .iter()
        .zip(&lower.ins)
        .map(|(t, o)| {
            let copied = |(t, o): (&Tensor, &Operand)| {
                let mut copy = aligned(t.bytes().len())?;
                let bytes = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut copy)[..t.bytes().len()];
                match o.layout {
                    Layout::Plain => bytes.copy_from_slice(t.bytes()),
                    Layout::ChannelsLast => relayout(t.bytes(), bytes, &o.shape, o.dtype.bytes(1), true),
                }
                Ok(copy)
            };
            t.zip(o.as_ref()).map(copied).transpose()
        })
        .collect::<Result<_, EvalError>>()?;
    let size = |o: &Operand| o.dtype.bytes(o.len());
    let mut results: Vec<Vec<u64>> = lower.outs.iter().map(|o| aligned(size(o))).collect::<Result<_, _>>()?;
    let mut workspace = aligned(step.workspace)?;
    let slices: SmallVec<[&mut [u8]; 4]> = results
        .iter_mut()
        .zip(&lower.outs)
        .map(|(r, o)| &mut bytemuck::cast_slice_mut::<u64, u8>(r)[..size(o)])
        .collect();
    let operands: SmallVec<[Option<&[u8]>; 8]> = copies
        .iter()
        .zip(ins)
        .map(|(c, t)| c.as_ref().zip(*t).map(|(c, t)| &bytemuck::cast_slice::<u64, u8>(c)[..t.bytes().len()]))
        .collect();
    let shared = operands.iter().map(|_| None).collect();
    let workspace = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut workspace)[..step.workspace];
    (step.run)(&mut Io::new(operands, slices, workspace, shared)).map_err(EvalError)?;
    results
        .iter()
        .zip(&lower.outs)
        .map(|(r, o)| {
            let mut bytes = bytemuck::cast_slice::<u64, u8>(r)[..size(o)].to_vec();
            if o.layout == Layout::ChannelsLast {
                relayout(&bytes.clone(), &mut bytes, &o.shape, o.dtype.bytes(1), false);
            }
            tensor(o, bytes.into())
        })
        .collect()
}
