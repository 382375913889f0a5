//! CPU kernels on plain slices.
//!
//! The crate knows no graph and no tensor: every function takes slices, a description of their shape, and, where it
//! needs scratch memory, a workspace of a size that a sibling function states. Three rules hold for all of them:
//!
//! - **Same bits whatever the thread count.** Work is split by shape ([`parallel`]) and partial sums are combined in a
//!   fixed order.
//! - **Same bits whatever the instruction set** for element-wise code ([`simd`]); matrix products ([`matmul`]) may
//!   differ in the last bits from one CPU model to another, never from one run to another.
//! - **Bad shapes are errors or panics, never undefined behaviour.** `unsafe` stays inside this crate, behind checks.
//!
//! Activations are channels-last, `(N, spatial..., C)`; weights keep the ONNX layout, `(O, I / groups, spatial...)`.

pub mod parallel;
pub mod simd;

pub mod conv;
pub mod matmul;
mod pointwise;
pub mod pool;
pub mod relayout;
pub mod window;

mod depthwise;
mod implicit;
mod product;
#[cfg(test)]
mod reference;
mod winograd;

pub mod batch_norm;
pub mod broadcast;
pub mod elementwise;
pub mod grid_sample;
pub mod integer;
pub mod optimizer;
pub mod quant;
pub mod reduce;
pub mod resample;
pub mod resize;
pub mod select;
pub mod softmax;
