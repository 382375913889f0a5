//! `QLinearAveragePool` (com.microsoft 1): the mean of each window of uint8 codes.

use crate::AveragePool;
use crate::max_pool::{plan, pooled};
use crate::q_linear::{MICROSOFT, affine, infer_unary};
use crate::shapes::untouched_of;
use ir::{Attrs, Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use kernels::integer;

/// `QLinearAveragePool(x, x_scale, x_zero_point, y_scale, y_zero_point?)`: `x` uint8 `(N, C, spatial...)`; scales and zero
/// points are constants of one element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QLinearAveragePool {
    /// The windows.
    pub pool: AveragePool,
}

/// Reads the operator. One on channels-last images is carried through.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    if cx.attrs.int("channels_last", 0)? != 0 {
        return Ok(untouched_of(MICROSOFT, "QLinearAveragePool", cx));
    }
    Ok(QLinearAveragePool { pool: AveragePool::from_attrs(cx.attrs)? }.into())
}

impl Op for QLinearAveragePool {
    fn name(&self) -> &str {
        "QLinearAveragePool"
    }

    fn domain(&self) -> &str {
        MICROSOFT
    }

    fn attrs(&self) -> Attrs {
        self.pool.attrs()
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        Ok(vec![pooled(&infer_unary(cx)?, &self.pool.window, self.pool.ceil)?])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let plan = plan(&cx.typed::<u8>(0)?.shape, &self.pool.window, self.pool.ceil)?;
        let (x, y, include_pad) = (affine(cx, 1)?, affine(cx, 3)?, self.pool.include_pad);
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            integer::average(&plan, include_pad, x, y, parts.input(0), parts.output(0));
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
    use crate::testing::{Draw, run};
    use crate::window::Window;
    use crate::{DequantizeLinear, QuantizeLinear};
    use tensor::Tensor;

    #[test]
    fn channels_last_images_are_carried_through() {
        let attrs = ir::Attrs::new().with_int("channels_last", 1, 0);
        let op = parse(&Parse { attrs: &attrs, opset: 1, ins: 5, outs: 1 }).unwrap().op;
        assert_eq!((op.is::<ir::Opaque>().is_some(), op.attrs()), (true, attrs));
    }

    #[test]
    fn agrees_with_the_float_operator_between_pairs() {
        let mut draw = Draw::new(61);
        for (shape, window) in [
            (vec![2, 3, 7, 6], Window::new(&[3, 3], 2, 1)),
            (vec![1, 17, 4, 4], Window::new(&[2, 2], 1, 0)),
            (vec![2, 9, 11], Window::new(&[4], 3, 2)),
        ] {
            for (ceil, include_pad) in [(false, false), (true, false), (false, true), (true, true)] {
                let x = (0..shape.iter().product()).map(|_| draw.int(0, 256) as u8).collect();
                let x = Tensor::new(&shape, x);
                let (x_scale, x_zero) = (Tensor::scalar(0.031f32), Tensor::scalar(draw.int(0, 256) as u8));
                let (y_scale, y_zero) = (Tensor::scalar(0.02f32), Tensor::scalar(draw.int(0, 256) as u8));
                let pool = AveragePool { window: window.clone(), ceil, include_pad };
                let ins = [&x, &x_scale, &x_zero, &y_scale, &y_zero].map(Some);
                let got = run(&QLinearAveragePool { pool: pool.clone() }, &ins, 1).unwrap().remove(0);

                let eval = |op: &dyn Op, ins: &[&Tensor]| {
                    let ins: Vec<_> = ins.iter().copied().map(Some).collect();
                    ir::eval(op, &ins, 1).unwrap().remove(0)
                };
                let y = eval(&pool, &[&eval(&DequantizeLinear::default(), &[&x, &x_scale, &x_zero])]);
                let want = eval(&QuantizeLinear::default(), &[&y, &y_scale, &y_zero]);
                assert_eq!(got.shape(), want.shape());
                assert!(got.to_i64().iter().zip(&want.to_i64()).all(|(a, b)| a.abs_diff(*b) <= 1));
            }
        }
    }
}
