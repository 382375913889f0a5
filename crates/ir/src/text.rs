//! The compact textual form of a graph: a subset of the ONNX textual syntax, which `onnx.parser` reads.
//!
//! ```text
//! head (float[2,3,8,8] x) => (float[2,4,8,8] relu1)
//! <
//!   float[4,3,3,3] w = ["fnv": "cd19c3a6", "range": "-0.3..0.3"],
//!   float[4] b = {0.0, 0.5, 1.0, 1.5}  # param weights
//! >
//! {
//!   conv1 = Conv <pads=[1, 1, 1, 1]> (x, w, b)  # float[2,4,8,8]
//!   [act] relu1 = Relu (conv1)  # float[2,4,8,8]
//! }
//! ```
//!
//! What ONNX has no syntax for stands in comments that [`parse`] understands: types of results, `# param GROUP` and
//! `# state` behind a variable, `# update x <- y` for what a variable becomes. A constant of more than eight elements prints
//! as digest and range; read back, it holds numbers drawn from the digest, within the range.

mod parse;
mod print;

pub use parse::{TextError, parse};
pub use print::print;
