//! `qat.WeightScale`: symmetric scales of a weight from its largest magnitudes.

use ir::{Attrs, Infer, Io, Lower, Op, Parse, Parsed, Step, Type};
use kernels::quant::Grid;

/// `WeightScale(abs_max)`: `abs_max / high`, with the guard for dead channels of [`observe::scale::weight`]. Shape and
/// type as the operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightScale {
    /// Bits of a code; the codes are symmetric, ±127 for 8 bits.
    pub bits: u32,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    let bits = cx.attrs.int("bits", 8)?;
    let bits = u32::try_from(bits).ok().filter(|&b| Grid::narrow(b).is_some());
    Ok(WeightScale { bits: bits.ok_or("attribute bits should be 2 to 16")? }.into())
}

impl Op for WeightScale {
    fn name(&self) -> &str {
        "WeightScale"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("bits", self.bits.into(), 8)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![cx.float(0)?.clone()])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        cx.typed::<f32>(0)?;
        let grid = Grid::narrow(self.bits).ok_or("weights have 2 to 16 bits")?;
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let scales = observe::scale::weight(parts.input(0), grid);
            parts.output::<f32>(0).copy_from_slice(&scales);
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
    fn the_largest_magnitude_gets_code_127() {
        let abs_max = Tensor::new(&[2], vec![127.0f32, 0.0]);
        let scale = ir::eval(&WeightScale { bits: 8 }, &[Some(&abs_max)], 1).unwrap();
        assert_eq!(scale[0].to_f32(), [1.0, 1.0]);
    }
}
