//! What happened in a run, kept for reports.

use crate::Stage;
use passes::Line;
use train::{Accuracy, Event, Quality};

/// Collects what a run tells of itself: hand it every [`Stage`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// What passes did and what they left, in order.
    pub decisions: Vec<Line>,
    /// One entry per training step.
    pub steps: Vec<StepRecord>,
    /// One entry per epoch.
    pub epochs: Vec<EpochRecord>,
    /// Epochs after which the state was reached that training ended with, where it is not the last one.
    pub kept: Option<usize>,
}

/// A training step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRecord {
    /// Epoch and step in it, from 0.
    pub at: (usize, usize),
    /// Steps done with it, from the beginning of training.
    pub steps: usize,
    /// Its loss.
    pub loss: f32,
    /// Learning rate of the weights.
    pub rate: f32,
    /// Accuracy over the epoch so far; counts nothing without labels.
    pub accuracy: Accuracy,
}

/// An epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct EpochRecord {
    /// Epochs done with it.
    pub epochs: usize,
    /// Steps done with it, from the beginning of training.
    pub steps: usize,
    /// Mean loss.
    pub loss: f32,
    /// Accuracy on the training data, as the steps saw it; counts nothing without labels.
    pub train: Accuracy,
    /// On the evaluation data, in int8 form.
    pub eval: Option<Quality>,
    /// Trained thresholds and step sizes.
    pub thresholds: Vec<(String, f32)>,
}

impl History {
    /// Takes note of a stage.
    pub fn hear(&mut self, stage: &Stage) {
        match stage {
            Stage::Normalized(report) | Stage::Inserted(report) | Stage::Frozen(report) => {
                self.decisions.extend(report.lines.iter().cloned());
            }
            Stage::Training(event) => self.hear_training(event),
            _ => {}
        }
    }

    fn hear_training(&mut self, event: &Event) {
        match event {
            Event::Step { epoch, step, steps, loss, rates, accuracy, .. } => {
                let rate = rates.first().map_or(0.0, |r| r.1);
                let (at, steps) = ((*epoch, *step), epoch * steps + step + 1);
                self.steps.push(StepRecord { at, steps, loss: *loss, rate, accuracy: *accuracy });
            }
            Event::Epoch { epoch, loss, train, eval, thresholds, .. } => self.epochs.push(EpochRecord {
                epochs: epoch + 1,
                steps: self.steps.last().map_or(0, |s| s.steps),
                loss: *loss,
                train: *train,
                eval: *eval,
                thresholds: thresholds.clone(),
            }),
            // What came after the state to which training went back is not part of the result.
            Event::Diverged { back_to, .. } => {
                self.steps.retain(|s| s.at < *back_to);
                self.epochs.retain(|e| e.epochs <= back_to.0);
            }
            Event::Restored { epochs } => self.kept = Some(*epochs),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_training_went_back_over_is_forgotten() {
        let mut history = History::default();
        let step = |epoch, step| Event::Step {
            epoch,
            step,
            steps: 2,
            loss: 1.0,
            rates: vec![("weights".into(), 0.1)],
            accuracy: Accuracy::default(),
            seconds: 0.1,
        };
        for (e, s) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            history.hear(&Stage::Training(&step(e, s)));
        }
        let what = "the loss is NaN".to_string();
        history.hear(&Stage::Training(&Event::Diverged {
            epoch: 1,
            step: 1,
            what,
            back_to: (1, 0),
            rate_factor: 0.1,
        }));
        assert_eq!(history.steps.iter().map(|s| s.steps).collect::<Vec<_>>(), [1, 2]);
        history.hear(&Stage::Training(&step(1, 0)));
        assert_eq!(history.steps.last().map(|s| (s.steps, s.rate)), Some((3, 0.1)));
    }
}
