//! `qat.ZeroPoint`: the zero point of an activation from the learned ends of its range (LSQ+).

use ir::{Attr, Attrs, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use kernels::quant::Grid;
use tensor::DType;

/// `ZeroPoint(scale, below)`: int32 `half_even(low + below / scale)`, within `low..=high`, so that the lowest code stands for
/// `-below`, up to rounding, and 0 has a code. Shape as the operands, which are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZeroPoint {
    /// The codes.
    pub grid: Grid,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(ZeroPoint { grid: crate::fake_quant::grid(cx.attrs)? }.into())
}

impl Op for ZeroPoint {
    fn name(&self) -> &str {
        "ZeroPoint"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new()
            .with("low", Attr::Int(self.grid.low.into()))
            .with("high", Attr::Int(self.grid.high.into()))
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (scale, below) = (cx.float(0)?, cx.float(1)?);
        if !scale.agrees(below) {
            return Err(format!("the scale is {scale}, but the end of the range {below}"));
        }
        Ok(vec![Type { dtype: Some(DType::I32), ..scale.clone() }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        let Grid { low, high } = self.grid;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let operands = parts.input::<f32>(0).iter().zip(parts.input::<f32>(1));
            for (to, (scale, below)) in parts.output::<i32>(0).iter_mut().zip(operands) {
                *to = ((low as f32 + below / scale).round_ties_even() as i32).clamp(low, high);
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tensor::Tensor;

    #[test]
    fn zero_has_a_code() {
        let of = |scale: f32, below: f32| {
            let ins = [Tensor::scalar(scale), Tensor::scalar(below)];
            let op = ZeroPoint { grid: Grid::U8 };
            ir::eval(&op, &[Some(&ins[0]), Some(&ins[1])], 1).unwrap()[0].to_i64()[0]
        };
        assert_eq!((of(0.5, 10.3), of(0.5, 0.0), of(0.5, -3.0), of(0.5, 1e9)), (21, 0, 0, 255));
    }
}
