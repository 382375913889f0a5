//! Text for people: aligned tables, readable numbers, HTML pages with pictures.

pub mod chart;
mod format;
pub mod html;
mod table;

pub use format::{bytes, duration, percent};
pub use table::Table;
