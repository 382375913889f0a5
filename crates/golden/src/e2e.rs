//! The training runs of a small network (`e2e`), which need graphs, gradients and passes.

/// Why these cases are only counted.
pub(crate) const NOT_RUN: &str = "training runs are not implemented";
