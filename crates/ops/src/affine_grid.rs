//! `AffineGrid` (ONNX 20): the positions for `GridSample` that an affine map gives (Jaderberg et al. 2015, arXiv 1506.02025).

use crate::parts::{resized, transpose};
use crate::shapes::integers;
use crate::{MatMul, parts, unary};
use ir::{Attrs, Compose, Dim, Infer, OnnxForm, Op, Parse, Parsed, Type, ValueId};
use tensor::element_count;

/// `AffineGrid(theta, size)`: `theta` float `(N, d, d + 1)` maps the positions of an image whose shape, `(N, C, spatial...)` of
/// two or three spatial axes, `size` names; the result is `(N, spatial..., d)`, the last axis of the image first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AffineGrid {
    /// -1 and 1 stand for the centers of the outermost elements, instead of their outer edges.
    pub align_corners: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    Ok(AffineGrid { align_corners: cx.attrs.int("align_corners", 0)? != 0 }.into())
}

/// The spatial sizes in `size`.
fn spatial(size: &[i64]) -> Result<Vec<usize>, String> {
    let sizes: Option<Vec<usize>> =
        size.iter().map(|&n| usize::try_from(n).ok().filter(|n| *n < 1 << 31)).collect();
    match sizes.as_deref() {
        Some([_, _, image @ ..]) if matches!(image.len(), 2 | 3) => Ok(image.to_vec()),
        _ => Err(format!("the size {size:?} should be one of images of two or three spatial axes")),
    }
}

impl AffineGrid {
    /// Where element `i` of `n` lies between -1 and 1.
    fn place(&self, i: usize, n: usize) -> f64 {
        let (i, n) = (i as f64, n as f64);
        match self.align_corners {
            true if n == 1.0 => -1.0,
            true => 2.0 * i / (n - 1.0) - 1.0,
            false => (2.0 * i + 1.0) / n - 1.0,
        }
    }
}

impl Op for AffineGrid {
    fn name(&self) -> &str {
        "AffineGrid"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("align_corners", self.align_corners.into(), 0)
    }

    fn to_onnx(&self, opset: i64) -> Result<OnnxForm, String> {
        unary::since(self, opset, 20)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        let theta = cx.float(0)?;
        let shape = match integers(cx, 1)? {
            None => None,
            Some(size) => {
                let image = spatial(&size)?;
                let d = image.len();
                let batch = Dim::Fixed(
                    usize::try_from(size[0]).map_err(|_| format!("the size {size:?} is negative"))?,
                );
                let want =
                    Type { dtype: theta.dtype, shape: Some(vec![batch.clone(), d.into(), (d + 1).into()]) };
                if !theta.agrees(&want) {
                    return Err(format!("the map should be {want}, but is {theta}"));
                }
                let sizes = image.into_iter().chain([d]).map(Dim::Fixed);
                Some([batch].into_iter().chain(sizes).collect())
            }
        };
        Ok(vec![Type { dtype: theta.dtype, shape }])
    }

    fn compose(&self, cx: &mut Compose) -> Option<Vec<ValueId>> {
        let theta = cx.input(0)?;
        let size = cx.constant(cx.input(1)?)?.to_i64();
        let image = spatial(&size).ok()?;
        let points = element_count(&image)?;
        cx.claim(points.checked_mul(image.len() + 1)?)?;
        // Each position with a one behind it, the last axis first.
        let mut positions = Vec::with_capacity(points * (image.len() + 1));
        for i in 0..points {
            let mut left = i;
            for &n in image.iter().rev() {
                positions.push(self.place(left % n, n));
                left /= n;
            }
            positions.push(1.0);
        }
        let positions = parts::floats(cx.ty(theta).dtype?, &[points, image.len() + 1], &positions)?;
        let positions = cx.constant_value(positions);
        let theta = transpose(cx, theta, &[0, 2, 1])?;
        let grid = cx.add(MatMul, &[positions, theta])?;
        let batch = usize::try_from(size[0]).ok()?;
        Some(vec![resized(cx, grid, &[&[batch], &image[..], &[image.len()]].concat())?])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::shapes::list;
    use crate::testing::{Draw, check_gradient, eval};
    use tensor::Tensor;

    #[test]
    fn the_map_is_applied() {
        let theta = Tensor::new(&[1, 2, 3], vec![1.0f32, 0.0, 0.5, 0.0, 2.0, 0.0]);
        let size = list(&[1, 4, 2, 3]);
        let y = eval(&AffineGrid { align_corners: true }, &[&theta, &size]).unwrap();
        assert_eq!(y.shape(), [1, 2, 3, 2]);
        assert_eq!(y.to_f32(), [-0.5, -2.0, 0.5, -2.0, 1.5, -2.0, -0.5, 2.0, 0.5, 2.0, 1.5, 2.0]);
        let y = eval(&AffineGrid { align_corners: false }, &[&theta, &list(&[1, 4, 1, 2])]).unwrap();
        assert_eq!(y.to_f32(), [0.0, 0.0, 1.0, 0.0]);
        let theta = Draw::new(1).tensor(&[2, 3, 4], -1.0, 1.0);
        check_gradient(AffineGrid::default(), &[&theta, &list(&[2, 1, 2, 2, 3])], 1, &[0]);
        assert!(
            eval(&AffineGrid::default(), &[&theta, &list(&[2, 1, 2])]).unwrap_err().contains("two or three")
        );
    }
}
