//! Text for people: aligned tables and readable numbers.

mod format;
mod table;

pub use format::{bytes, duration, percent};
pub use table::Table;
