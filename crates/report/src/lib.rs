//! What people look at: aligned tables, readable numbers, HTML pages with pictures, curves in TensorBoard.

pub mod chart;
mod format;
pub mod html;
mod table;
pub mod tensorboard;

pub use format::{bytes, duration, percent};
pub use table::Table;
