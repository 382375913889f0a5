//! ONNX files: to and from the graph.
//!
//! The message types in [`proto`] are generated from the schema in `proto/onnx.proto`. A file is mapped, decoded without
//! copying its weights, and turned into an [`ir::Graph`]; operators are parsed by an [`ir::Registry`]; this crate knows
//! none of them, but for the two that belong to the format: a `Constant` is read as a constant, and an `Identity` is
//! written where one value has two names.

mod error;
mod external;
mod file;
mod model;
mod sha1;
mod tensors;

/// The messages of the format, generated from `proto/onnx.proto` by the test `schema`.
#[rustfmt::skip]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
#[path = "generated/onnx.rs"]
pub mod proto;

pub use error::{Error, ModelError};
pub use model::{Weights, read_model, write_model};
pub use tensors::{from_tensor, to_tensor};
