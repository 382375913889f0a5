//! Which samples make up which batch.

use crate::{Error, Rng};

/// The order in which an epoch goes through the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As stored.
    Stored,
    /// Shuffled; the same for the same seed and epoch, on every machine.
    Shuffled {
        /// Seed of the whole run.
        seed: u64,
        /// Number of the epoch, so that each has an order of its own.
        epoch: u64,
    },
}

/// What becomes of the last samples when they do not fill a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// They make a smaller batch (evaluation: every sample counts).
    Keep,
    /// They are left out (training with a fixed batch shape).
    Drop,
}

/// The batches of one epoch, each a list of sample numbers.
///
/// ```
/// use onnx_qat_data::{Batches, Last, Order};
/// let batches = Batches::new(5, 2, Order::Stored, Last::Keep)?;
/// assert_eq!(batches.iter().collect::<Vec<_>>(), [&[0, 1][..], &[2, 3], &[4]]);
/// # Ok::<(), onnx_qat_data::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Batches {
    order: Vec<usize>,
    size: usize,
    last: Last,
}

impl Batches {
    /// Batches of `size` out of `samples` samples.
    ///
    /// # Errors
    /// When there would be no batch at all.
    pub fn new(samples: usize, size: usize, order: Order, last: Last) -> Result<Batches, Error> {
        let error = |fix| Err(Error::BatchSize { size, samples, fix });
        if size == 0 {
            return error("a batch holds at least one sample");
        }
        if samples == 0 {
            return error("the data is empty");
        }
        if last == Last::Drop && samples < size {
            return error("choose a smaller batch size or more data");
        }
        let mut list: Vec<usize> = (0..samples).collect();
        if let Order::Shuffled { seed, epoch } = order {
            Rng::stream(seed, epoch).shuffle(&mut list);
        }
        if last == Last::Drop {
            list.truncate(samples / size * size);
        }
        Ok(Batches { order: list, size, last })
    }

    /// The batches, in order.
    pub fn iter(&self) -> std::slice::Chunks<'_, usize> {
        self.order.chunks(self.size)
    }

    /// Number of batches; 0 only when [`Batches::starting_at`] leaves none.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.iter().len()
    }

    /// The batches from number `first` on, to go on where an epoch was left.
    pub fn starting_at(mut self, first: usize) -> Batches {
        self.order.drain(..self.order.len().min(first.saturating_mul(self.size)));
        self
    }

    pub(crate) fn last(&self) -> Last {
        self.last
    }

    /// Number of samples in all batches together.
    pub fn samples(&self) -> usize {
        self.order.len()
    }
}

impl<'a> IntoIterator for &'a Batches {
    type Item = &'a [usize];
    type IntoIter = std::slice::Chunks<'a, usize>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_once_in_an_order_of_its_own_per_epoch() {
        let epoch = |seed, epoch| Batches::new(103, 10, Order::Shuffled { seed, epoch }, Last::Keep).unwrap();
        let first = epoch(1, 0);
        assert_eq!((first.len(), first.samples(), first.iter().last().unwrap().len()), (11, 103, 3));
        let mut all: Vec<usize> = first.iter().flatten().copied().collect();
        assert_ne!(all, (0..103).collect::<Vec<_>>());
        all.sort();
        assert_eq!(all, (0..103).collect::<Vec<_>>());
        assert_eq!(first.order, epoch(1, 0).order);
        assert_ne!(first.order, epoch(1, 1).order);
        assert_ne!(first.order, epoch(2, 0).order);
    }

    #[test]
    fn dropping_the_last_samples() {
        let batches = Batches::new(103, 10, Order::Stored, Last::Drop).unwrap();
        assert!((&batches).into_iter().all(|b| b.len() == 10));
        assert_eq!((batches.len(), batches.samples()), (10, 100));
        assert_eq!(Batches::new(20, 10, Order::Stored, Last::Drop).unwrap().len(), 2);
    }

    #[test]
    fn an_epoch_goes_on_where_it_was_left() {
        let batches = || Batches::new(11, 3, Order::Shuffled { seed: 1, epoch: 2 }, Last::Keep).unwrap();
        for first in 0..6 {
            let (all, rest) = (batches(), batches().starting_at(first));
            assert!(rest.iter().eq(all.iter().skip(first)), "{first}");
            assert_eq!(rest.len(), 4usize.saturating_sub(first));
        }
    }

    #[test]
    fn no_batch_is_an_error() {
        for (samples, size, last, says) in [
            (5, 0, Last::Keep, "at least one sample"),
            (0, 4, Last::Keep, "the data is empty"),
            (3, 4, Last::Drop, "batches of 4 cannot be made of 3 samples; choose a smaller"),
        ] {
            let e = Batches::new(samples, size, Order::Stored, last).unwrap_err().to_string();
            assert!(e.contains(says), "{e}");
        }
        assert_eq!(Batches::new(3, 4, Order::Stored, Last::Keep).unwrap().len(), 1);
    }
}
