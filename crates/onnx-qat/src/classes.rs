//! Class scores as people read them.

/// A class and what a model thinks of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassScore {
    /// Its number.
    pub class: usize,
    /// The score as the model gives it.
    pub score: f32,
    /// The score as it is when the scores are probabilities already, else their softmax.
    pub probability: f32,
}

/// The `k` classes with the largest scores of one sample, the largest first; of equal ones the lower number first.
///
/// ```
/// let best = onnx_qat::top_classes(&[0.0, 2.0, 1.0], 2);
/// assert_eq!(best.iter().map(|c| c.class).collect::<Vec<_>>(), [1, 2]);
/// assert!((best[0].probability - 0.6652).abs() < 1e-4);
/// ```
pub fn top_classes(scores: &[f32], k: usize) -> Vec<ClassScore> {
    let sum: f32 = scores.iter().sum();
    let probabilities = (sum - 1.0).abs() < 1e-3 && scores.iter().all(|s| (0.0..=1.0).contains(s));
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = scores.iter().map(|s| (s - largest).exp()).sum();
    let probability = |s: f32| if probabilities { s } else { (s - largest).exp() / total };
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let best = order.into_iter().take(k);
    best.map(|class| ClassScore { class, score: scores[class], probability: probability(scores[class]) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_stay_what_they_are() {
        let best = top_classes(&[0.2, 0.5, 0.3], 9);
        assert_eq!(
            best.iter().map(|c| (c.class, c.probability)).collect::<Vec<_>>(),
            [(1, 0.5), (2, 0.3), (0, 0.2)]
        );
        assert!(top_classes(&[], 5).is_empty());
        assert_eq!(top_classes(&[3.0, 3.0], 1)[0].class, 0);
        assert_eq!(top_classes(&[1000.0, -1000.0], 1)[0].probability, 1.0);
    }
}
