//! Quantization kernels.
