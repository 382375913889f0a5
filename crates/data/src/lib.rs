//! Data sources and preprocessing: arrays and pictures in, batches of `f32` (or token ids) out.
//!
//! A [`Source`] says where data lies (`digits.npz#test`, `x.npy,y.npy`, a folder of pictures); opened for the inputs of a
//! model, with a [`Preprocess`], it becomes a [`Dataset`], whose [`Batches`] a [`Loader`] reads ahead.

mod arrays;
mod batches;
mod cifar;
mod dataset;
mod error;
mod file;
pub mod idx;
mod listing;
mod loader;
pub mod npy;
pub mod npz;
mod picture;
mod pictures;
mod preprocess;
mod rng;
mod samples;
mod source;
mod test_data;
mod tolerance;

pub use batches::{Batches, Last, Order};
pub use dataset::{Dataset, InputSpec};
pub use error::{Error, Place};
pub use kernels::resample::Filter;
pub use loader::{Batch, Loader, Values};
pub use preprocess::{
    Color, Jitter, Layout, PRESETS, Preprocess, RandomCrop, Resize, Size, Steps, filter, fraction,
};
pub use rng::Rng;
pub use samples::{Row, Samples, View};
pub use source::{Role, Source};
pub use tolerance::MaxBroken;
