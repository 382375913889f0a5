//! `qat.Observe`: follows the range of a tensor from batch to batch. Its state is a variable of the graph.

use ir::{Attrs, Infer, Io, Layouts, Lower, Op, Parse, Parsed, Step, Type};
use observe::Statistic;

/// `Observe(x, state)`: the state after the batch `x`. `x` f32 of any shape; `state` f32, 1-D, laid out as
/// [`Statistic`] says. Fails at run time when `x` holds a value that is not finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observe {
    /// Which statistic.
    pub statistic: Statistic,
}

pub(crate) fn statistic(attrs: &Attrs) -> Result<Statistic, String> {
    let rate = || {
        let rate = attrs.float("rate", 0.9)?;
        if (0.0..1.0).contains(&rate) {
            Ok(rate)
        } else {
            Err(format!("attribute rate is {rate}, outside of 0..1"))
        }
    };
    let window = || {
        let window = attrs.int("window", 10000)?;
        usize::try_from(window)
            .ok()
            .filter(|w| (1..=1 << 24).contains(w))
            .ok_or(format!("attribute window is {window}"))
    };
    Ok(match attrs.str("kind", "moving_average_min_max")? {
        "min_max" => Statistic::MinMax,
        "moving_average_min_max" => Statistic::MovingAverageMinMax { rate: rate()? },
        "abs_max" => Statistic::AbsMax,
        "moving_average_abs_max" => Statistic::MovingAverageAbsMax { rate: rate()? },
        "range_abs_max" => Statistic::RangeAbsMax { window: window()? },
        other => return Err(format!("attribute kind is \"{other}\", which names no statistic")),
    })
}

pub(crate) fn attrs(statistic: Statistic) -> Attrs {
    let (kind, attrs) = match statistic {
        Statistic::MinMax => ("min_max", Attrs::new()),
        Statistic::MovingAverageMinMax { rate } => {
            ("moving_average_min_max", Attrs::new().with_float("rate", rate, 0.9))
        }
        Statistic::AbsMax => ("abs_max", Attrs::new()),
        Statistic::MovingAverageAbsMax { rate } => {
            ("moving_average_abs_max", Attrs::new().with_float("rate", rate, 0.9))
        }
        Statistic::RangeAbsMax { window } => {
            ("range_abs_max", Attrs::new().with_int("window", window as i64, 10000))
        }
    };
    attrs.with_str("kind", kind, "moving_average_min_max")
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(Observe { statistic: statistic(cx.attrs)? }.into())
}

/// Checks that operand `i` is a state of `statistic`.
pub(crate) fn check_state(cx: &Infer, i: usize, statistic: Statistic) -> Result<(), String> {
    let (ty, len) = (cx.float(i)?, statistic.initial().len());
    match ty.dims() {
        Some(dims) if dims != [len] => {
            Err(format!("the state of {statistic:?} has {len} elements, but input {i} is {ty}"))
        }
        _ => Ok(()),
    }
}

impl Op for Observe {
    fn name(&self) -> &str {
        "Observe"
    }

    fn domain(&self) -> &str {
        "qat"
    }

    fn attrs(&self) -> Attrs {
        attrs(self.statistic)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        cx.float(0)?;
        check_state(cx, 1, self.statistic)?;
        Ok(vec![cx.ty(1)?.clone()])
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        (0..2).try_for_each(|i| cx.typed::<f32>(i).map(|_| ()))?;
        let statistic = self.statistic;
        let step = Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let state = parts.updated::<f32>(1, 0);
            statistic.update(parts.input(0), state).map_err(|e| e.to_string())
        });
        Ok(step.in_place(1, 0))
    }

    fn layouts(&self) -> Layouts {
        Layouts::Same { ins: 1, outs: 0 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tensor::Tensor;

    #[test]
    fn the_state_moves_with_each_batch() {
        let op = Observe { statistic: Statistic::MinMax };
        let mut state = Tensor::new(&[3], op.statistic.initial());
        for x in [[1.0f32, -2.0], [0.0, 4.0]] {
            state =
                ir::eval(&op, &[Some(&Tensor::new(&[2], x.to_vec())), Some(&state)], 1).unwrap().remove(0);
        }
        assert_eq!(op.statistic.range(&state.to_f32()), Some(::observe::Range { min: -2.0, max: 4.0 }));
    }

    #[test]
    fn nan_is_told() {
        let op = Observe { statistic: Statistic::MinMax };
        let (x, state) = (Tensor::new(&[1], vec![f32::NAN]), Tensor::new(&[3], op.statistic.initial()));
        assert!(ir::eval(&op, &[Some(&x), Some(&state)], 1).unwrap_err().to_string().contains("NaN"));
    }
}
