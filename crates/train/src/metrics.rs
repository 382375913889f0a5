//! Accuracy of class scores, and nearness to the float model.

use serde::{Deserialize, Serialize};

/// Counts of right answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Samples whose label has the largest score.
    pub top1: usize,
    /// Samples whose label is among the five largest scores.
    pub top5: usize,
    /// All samples.
    pub samples: usize,
}

impl Accuracy {
    /// Counts a batch of `scores` (rows of `classes`). Of equal scores, the one with the lower class number counts as
    /// larger, as in NumPy's `argmax`.
    pub fn count(&mut self, scores: &[f32], classes: usize, labels: &[i64]) {
        for (row, &label) in scores.chunks_exact(classes.max(1)).zip(labels) {
            self.samples += 1;
            let Some(&own) = usize::try_from(label).ok().and_then(|l| row.get(l)) else { continue };
            let above = |(i, &s): (usize, &f32)| s > own || (s == own && (i as i64) < label) || s.is_nan();
            let rank = row.iter().enumerate().filter(|&x| above(x)).count();
            self.top1 += (rank == 0) as usize;
            self.top5 += (rank < 5) as usize;
        }
    }

    /// Share of right answers, 0 to 1.
    pub fn top1(&self) -> f64 {
        self.top1 as f64 / self.samples.max(1) as f64
    }

    /// Share of labels among the five largest scores, 0 to 1.
    pub fn top5(&self) -> f64 {
        self.top5 as f64 / self.samples.max(1) as f64
    }
}

/// How near the outputs of a quantized model are to those of the float model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fidelity {
    /// Squared error over the square of the float output; the mean over the outputs.
    pub relative_error: f64,
    /// Samples compared.
    pub samples: usize,
}

impl Fidelity {
    /// The signal-to-quantization-noise ratio in decibels, `-10 lg` of the relative error; infinite for equal outputs.
    pub fn sqnr(&self) -> f64 {
        -10.0 * self.relative_error.log10()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count() {
        let mut a = Accuracy::default();
        a.count(&[0.1, 0.9, 0.0, 0.5, 0.5, 0.2], 3, &[1, 1]);
        assert_eq!(a, Accuracy { top1: 1, top5: 2, samples: 2 });
        a.count(&[0.0; 7], 7, &[6]);
        assert_eq!(a, Accuracy { top1: 1, top5: 2, samples: 3 });
        a.count(&[f32::NAN, 1.0], 2, &[1]);
        assert_eq!(a.top1, 1);
    }
}
