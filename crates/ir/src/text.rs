//! The compact textual form of a graph: a subset of the ONNX textual syntax.
