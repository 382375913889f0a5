//! `MaxUnpool` (ONNX 9, 11, 22): puts values back to where `MaxPool` found them.

use crate::shapes::{integers, list};
use crate::window::Window;
use crate::{GatherElements, Reshape};
use ir::{Attrs, Dim, Infer, Io, Lower, Op, Parse, Parsed, Step, Type, Vjp};

/// `MaxUnpool(x, indices, shape?)`: `x` f32 `(N, C, spatial...)`; each element goes to its index, as `MaxPool` numbers them, the
/// others are zero. The result has the size that was pooled, or the shape given: more elements at the end of the axes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaxUnpool {
    /// Kernel size, strides, padding of the pool.
    pub window: Window,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(MaxUnpool { window: Window::parse(cx.attrs)?.with_kernel()? }.into())
}

impl MaxUnpool {
    /// The size that pooling makes `n` elements of, along spatial axis `i`.
    fn size(&self, i: usize, n: usize) -> Result<usize, String> {
        let axes = self.window.kernel.len();
        let pad = |at: usize| self.window.pads.get(at).copied().unwrap_or(0);
        let steps = n.checked_sub(1).and_then(|n| n.checked_mul(self.window.stride(i)));
        let size = steps.and_then(|s| {
            s.checked_add(self.window.kernel[i])?.checked_sub(pad(i))?.checked_sub(pad(axes + i))
        });
        size.ok_or_else(|| {
            format!("{n} elements are not those of a pool with kernel {:?}", self.window.kernel)
        })
    }

    /// The shape that was pooled to `x`.
    fn pooled(&self, x: &[usize]) -> Result<Vec<usize>, String> {
        self.window.check(self.window.kernel.len())?;
        if x.len() != self.window.kernel.len() + 2 {
            return Err(format!("kernel_shape {:?} does not fit shape {x:?}", self.window.kernel));
        }
        let spatial = x[2..].iter().enumerate().map(|(i, &n)| self.size(i, n));
        x[..2].iter().map(|&n| Ok(n)).chain(spatial).collect()
    }
}

impl Op for MaxUnpool {
    fn name(&self) -> &str {
        "MaxUnpool"
    }

    fn attrs(&self) -> Attrs {
        self.window.attrs(Attrs::new())
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let (x, indices) = (cx.float(0)?, cx.ty(1)?);
        if !indices.agrees(&Type { dtype: indices.dtype, shape: x.shape.clone() }) {
            return Err(format!("the indices {indices} are not those of {x}"));
        }
        let pooled = x.dims().map(|dims| self.pooled(&dims)).transpose()?;
        let given = integers(cx, 2)?;
        let shape = match (given, pooled) {
            (Some(given), Some(pooled)) => {
                let sizes: Option<Vec<usize>> = given.iter().map(|&n| usize::try_from(n).ok()).collect();
                let covers = |sizes: &Vec<usize>| {
                    sizes.len() == pooled.len() && sizes.iter().zip(&pooled).all(|(a, b)| a >= b)
                };
                let sizes = sizes.filter(covers);
                Some(sizes.ok_or_else(|| format!("the shape {given:?} has no room for {pooled:?}"))?)
            }
            (None, pooled) => pooled.filter(|_| !cx.has(2)),
            (Some(_), None) => None,
        };
        let shape = shape.map(|sizes| sizes.into_iter().map(Dim::Fixed).collect());
        Ok(vec![Type { dtype: x.dtype, shape }])
    }

    fn vjp(&self, cx: &mut Vjp) -> Option<()> {
        if cx.input(2).is_some() {
            return None;
        }
        let (dy, indices) = (cx.d_output(0)?, cx.input(1)?);
        let shape: Vec<i64> = cx.dims(indices)?.iter().map(|&n| n as i64).collect();
        let (line, shape) = (cx.constant_value(list(&[-1])), cx.constant_value(list(&shape)));
        let values = cx.add(Reshape::default(), &[dy, line])?;
        let places = cx.add(Reshape::default(), &[indices, line])?;
        let dx = cx.add(GatherElements { axis: 0 }, &[values, places])?;
        let dx = cx.add(Reshape::default(), &[dx, shape])?;
        cx.set(0, dx);
        Some(())
    }

    fn lower(&self, cx: &Lower) -> Result<Step, String> {
        let (x, y) = (cx.typed::<f32>(0)?, cx.outs[0].shape.clone());
        cx.typed::<i64>(1)?;
        let inner = self.pooled(&x.shape)?;
        let count: usize = inner.iter().product();
        Ok(Step::new(move |io: &mut Io| {
            let mut parts = io.split();
            let (x, indices): (&[f32], &[i64]) = (parts.input(0), parts.input(1));
            let out: &mut [f32] = parts.output(0);
            out.fill(0.0);
            for (&x, &index) in x.iter().zip(indices) {
                let at = usize::try_from(index).ok().filter(|&at| at < count);
                let mut left = at.ok_or_else(|| format!("index {index} is outside of {count} elements"))?;
                // The index counts through the pooled shape; the result may be larger.
                let (mut place, mut step) = (0, 1);
                for (&n, &size) in inner.iter().zip(&y).rev() {
                    place += left % n * step;
                    left /= n;
                    step *= size;
                }
                out[place] = x;
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Draw, check_gradient, run};
    use tensor::Tensor;

    #[test]
    fn values_go_back() {
        let x = Tensor::new(&[1, 1, 1, 2], vec![5.0f32, 7.0]);
        let indices = Tensor::new(&[1, 1, 1, 2], vec![4i64, 3]);
        let op = MaxUnpool { window: Window::new(&[2, 2], 2, 0) };
        let y = run(&op, &[Some(&x), Some(&indices)], 1).unwrap().remove(0);
        assert_eq!(
            (y.shape(), y.to_f32()),
            (&[1, 1, 2, 4][..], vec![0.0, 0.0, 0.0, 7.0, 5.0, 0.0, 0.0, 0.0])
        );
        let y = run(&op, &[Some(&x), Some(&indices), Some(&list(&[1, 1, 2, 5]))], 1).unwrap().remove(0);
        assert_eq!(y.to_f32(), [0.0, 0.0, 0.0, 7.0, 0.0, 5.0, 0.0, 0.0, 0.0, 0.0]);
        let far = Tensor::new(&[1, 1, 1, 2], vec![4i64, 8]);
        assert!(run(&op, &[Some(&x), Some(&far)], 1).unwrap_err().contains("index 8"));
        check_gradient(op, &[&Draw::new(1).tensor(&[1, 1, 1, 2], -1.0, 1.0), &indices], 1, &[0]);
    }
}
