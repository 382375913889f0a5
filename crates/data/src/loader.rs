//! Batches ready for a model, in order, read ahead on threads of their own.

use crate::samples::{Row, View};
use crate::{Batches, Dataset, Error, Last};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// The samples of a batch, as the inputs of the model take them.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Which samples these are.
    pub samples: Vec<usize>,
    /// Their class numbers; none where the dataset has none.
    pub labels: Vec<i64>,
    /// One entry per input of the dataset, the samples one after the other.
    pub inputs: Vec<Values>,
}

/// The values of one input.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Of a float input.
    F32(Vec<f32>),
    /// Of an integer input.
    I64(Vec<i64>),
}

impl Values {
    /// Puts other values behind these.
    ///
    /// # Panics
    /// When they are of another type: values of another input.
    pub fn append(&mut self, other: Values) {
        match (self, other) {
            (Values::F32(v), Values::F32(more)) => v.extend(more),
            (Values::I64(v), Values::I64(more)) => v.extend(more),
            (one, other) => panic!("values of two inputs, {one:?} and {other:?}"),
        }
    }

    fn row(&mut self, row: usize, len: usize) -> Row<'_> {
        match self {
            Values::F32(v) => Row::F32(&mut v[row * len..][..len]),
            Values::I64(v) => Row::I64(&mut v[row * len..][..len]),
        }
    }

    fn truncate(&mut self, len: usize) {
        match self {
            Values::F32(v) => v.truncate(len),
            Values::I64(v) => v.truncate(len),
        }
    }
}

/// An iterator over the batches of one epoch: the same bytes in the same order for any number of workers.
///
/// Worker `k` of `n` makes the batches `k`, `k + n`, `k + 2n`, … and waits while one of its batches is not yet taken, so
/// that memory holds at most two batches per worker.
///
/// A broken sample is counted ([`Dataset::with_max_broken`]) and left out, which makes its batch smaller; with
/// [`Last::Drop`], where every batch has to be full, the next sample in stored order that is not broken takes its place.
///
/// ```
/// use onnx_qat_data::*;
/// use tensor::Tensor;
/// let spec = InputSpec::float("x", &[None, Some(2)]);
/// let x = Tensor::new(&[3, 2], vec![0u8, 1, 2, 3, 4, 5]);
/// let data = Dataset::from_arrays(&[spec], vec![x], None, &Preprocess::default())?.with_workers(2);
/// let batches = Batches::new(data.len(), 2, Order::Stored, Last::Keep)?;
/// let all: Vec<Batch> = Loader::new(&data, batches, View::Plain).collect::<Result<_, _>>()?;
/// assert_eq!(all[1].inputs, [Values::F32(vec![4.0, 5.0])]);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Loader {
    data: Dataset,
    batches: Arc<Batches>,
    view: View,
    /// The batch that comes next.
    next: usize,
    /// In the order in which their batches come next.
    workers: VecDeque<Worker>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Worker {
    results: Receiver<Result<Made, Error>>,
    thread: JoinHandle<()>,
}

/// A batch, and the samples that were found broken on the way to it.
type Made = (Batch, Vec<(usize, String)>);

impl Loader {
    /// Begins to read the batches of an epoch.
    pub fn new(data: &Dataset, batches: Batches, view: View) -> Loader {
        let count = data.workers().min(batches.len());
        let (batches, stop) = (Arc::new(batches), Arc::new(AtomicBool::new(false)));
        let start = |first| {
            let (send, results) = sync_channel(1);
            let work = Work { data: data.clone(), batches: batches.clone(), view, stop: stop.clone(), send };
            let thread = thread::Builder::new().name(format!("loader {first}"));
            thread.spawn(move || work.run(first, count)).map(|thread| Worker { results, thread })
        };
        // Where the system gives no threads, this thread reads.
        let workers = (0..count).map(start).collect::<Result<_, _>>().unwrap_or_default();
        Loader { data: data.clone(), batches, view, next: 0, workers, stop }
    }

