//! `qat.ChannelSum`: sums over every axis but the channel axis 1, the gradient of a bias that is added per channel.

use ir::{Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use kernels::reduce;

/// `ChannelSum(x)`: f32 `(N, C, ...)` to `(C)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelSum;

/// Reads the operator.
pub fn parse(_cx: &Parse) -> Result<Parsed, String> {
    Ok(ChannelSum.into())
}

impl Op for ChannelSum {
    fn name(&self) -> &str {
        "ChannelSum"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.float(0)?;
        let channels = match &x.shape {
            Some(shape) => {
                Some(vec![shape.get(1).ok_or_else(|| format!("{x} has no channel axis"))?.clone()])
            }
            None => None,
        };
        Ok(vec![Type { dtype: x.dtype, shape: channels }])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let x = cx.typed::<f32>(0)?;
        let channels = *x.shape.get(1).ok_or("the operand has no channel axis")?;
        let workspace = reduce::column_sums_workspace(x.len() / channels.max(1), channels);
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            reduce::column_sums(parts.input(0), channels, parts.output(0), parts.workspace());
            Ok(())
        });
        Ok(step.workspace::<f32>(workspace))
    }

    fn layouts(&self) -> Layouts {
        Layouts::ChannelsLast { ins: 1, outs: 0 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tensor::Tensor;

    #[test]
    fn sums_all_but_the_channels() {
        let x = Tensor::new(&[2, 2, 2], (1..=8).map(|i| i as f32).collect());
        let y = ir::eval(&ChannelSum, &[Some(&x)], 1).unwrap();
        assert_eq!(y[0], Tensor::new(&[2], vec![14.0f32, 22.0]));
        let x = Tensor::new(&[2, 3], (1..=6).map(|i| i as f32).collect());
        assert_eq!(ir::eval(&ChannelSum, &[Some(&x)], 1).unwrap()[0].to_f32(), [5.0, 7.0, 9.0]);
        assert!(ir::eval(&ChannelSum, &[Some(&Tensor::scalar(1f32))], 1).is_err());
    }
}
