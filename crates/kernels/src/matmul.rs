//! Placeholder line until the kernels land.