    /// The next batch from a worker.
    fn receive(&mut self) -> Option<Result<Made, Error>> {
        let worker = self.workers.pop_front()?;
        let Ok(made) = worker.results.recv() else {
            // A worker ends before its last batch only by a panic, which is one of this thread then.
            let panic = worker.thread.join().err()?;
            std::panic::resume_unwind(panic);
        };
        self.workers.push_back(worker);
        Some(made)
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, Error>;

    fn next(&mut self) -> Option<Result<Batch, Error>> {
        loop {
            let wanted = self.batches.iter().nth(self.next)?;
            self.next += 1;
            let made = match self.workers.is_empty() {
                true => make(&self.data, wanted, self.batches.last(), self.view, &self.stop),
                false => self.receive()?,
            };
            let checked = made.and_then(|(batch, broken)| {
                // Here, where batches come in order, so that the same sample ends every run.
                self.data.tolerance().add(broken, &self.data)?;
                Ok(batch)
            });
            match checked {
                Ok(batch) if batch.samples.is_empty() => continue,
                Ok(batch) => return Some(Ok(batch)),
                Err(e) => {
                    self.next = usize::MAX;
                    return Some(Err(e));
                }
            }
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for Worker { results, thread } in self.workers.drain(..) {
            // Whoever waits to hand a batch over gets an error now.
            drop(results);
            let _ = thread.join();
        }
    }
}

/// What a worker needs.
struct Work {
    data: Dataset,
    batches: Arc<Batches>,
    view: View,
    stop: Arc<AtomicBool>,
    send: SyncSender<Result<Made, Error>>,
}

impl Work {
    fn run(self, first: usize, step: usize) {
        for wanted in self.batches.iter().skip(first).step_by(step) {
            let made = make(&self.data, wanted, self.batches.last(), self.view, &self.stop);
            if self.send.send(made).is_err() {
                break;
            }
        }
    }
}

/// Reads the samples of a batch. Ends early, with fewer of them, when `stop` is set: nobody wants the batch then.
fn make(data: &Dataset, wanted: &[usize], last: Last, view: View, stop: &AtomicBool) -> Result<Made, Error> {
    let lens: Vec<usize> = (0..data.inputs()).map(|i| data.sample_shape(i).iter().product()).collect();
    let values = |(i, len): (usize, &usize)| match data.is_float(i) {
        true => Values::F32(vec![0.0; wanted.len() * len]),
        false => Values::I64(vec![0; wanted.len() * len]),
    };
    let mut inputs: Vec<Values> = lens.iter().enumerate().map(values).collect();
    let (mut samples, mut broken) = (Vec::with_capacity(wanted.len()), Vec::new());
    let most = data.tolerance().limit.of(data.len());
    for &first in wanted {
        let mut sample = first;
        while !stop.load(Ordering::Relaxed) {
            let row = samples.len();
            let mut rows = inputs.iter_mut().zip(&lens).enumerate();
            match rows.try_for_each(|(i, (v, &len))| data.read(i, sample, view, v.row(row, len))) {
                Ok(()) => samples.push(sample),
                Err(Error::Broken { place, problem }) => {
                    broken.push((sample, format!("{place}: {problem}")));
                    sample = (sample + 1) % data.len();
                    // Past the limit this batch is not going to be used.
                    if last == Last::Drop && broken.len() <= most {
                        continue;
                    }
                }
                Err(e) => return Err(e),
            }
            break;
        }
    }
    inputs.iter_mut().zip(lens).for_each(|(v, len)| v.truncate(samples.len() * len));
    let labels = data.labels().map(|l| samples.iter().map(|&i| l[i]).collect()).unwrap_or_default();
    Ok((Batch { samples, labels, inputs }, broken))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{InputSpec, MaxBroken, Order, Place, Rng, Samples};
    use std::time::Duration;

    /// Samples that hold their number and, when augmented, something random; some are broken, one is fatal.
    #[derive(Debug)]
    struct Numbers {
        len: usize,
        broken: Vec<usize>,
        fatal: Option<usize>,
        place: Place,
    }

    impl Samples for Numbers {
        fn len(&self) -> usize {
            self.len
        }

        fn shape(&self) -> &[usize] {
            &[2]
        }

        fn place(&self) -> &Place {
            &self.place
        }

        fn read(&self, sample: usize, view: View, out: Row) -> Result<(), Error> {
            // Whoever is late must not change anything.
            std::thread::sleep(Duration::from_micros(Rng::new(sample as u64).below(300)));
            if self.broken.contains(&sample) {
                return Err(Error::Broken {
                    place: self.place.clone(),
                    problem: format!("no picture {sample}"),
                });
            }
            if self.fatal == Some(sample) {
                return Err(Error::NoLabels { place: self.place.clone() });
            }
            let Row::F32(out) = out else { panic!("floats") };
            out[0] = sample as f32;
            out[1] = view.rng(sample).map_or(-1.0, |mut rng| rng.below(1000) as f32);
            Ok(())
        }
    }

    fn numbers(len: usize, broken: &[usize], fatal: Option<usize>) -> Dataset {
        let place = Place::memory("numbers");
        let samples = Numbers { len, broken: broken.to_vec(), fatal, place: place.clone() };
        let labels = (0..len as i64).map(|i| i % 7).collect();
        let spec = InputSpec::float("x", &[None, Some(2)]);
        Dataset::from_samples(vec![(spec, Box::new(samples))], Some((labels, place))).unwrap()
    }

    fn load(data: &Dataset, size: usize, last: Last, view: View) -> Vec<Result<Batch, String>> {
        let order = Order::Shuffled { seed: 3, epoch: 1 };
        let batches = Batches::new(data.len(), size, order, last).unwrap();
        Loader::new(data, batches, view).map(|b| b.map_err(|e| e.to_string())).collect()
    }

    const AUGMENTED: View = View::Augmented { seed: 3, epoch: 1 };

    #[test]
    fn any_number_of_workers_gives_the_same_batches() {
        for (broken, fatal, last) in [
            (&[][..], None, Last::Keep),
            (&[4, 5, 70], None, Last::Keep),
            (&[4, 5, 70], None, Last::Drop),
            (&[4, 5, 6, 7, 70], None, Last::Keep),
            (&[4], Some(33), Last::Drop),
        ] {
            let of = |workers| {
                let data =
                    numbers(101, broken, fatal).with_max_broken(MaxBroken::Samples(4)).with_workers(workers);
                (load(&data, 8, last, AUGMENTED), data.broken())
            };
            let alone = of(0);
            for workers in [1, 2, 3, 50] {
                assert!(of(workers) == alone, "{workers} workers, {broken:?}");
            }
        }
    }

    #[test]
    fn a_changed_view_depends_on_seed_epoch_and_sample() {
        let data = numbers(4, &[], None);
        let row = |view| load(&data, 4, Last::Keep, view)[0].clone().unwrap().inputs;
        assert_eq!(row(AUGMENTED), row(AUGMENTED));
        assert_ne!(row(AUGMENTED), row(View::Augmented { seed: 4, epoch: 1 }));
        assert_ne!(row(AUGMENTED), row(View::Augmented { seed: 3, epoch: 2 }));
        let Values::F32(plain) = &row(View::Plain)[0] else { panic!("floats") };
        assert!(plain.iter().skip(1).step_by(2).all(|&v| v == -1.0));
    }

    #[test]
    fn broken_samples_are_left_out_or_replaced() {
        let data = || numbers(20, &[3, 4], None).with_max_broken(MaxBroken::Percent(10.0));
        let kept = data();
        let batches: Vec<Batch> =
            load(&kept, 6, Last::Keep, View::Plain).into_iter().map(Result::unwrap).collect();
        let samples: Vec<usize> = batches.iter().flat_map(|b| b.samples.clone()).collect();
        assert_eq!(samples.len(), 18);
        assert!(!samples.contains(&3) && !samples.contains(&4));
        assert!(batches.iter().all(|b| b.labels.iter().zip(&b.samples).all(|(&l, &s)| l == s as i64 % 7)));
        assert_eq!(kept.broken(), [3, 4].map(|i| (i, format!("array 'numbers': no picture {i}"))));

        let dropped = data();
        let full = load(&dropped, 6, Last::Drop, View::Plain);
        assert!(full.iter().all(|b| b.as_ref().is_ok_and(|b| b.samples.len() == 6)));
        let count =
            |n: usize| full.iter().flat_map(|b| &b.as_ref().unwrap().samples).filter(|&&s| s == n).count();
        assert_eq!((count(3), count(4)), (0, 0));
    }

    #[test]
    fn too_many_broken_samples_end_the_epoch() {
        let data = numbers(20, &[3, 4, 5], None).with_max_broken(MaxBroken::Percent(10.0)).with_workers(2);
        let batches = load(&data, 2, Last::Keep, View::Plain);
        let e = batches.last().unwrap().as_ref().unwrap_err();
        assert!(e.contains("array 'numbers': 3 of 20 samples cannot be used, 2 are allowed"), "{e}");
        assert!(batches[..batches.len() - 1].iter().all(Result::is_ok));
        let nothing = numbers(5, &[0, 1, 2, 3, 4], None).with_max_broken(MaxBroken::Percent(100.0));
        assert!(load(&nothing, 2, Last::Keep, View::Plain).is_empty());
    }

    #[test]
    fn a_loader_that_is_dropped_leaves_no_thread() {
        let data = numbers(1000, &[], None).with_workers(3);
        let batches = Batches::new(1000, 10, Order::Stored, Last::Keep).unwrap();
        let mut loader = Loader::new(&data, batches, View::Plain);
        assert_eq!(loader.next().unwrap().unwrap().samples[0], 0);
        let shared = loader.batches.clone();
        drop(loader);
        assert_eq!(Arc::strong_count(&shared), 1);
    }
}
