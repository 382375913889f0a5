//! Element types, numbered and named as ONNX does (`TensorProto.DataType`).

use std::fmt;

/// The type of one element. Sub-byte types are stored packed, two (or four) to a byte, as ONNX stores them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum DType {
    F32,
    F64,
    F16,
    BF16,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    Bool,
    I4,
    U4,
}

/// (type, ONNX number, name in ONNX text, bits per element)
const TABLE: &[(DType, i32, &str, usize)] = &[
    (DType::F32, 1, "float", 32),
    (DType::U8, 2, "uint8", 8),
    (DType::I8, 3, "int8", 8),
    (DType::U16, 4, "uint16", 16),
    (DType::I16, 5, "int16", 16),
    (DType::I32, 6, "int32", 32),
    (DType::I64, 7, "int64", 64),
    (DType::Bool, 9, "bool", 8),
    (DType::F16, 10, "float16", 16),
    (DType::F64, 11, "double", 64),
    (DType::U32, 12, "uint32", 32),
    (DType::U64, 13, "uint64", 64),
    (DType::BF16, 16, "bfloat16", 16),
    (DType::U4, 21, "uint4", 4),
    (DType::I4, 22, "int4", 4),
];

impl DType {
    /// Every type, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = DType> {
        TABLE.iter().map(|r| r.0)
    }

    fn row(self) -> &'static (DType, i32, &'static str, usize) {
        TABLE.iter().find(|r| r.0 == self).unwrap_or(&TABLE[0])
    }

    /// Number of this type in `TensorProto.DataType`.
    pub fn onnx(self) -> i32 {
        self.row().1
    }

    /// The type with this `TensorProto.DataType` number, if it is one we store.
    pub fn from_onnx(n: i32) -> Option<DType> {
        TABLE.iter().find(|r| r.1 == n).map(|r| r.0)
    }

    /// The type with this name in ONNX text (`float`, `int8`, …).
    pub fn from_name(name: &str) -> Option<DType> {
        TABLE.iter().find(|r| r.2 == name).map(|r| r.0)
    }

    /// Name in ONNX text.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Bits of one element.
    pub fn bits(self) -> usize {
        self.row().3
    }

    /// Bytes that `len` elements take, packed.
    pub fn bytes(self, len: usize) -> usize {
        (len * self.bits()).div_ceil(8)
    }

    /// Floating point of any width.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
