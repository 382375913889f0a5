//! `Relu` (ONNX 6, 13, 14): `max(x, 0)`.
