//! `QLinearGlobalAveragePool` (com.microsoft 1): the mean over all spatial axes of uint8 codes.

use crate::global_average_pool::{image, per_channel};
use crate::q_linear::{MICROSOFT, affine, infer_unary};
use crate::shapes::untouched_of;
use ir::{Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use kernels::integer;

/// `QLinearGlobalAveragePool(x, x_scale, x_zero_point, y_scale, y_zero_point)`: uint8 `(N, C, spatial...)` to
/// `(N, C, 1...)`; scales and zero points are constants of one element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QLinearGlobalAveragePool;

/// Reads the operator. One on channels-last images is carried through.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    if cx.attrs.int("channels_last", 0)? != 0 {
        return Ok(untouched_of(MICROSOFT, "QLinearGlobalAveragePool", cx));
    }
    Ok(QLinearGlobalAveragePool.into())
}

impl Op for QLinearGlobalAveragePool {
    fn name(&self) -> &str {
        "QLinearGlobalAveragePool"
    }

    fn domain(&self) -> &str {
        MICROSOFT
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![per_channel(&infer_unary(cx)?)?])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (positions, channels) = image(&cx.typed::<u8>(0)?.shape)?;
        let (x, y) = (affine(cx, 1)?, affine(cx, 3)?);
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            integer::global_average(positions, channels, x, y, parts.input(0), parts.output(0));
            Ok(())
        }))
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 1, outs: 1 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::run;
    use tensor::{DType, Tensor};

    #[test]
    fn channels_last_images_are_carried_through() {
        let attrs = ir::Attrs::new().with_int("channels_last", 1, 0);
        let op = parse(&Parse { attrs: &attrs, opset: 1, ins: 5, outs: 1 }).unwrap().op;
        assert_eq!((op.is::<ir::Opaque>().is_some(), op.attrs()), (true, attrs));
    }

    #[test]
    fn means_of_codes() {
        let x = Tensor::new(&[1, 2, 1, 4], vec![10u8, 11, 12, 15, 0, 0, 255, 255]);
        let (x_scale, x_zero) = (Tensor::scalar(0.5f32), Tensor::scalar(10u8));
        let (y_scale, y_zero) = (Tensor::scalar(0.25f32), Tensor::scalar(1u8));
        let ins = [&x, &x_scale, &x_zero, &y_scale, &y_zero].map(Some);
        let y = run(&QLinearGlobalAveragePool, &ins, 1).unwrap().remove(0);
        // 8 steps of 0.5 over 4 positions are 1.0, which is 4 steps of 0.25.
        assert_eq!(y, Tensor::new(&[1, 2, 1, 1], vec![5u8, 236]));
        let flat = Tensor::zeros(DType::U8, &[2, 2]);
        let ins = [&flat, &x_scale, &x_zero, &y_scale, &y_zero].map(Some);
        assert!(run(&QLinearGlobalAveragePool, &ins, 1).unwrap_err().contains("no spatial axis"));
    }
}
