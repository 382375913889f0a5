//! Shared helpers of the cross-crate tests, and of the fuzz targets.

pub mod hostile;
