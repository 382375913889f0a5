//! `Add` (ONNX 7, 13, 14): element-wise sum with broadcasting.
