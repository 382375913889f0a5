//! Evaluates one operation on constants: constant folding and tests.

use crate::{Arg, Infer, Io, Layout, Lower, Op, Operand, Type};
use smallvec::SmallVec;
use tensor::Tensor;

/// Why an operation was not evaluated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct EvalError(pub String);

/// Memory aligned for every element type.
fn aligned(bytes: usize) -> Vec<u64> {
    vec![0; bytes.div_ceil(8)]
}

/// The results of `op` on these operands, all row-major.
///
/// # Errors
/// When shapes do not fit, are not fully determined, or the operator has no kernel for them.
pub fn eval(op: &dyn Op, ins: &[Option<&Tensor>], outs: usize) -> Result<Vec<Tensor>, EvalError> {
    let types: Vec<Option<Type>> =
        ins.iter().map(|t| t.map(|t| Type::new(t.dtype(), t.shape().iter().copied()))).collect();
    let args: Vec<Option<Arg>> =
        types.iter().zip(ins).map(|(ty, &value)| ty.as_ref().map(|ty| Arg { ty, value })).collect();
    let operand = |ty: &Type, value: Option<Tensor>| match (ty.dtype, ty.dims()) {
        (Some(dtype), Some(shape)) => Ok(Operand { dtype, shape, layout: Layout::Plain, value }),
        _ => Err(EvalError(format!("the result type {ty} is not fully known"))),
    };
    let out_types = op.infer(&Infer::new(&args, outs)).map_err(EvalError)?;
    let lower = Lower {
        ins: types
            .iter()
            .zip(ins)
            .map(|(ty, v)| ty.as_ref().map(|ty| operand(ty, v.cloned())).transpose())
            .collect::<Result<_, _>>()?,
        outs: out_types.iter().take(outs).map(|ty| operand(ty, None)).collect::<Result<_, _>>()?,
    };
    let step = op.lower(&lower).map_err(EvalError)?;
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
        .map(|t| {
            t.map(|t| {
                let mut copy = aligned(t.bytes().len());
                bytemuck::cast_slice_mut::<u64, u8>(&mut copy)[..t.bytes().len()].copy_from_slice(t.bytes());
                copy
            })
        })
        .collect();
    let size = |o: &Operand| o.dtype.bytes(o.len());
    let mut results: Vec<Vec<u64>> = lower.outs.iter().map(|o| aligned(size(o))).collect();
    let mut workspace = aligned(step.workspace);
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
        .map(|(r, o)| tensor(o, bytes::Bytes::copy_from_slice(&bytemuck::cast_slice::<u64, u8>(r)[..size(o)])))
        .collect()
}
