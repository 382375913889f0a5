//! `Col2Im` (ONNX 18): patches added up where they overlap.

use crate::parts::{gather, pad, resized};
use crate::reduce::Form;
use crate::shapes::{integers, list};
use crate::window::Window;
use crate::{ReduceSum, unary};
use ir::{Attrs, Compose, Dim, Infer, OnnxForm, Op, Parse, Parsed, Type, ValueId};
use kernels::window::{Axis, Rounding};

/// `Col2Im(x, image, block)`: `x` `(N, C product(block), patches)`, as a convolution with a kernel of shape `block` over
/// an image of shape `image` sees it; the result is `(N, C, image...)`. `image` and `block` are lists of integers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Col2Im {
    /// Strides, dilations, padding.
    pub window: Window,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(Col2Im { window: Window::parse(cx.attrs)? }.into())
}

impl Col2Im {
    /// The windows over the axes of the image.
    fn axes(&self, image: &[i64], block: &[i64]) -> Result<Vec<Axis>, String> {
        let sizes = |list: &[i64]| -> Result<Vec<usize>, String> {
            let size = |&n| usize::try_from(n).map_err(|_| format!("{list:?} holds a negative size"));
            list.iter().map(size).collect()
        };
        let (image, block) = (sizes(image)?, sizes(block)?);
        if image.len() != block.len() {
            return Err(format!("patches of shape {block:?} do not lie in an image of shape {image:?}"));
        }
        self.window.check(image.len())?;
        let axis = |(i, (&n, &k))| self.window.axis(i, image.len(), n, k, Rounding::Floor);
        image.iter().zip(&block).enumerate().map(axis).collect()
    }
}

impl Op for Col2Im {
    fn name(&self) -> &str {
        "Col2Im"
    }

    fn attrs(&self) -> Attrs {
        self.window.attrs(Attrs::new())
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        unary::since(self, opset, 18)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let x = cx.ty(0)?;
        let shape = match (&x.shape, integers(cx, 1)?, integers(cx, 2)?) {
            (Some(dims), Some(image), Some(block)) => {
                let axes = self.axes(&image, &block)?;
                let product = |f: fn(&Axis) -> usize| {
                    axes.iter().map(f).try_fold(1usize, usize::checked_mul).ok_or("the patches are too large")
                };
                let (taps, patches) = (product(|a| a.kernel)?, product(|a| a.output)?);
                let [batch, columns, count] = &dims[..] else {
                    return Err(format!("the patches should have 3 axes, but are {x}"));
                };
                let channels = match columns.fixed() {
                    Some(n) if n % taps != 0 => {
                        return Err(format!("{n} elements do not divide into patches of {taps}"));
                    }
                    Some(n) => Dim::Fixed(n / taps),
                    None => Dim::Unknown,
                };
                if !count.agrees(&Dim::Fixed(patches)) {
                    return Err(format!("{x} should hold {patches} patches"));
                }
                Some(
                    [batch.clone(), channels]
                        .into_iter()
                        .chain(axes.iter().map(|a| a.input.into()))
                        .collect(),
                )
            }
            _ => None,
        };
        Ok(vec![Type { dtype: x.dtype, shape }])
    }

    /// Each element of the image adds up the entries that stand for it, axis by axis.
    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        let mut x = cx.input(0)?;
        let [batch, columns, _] = cx.dims(x)?[..] else { return None };
        let (image, block) = (cx.constant(cx.input(1)?)?.to_i64(), cx.constant(cx.input(2)?)?.to_i64());
        let axes = self.axes(&image, &block).ok()?;
        let taps: usize = axes.iter().map(|a| a.kernel).product();
        let channels = columns / taps;
        // (N, C, kernels..., outputs...), of which the first kernel and the first output axis are joined in turn.
        for (i, axis) in axes.iter().enumerate() {
            let before: usize = axes[..i].iter().map(|a| a.input).product();
            let kernels: usize = axes[i + 1..].iter().map(|a| a.kernel).product();
            let outputs: usize = axes[i + 1..].iter().map(|a| a.output).product();
            // (N C, done, kernel, kernels, output, outputs) -> (N C, done, kernels, outputs, kernel output)
            x = resized(cx, x, &[batch * channels * before, axis.kernel, kernels, axis.output, outputs])?;
            x = crate::parts::transpose(cx, x, &[0, 2, 4, 1, 3])?;
            let pairs = axis.kernel * axis.output;
            x = resized(cx, x, &[batch * channels * before, kernels, outputs, pairs])?;
            x = pad(cx, x, &[0; 4], &[0, 0, 0, 1])?;
            let entry = |at: usize, k: usize| {
                let from = (at + axis.pad_begin).checked_sub(k * axis.dilation)?;
                let o = Some(from / axis.stride).filter(|&o| from % axis.stride == 0 && o < axis.output);
                o.map(|o| k * axis.output + o)
            };
            let entries = |i: usize| entry(i / axis.kernel, i % axis.kernel).unwrap_or(pairs);
            x = gather(cx, x, 3, &[axis.input, axis.kernel], entries)?;
            let last = cx.constant_value(list(&[4]));
            x = cx.add(ReduceSum { form: Form { keep_dims: false, noop: false } }, &[x, last])?;
            // (N C done, kernels, outputs, input) -> (N C done input, kernels, outputs)
            x = crate::parts::transpose(cx, x, &[0, 3, 1, 2])?;
        }
        let shape: Vec<usize> = [batch, channels].into_iter().chain(axes.iter().map(|a| a.input)).collect();
        Some(vec![resized(cx, x, &shape)?])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn overlaps_add_up() {
        let x = Tensor::new(&[1, 2, 3], vec![1.0f32, 2.0, 3.0, 10.0, 20.0, 30.0]);
        let y = eval(&Col2Im::default(), &[&x, &list(&[4]), &list(&[2])]).unwrap();
        assert_eq!((y.shape(), y.to_f32()), (&[1, 1, 4][..], vec![1.0, 12.0, 23.0, 30.0]));
        let window = Window { strides: vec![2, 1], pads: vec![1, 0, 1, 0], ..Window::default() };
        let x = Draw::new(1).tensor(&[2, 12, 6], -1.0, 1.0);
        check_gradient(Col2Im { window }, &[&x, &list(&[4, 4]), &list(&[2, 3])], 1, &[0]);
        let x = Tensor::new(&[1, 3, 3], vec![0f32; 9]);
        let e = eval(&Col2Im::default(), &[&x, &list(&[4]), &list(&[2])]).unwrap_err();
        assert!(e.contains("do not divide"), "{e}");
    }
}
