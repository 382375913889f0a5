//! Data sources and preprocessing: `.npy`, `.npz` and MNIST idx files in, batches of `f32` out.

mod error;
mod file;
pub mod npy;
pub mod npz;

pub use error::{Error, Place};
