//! `NonMaxSuppression` (ONNX 10, 11): of boxes that overlap, the one with the best score.

use ir::{Attrs, Dim, Evaluate, Infer, Op, Parse, Parsed, Type};
use tensor::{DType, Tensor};

/// `NonMaxSuppression(boxes, scores, most?, overlap?, score?)`: `boxes` f32 `(batch, n, 4)`, two corners each, `scores`
/// `(batch, classes, n)`. For each batch and class the boxes by falling score, at most `most` of them, without those whose
/// score is not above `score` and those that share more than `overlap` of their area with a better one. The result is i64
/// `(found, 3)`: batch, class and box. How many are found, the data decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NonMaxSuppression {
    /// A box is its center, width and height.
    pub centers: bool,
}

/// Reads the operator.
pub fn parse(cx: &Parse) -> Result<Parsed, String> {
    match cx.attrs.int("center_point_box", 0)? {
        0 => Ok(NonMaxSuppression { centers: false }.into()),
        1 => Ok(NonMaxSuppression { centers: true }.into()),
        other => Err(format!("attribute center_point_box should be 0 or 1, but is {other}")),
    }
}

/// The area that two boxes share, of the area that they cover together.
fn overlap(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |b: [f32; 4]| (b[2] - b[0]) * (b[3] - b[1]);
    let side = |i: usize| (a[i + 2].min(b[i + 2]) - a[i].max(b[i])).max(0.0);
    let shared = side(0) * side(1);
    let (a, b) = (area(a), area(b));
    if shared <= 0.0 || a <= 0.0 || b <= 0.0 { 0.0 } else { shared / (a + b - shared) }
}

impl NonMaxSuppression {
    /// Low and high corner of a box.
    fn corners(&self, b: &[f32]) -> [f32; 4] {
        match self.centers {
            true => [b[0] - b[2] / 2.0, b[1] - b[3] / 2.0, b[0] + b[2] / 2.0, b[1] + b[3] / 2.0],
            false => [b[0].min(b[2]), b[1].min(b[3]), b[0].max(b[2]), b[1].max(b[3])],
        }
    }

    /// Batch, class and box of each that is found.
    fn found(
        &self,
        boxes: &Tensor,
        scores: &Tensor,
        limits: [Option<&Tensor>; 3],
    ) -> Result<Vec<[i64; 3]>, String> {
        let (&[batch, n, 4], &[same, classes, of]) = (boxes.shape(), scores.shape()) else {
            return Err(format!(
                "boxes of shape {:?} with scores of shape {:?}",
                boxes.shape(),
                scores.shape()
            ));
        };
        if (batch, n) != (same, of) {
            return Err(format!("{batch} batches of {n} boxes have scores of shape {:?}", scores.shape()));
        }
        let [most, most_shared, least] = limits.map(|t| t.and_then(|t| t.to_f64().first().copied()));
        let most = most.map_or(0, |m| m.max(0.0) as usize);
        let (boxes, scores) = (boxes.to_f32(), scores.to_f32());
        let mut found = Vec::new();
        for (b, class) in (0..batch).flat_map(|b| (0..classes).map(move |c| (b, c))) {
            let corners: Vec<[f32; 4]> =
                boxes[b * n * 4..][..n * 4].chunks_exact(4).map(|c| self.corners(c)).collect();
            let scores = &scores[(b * classes + class) * n..][..n];
            let enough = |i: &usize| least.is_none_or(|least| f64::from(scores[*i]) > least);
            let mut order: Vec<usize> = (0..n).filter(enough).collect();
            order.sort_by(|&i, &j| scores[j].total_cmp(&scores[i]));
            let mut kept: Vec<usize> = Vec::new();
            for i in order {
                if kept.len() >= most {
                    break;
                }
                let limit = most_shared.unwrap_or(0.0) as f32;
                if kept.iter().all(|&k| overlap(corners[i], corners[k]) <= limit) {
                    kept.push(i);
                }
            }
            found.extend(kept.into_iter().map(|i| [b as i64, class as i64, i as i64]));
        }
        Ok(found)
    }
}

impl Op for NonMaxSuppression {
    fn name(&self) -> &str {
        "NonMaxSuppression"
    }

    fn attrs(&self) -> Attrs {
        Attrs::new().with_int("center_point_box", self.centers.into(), 0)
    }

    fn infer(&self, cx: &Infer) -> Result<Vec<Type>, String> {
        (0..2).try_for_each(|i| cx.float(i).map(|_| ()))?;
        Ok(vec![Type { dtype: Some(DType::I64), shape: Some(vec![Dim::Unknown, Dim::Fixed(3)]) }])
    }

    fn evaluator(&self) -> Option<&dyn Evaluate> {
        Some(self)
    }
}

impl Evaluate for NonMaxSuppression {
    fn evaluate(&self, ins: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
        let input = |i: usize| ins.get(i).copied().flatten();
        let (Some(boxes), Some(scores)) = (input(0), input(1)) else {
            return Err("boxes or scores are missing".into());
        };
        let found = self.found(boxes, scores, [2, 3, 4].map(input))?;
        Ok(vec![Tensor::new(&[found.len(), 3], found.into_flattened())])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn eval(op: &NonMaxSuppression, ins: &[&Tensor]) -> Result<Tensor, String> {
        let ins: Vec<Option<&Tensor>> = ins.iter().map(|&t| Some(t)).collect();
        ir::eval(op, &ins, 1).map(|mut results| results.remove(0)).map_err(|e| e.0)
    }

    #[test]
    fn the_best_of_those_that_overlap() {
        let boxes = vec![0.0f32, 0.0, 2.0, 2.0, 2.2, 2.0, 0.2, 0.0, 5.0, 5.0, 6.0, 6.0];
        let boxes = Tensor::new(&[1, 3, 4], boxes);
        let scores = Tensor::new(&[1, 1, 3], vec![0.5f32, 0.9, 0.2]);
        let found = |most: i64, shared: f32, least: f32| {
            let op = NonMaxSuppression::default();
            let limits = (Tensor::scalar(most), Tensor::scalar(shared), Tensor::scalar(least));
            eval(&op, &[&boxes, &scores, &limits.0, &limits.1, &limits.2]).unwrap().to_i64()
        };
        assert_eq!(found(9, 0.5, 0.0), [0, 0, 1, 0, 0, 2]);
        assert_eq!(found(9, 0.95, 0.3), [0, 0, 1, 0, 0, 0]);
        assert_eq!(found(1, 0.95, 0.0), [0, 0, 1]);
        let e = eval(&NonMaxSuppression::default(), &[&boxes, &Tensor::new(&[1, 1, 2], vec![0f32; 2])]);
        assert!(e.unwrap_err().contains("scores of shape"));
    }
}
