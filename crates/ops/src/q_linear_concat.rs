//! `QLinearConcat` (com.microsoft 1): joins tensors of uint8 codes along an axis, brought to one scale.

use crate::Concat;
use crate::concat::blocks;
use crate::q_linear::{MICROSOFT, affine, check_affine, code_dtype, codes, table};
use crate::shapes::axis;
use ir::{Arg, Attr, Attrs, Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use kernels::integer::lookup;

/// `QLinearConcat(y_scale, y_zero_point, x0, x0_scale, x0_zero_point, x1, x1_scale, x1_zero_point, …)`: the operands are
/// uint8; scales and zero points are constants of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QLinearConcat {
    /// The axis along which the operands are joined.
    pub axis: i64,
    /// Number of operands.
    pub operands: usize,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    match (cx.attrs.get("axis"), cx.ins.checked_sub(2)) {
        (Some(Attr::Int(axis)), Some(n)) if n % 3 == 0 => {
            Ok(QLinearConcat { axis: *axis, operands: n / 3 }.into())
        }
        (Some(Attr::Int(_)), _) => Err(format!("{} inputs are no scale, zero point and triples", cx.ins)),
        _ => Err("attribute axis is missing".into()),
    }
}

impl QLinearConcat {
    /// Slots of the operands.
    fn slots(&self) -> impl Iterator<Item = usize> {
        (0..self.operands).map(|i| 2 + 3 * i)
    }
}

impl Op for QLinearConcat {
    fn name(&self) -> &str {
        "QLinearConcat"
    }

    fn domain(&self) -> &str {
        MICROSOFT
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with("axis", Attr::Int(self.axis))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        if cx.len() != 2 + 3 * self.operands {
            return Err(format!("{} inputs for {} operands", cx.len(), self.operands));
        }
        check_affine(cx, 0)?;
        self.slots().try_for_each(|i| check_affine(cx, i + 1))?;
        let operands = self.slots().map(|i| Ok(Some(Arg { ty: codes(cx, i)?, value: None })));
        let operands = operands.collect::<Result<Vec<_>, String>>()?;
        let joined = Concat { axis: self.axis }.infer(&Infer::new(&operands, 1))?;
        let dtype = code_dtype(cx, 1)?;
        Ok(joined.into_iter().map(|ty| Type { dtype, ..ty }).collect())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let y = &cx.outs[0];
        let at = y.memory_axis(axis(self.axis, y.shape.len())?);
        let (row, count) = blocks(&y.memory_shape(), at);
        let to = affine(cx, 0)?;
        let operand = |i: usize| {
            let from = affine(cx, i + 1)?;
            // A change of scale rounds; equal scales must not.
            let table = (from != to).then(|| Box::new(table(from, to, |x| x)));
            Ok((i, blocks(&cx.typed::<u8>(i)?.memory_shape(), at).0, table))
        };
        let operands = self.slots().map(operand).collect::<Result<Vec<_>, String>>()?;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let y: &mut [u8] = parts.output(0);
            let mut first = 0;
            for (slot, block, table) in &operands {
                let x: &[u8] = parts.input(*slot);
                for at in 0..if *block > 0 { count } else { 0 } {
                    let (x, y) = (&x[at * block..][..*block], &mut y[at * row + first..][..*block]);
                    match table {
                        Some(table) => lookup(table, x, y),
                        None => y.copy_from_slice(x),
                    }
                }
                first += block;
            }
            Ok(())
        }))
    }

    /// Along axis 1, the channels of images, between kernels that compute channels-last.
    fn layouts(&self) -> Layouts {
        if self.axis == 1 { Layouts::ChannelsLast { ins: !0, outs: 1 } } else { Layouts::Plain }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, run};
    use crate::{DequantizeLinear, QuantizeLinear};
    use tensor::Tensor;

    #[test]
    fn is_the_float_operator_between_pairs() {
        let mut draw = Draw::new(71);
        for (axis, shapes) in [
            (1, [vec![2, 3, 4, 5], vec![2, 1, 4, 5], vec![2, 6, 4, 5]]),
            (-1, [vec![2, 3, 4], vec![2, 3, 1], vec![2, 3, 0]]),
            (1, [vec![2, 3], vec![2, 4], vec![2, 5]]),
        ] {
            let (y_scale, y_zero) = (Tensor::scalar(0.02f32), Tensor::scalar(9u8));
            let operands: Vec<[Tensor; 3]> = (shapes.iter().enumerate())
                .map(|(i, shape)| {
                    let codes = (0..shape.iter().product()).map(|_| draw.int(0, 256) as u8).collect();
                    let (scale, zero) = [(0.02f32, 9u8), (0.017, 128), (0.05, 0)][i];
                    [Tensor::new(shape, codes), Tensor::scalar(scale), Tensor::scalar(zero)]
                })
                .collect();
            let op = QLinearConcat { axis, operands: 3 };
            let ins: Vec<_> =
                [&y_scale, &y_zero].into_iter().chain(operands.iter().flatten()).map(Some).collect();
            let got = run(&op, &ins, 1).unwrap().remove(0);

            let eval = |op: &dyn Op, ins: &[&Tensor]| {
                let ins: Vec<_> = ins.iter().copied().map(Some).collect();
                ir::eval(op, &ins, 1).unwrap().remove(0)
            };
            let values: Vec<Tensor> =
                operands.iter().map(|[x, s, z]| eval(&DequantizeLinear::default(), &[x, s, z])).collect();
            let joined = eval(&Concat { axis }, &values.iter().collect::<Vec<_>>());
            assert_eq!(got, eval(&QuantizeLinear::default(), &[&joined, &y_scale, &y_zero]));
        }
    }

    #[test]
    fn operands_come_in_triples() {
        let attrs = Attrs::new().with("axis", Attr::Int(1));
        assert!(parse(&Parse { attrs: &attrs, opset: 1, ins: 8, outs: 1 }).is_ok());
        assert!(parse(&Parse { attrs: &attrs, opset: 1, ins: 7, outs: 1 }).is_err());
        assert!(parse(&Parse { attrs: &Attrs::new(), opset: 1, ins: 8, outs: 1 }).is_err());
    }
}
