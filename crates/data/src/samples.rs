//! The contract of a data source.

use crate::{Error, Place, Rng};
use std::fmt::Debug;

/// What one input of a model gets, sample by sample. Any thread may read any sample at any time, so that nothing depends
/// on who reads what when.
#[allow(clippy::len_without_is_empty)]
pub trait Samples: Debug + Send + Sync {
    /// Number of samples; never 0.
    fn len(&self) -> usize;

    /// Shape of every sample as it is delivered.
    fn shape(&self) -> &[usize];

    /// Where the samples come from, for messages.
    fn place(&self) -> &Place;

    /// Writes one sample, as the model takes it, to `out`, which has as many elements as [`Samples::shape`] says.
    ///
    /// # Errors
    /// [`Error::Broken`] when this sample cannot be used but others may; anything else when reading should end.
    fn read(&self, sample: usize, view: View, out: Row) -> Result<(), Error>;
}

/// Where a sample is written to. Float inputs take `f32`, all others `i64`.
#[derive(Debug)]
pub enum Row<'a> {
    /// For an input of floats.
    F32(&'a mut [f32]),
    /// For an input of integers, such as token ids.
    I64(&'a mut [i64]),
}

/// How samples are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The same at every time: evaluation and calibration.
    Plain,
    /// Changed at random where the preprocessing says so: training. The change depends on these two and the number of the
    /// sample, on nothing else.
    Augmented {
        /// Seed of the whole run.
        seed: u64,
        /// Number of the epoch, from 0.
        epoch: u64,
    },
}

impl View {
    /// The random numbers that change this sample; none where it stays as it is.
    pub fn rng(self, sample: usize) -> Option<Rng> {
        match self {
            View::Plain => None,
            // The first stream of the epoch orders its samples, this is another.
            View::Augmented { seed, epoch } => {
                Some(Rng::stream(Rng::stream(!seed, epoch).next_u64(), sample as u64))
            }
        }
    }
}
