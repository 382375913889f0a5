//! Data sources and preprocessing: `.npy`, `.npz` and MNIST idx files in, batches of `f32` (or token ids) out.
//!
//! A [`Source`] says where data lies (`digits.npz#test`, `x.npy,y.npy`, a folder with MNIST's files); opened for
//! the inputs of a model it becomes a [`Dataset`], from which [`Batches`] of samples are read.

mod arrays;
mod batches;
mod dataset;
mod error;
mod file;
pub mod idx;
mod loader;
pub mod npy;
pub mod npz;
mod preprocess;
mod rng;
mod samples;
mod source;
mod tolerance;

pub use batches::{Batches, Last, Order};
pub use dataset::{Dataset, InputSpec};
pub use error::{Error, Place};
pub use loader::{Batch, Loader, Values};
pub use preprocess::{Layout, Preprocess};
pub use rng::Rng;
pub use samples::{Row, Samples, View};
pub use source::{Role, Source};
pub use tolerance::MaxBroken;
