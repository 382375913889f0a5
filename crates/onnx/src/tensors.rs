//! `TensorProto` and [`Tensor`].

use crate::proto::TensorProto;
use crate::proto::tensor_proto::DataLocation;
use crate::{Error, ModelError, file};
use bytes::Bytes;
use prost::Message;
use std::path::Path;
use tensor::{DType, Element, Tensor, element_count};

/// The element type, if it is one that a [`Tensor`] stores. Strings, complex numbers and floats of less than 16 bits
/// are not: such tensors are carried through as they are.
pub(crate) fn dtype(proto: &TensorProto) -> Option<DType> {
    DType::from_onnx(proto.data_type())
}

/// Shape and number of elements.
fn shape(proto: &TensorProto) -> Result<(Vec<usize>, usize), String> {
    let sizes = proto.dims.iter().map(|&d| usize::try_from(d)).collect::<Result<Vec<_>, _>>();
    let shape = sizes.map_err(|_| format!("its shape {:?} has a negative dimension", proto.dims))?;
    let count = element_count(&shape).filter(|n| n.checked_mul(64).is_some());
    let count =
        count.ok_or_else(|| format!("its shape {shape:?} has more elements than this machine can count"))?;
    Ok((shape, count))
}

/// Number of bytes of the elements, where type and shape say it.
pub(crate) fn byte_count(proto: &TensorProto) -> Option<u64> {
    Some(dtype(proto)?.bytes(shape(proto).ok()?.1) as u64)
}

/// The tensor of a message whose data is in the message. Raw data is shared, not copied.
///
/// # Errors
/// When type, shape and data do not fit together. Names the tensor.
pub fn to_tensor(proto: &TensorProto) -> Result<Tensor, ModelError> {
    read(proto).map_err(|what| ModelError::tensor(proto.name(), what))
}

/// Reads a file that holds one `TensorProto`, such as `test_data_set_0/input_0.pb`: its name and the tensor.
///
/// # Errors
/// When the file cannot be read or is damaged, or its type, shape and data do not fit together.
pub fn read_tensor(path: impl AsRef<Path>) -> Result<(String, Tensor), Error> {
    let path = path.as_ref();
    let proto = TensorProto::decode(file::read(path)?)
        .map_err(|e| Error::Damaged { path: path.to_path_buf(), what: format!("no tensor: {e}") })?;
    let tensor = to_tensor(&proto).map_err(|source| Error::Model { path: path.to_path_buf(), source })?;
    Ok((proto.name().to_string(), tensor))
}

/// Reads one encoded `TensorProto`.
///
/// # Errors
/// When the bytes are another message, or its type, shape and data do not fit together.
pub fn decode_tensor(bytes: &[u8]) -> Result<Tensor, ModelError> {
    let proto = TensorProto::decode(bytes).map_err(|e| ModelError::tensor("", e.to_string()))?;
    to_tensor(&proto)
}

fn read(proto: &TensorProto) -> Result<Tensor, String> {
    let dtype = dtype(proto)
        .ok_or_else(|| format!("elements of type {} cannot be computed with", type_name(proto)))?;
    let (shape, count) = shape(proto)?;
    if proto.segment.is_some() {
        return Err(
            "it is one segment of a tensor that is stored in several parts, which is not supported".into()
        );
    }
    if proto.data_location() == DataLocation::External {
        return Err("its data is in another file, and the model was not read from a file".into());
    }
    if let Some(raw) = proto.raw_data.as_ref().filter(|raw| !raw.is_empty() || count == 0) {
        return Tensor::from_bytes(dtype, &shape, raw.clone()).map_err(|e| e.to_string());
    }
    let p = proto;
    match dtype {
        DType::F32 => whole(&shape, count, &p.float_data),
        DType::F64 => whole(&shape, count, &p.double_data),
        DType::I64 => whole(&shape, count, &p.int64_data),
        DType::U64 => whole(&shape, count, &p.uint64_data),
        DType::I32 => whole(&shape, count, &p.int32_data),
        DType::U32 => whole(&shape, count, &narrow::<u64, u32>(&p.uint64_data, dtype)?),
        DType::I8 => whole(&shape, count, &narrow::<i32, i8>(&p.int32_data, dtype)?),
        DType::U8 => whole(&shape, count, &narrow::<i32, u8>(&p.int32_data, dtype)?),
        DType::I16 => whole(&shape, count, &narrow::<i32, i16>(&p.int32_data, dtype)?),
        DType::U16 => whole(&shape, count, &narrow::<i32, u16>(&p.int32_data, dtype)?),
        DType::F16 => whole(&shape, count, &bits(&p.int32_data, half::f16::from_bits, dtype)?),
        DType::BF16 => whole(&shape, count, &bits(&p.int32_data, half::bf16::from_bits, dtype)?),
        DType::Bool => {
            fits(count, p.int32_data.len())?;
            Ok(Tensor::bools(&shape, &p.int32_data.iter().map(|&x| x != 0).collect::<Vec<_>>()))
        }
        DType::I4 | DType::U4 => {
            // One entry holds a byte, that is two elements. Writers disagree on its sign.
            fits(dtype.bytes(count), p.int32_data.len())?;
            let byte = |&x: &i32| {
                u8::try_from(x).or(i8::try_from(x).map(|x| x as u8)).map_err(|_| outside(x, dtype))
            };
            let bytes = p.int32_data.iter().map(byte).collect::<Result<Vec<u8>, _>>()?;
            Tensor::from_bytes(dtype, &shape, Bytes::from(bytes)).map_err(|e| e.to_string())
        }
    }
}

fn outside(x: impl std::fmt::Display, dtype: DType) -> String {
    format!("value {x} is outside the range of {dtype}")
}

fn fits(expected: usize, found: usize) -> Result<(), String> {
    match found {
        _ if found == expected => Ok(()),
        0 => Err(format!("its shape asks for {expected} values, but it has no data")),
        _ => Err(format!("its shape asks for {expected} values, but {found} are there")),
    }
}

fn whole<T: Element>(shape: &[usize], count: usize, values: &[T]) -> Result<Tensor, String> {
    fits(count, values.len())?;
    Ok(Tensor::new(shape, values.to_vec()))
}

fn narrow<S: Copy + std::fmt::Display, T: TryFrom<S>>(values: &[S], dtype: DType) -> Result<Vec<T>, String> {
    values.iter().map(|&x| T::try_from(x).map_err(|_| outside(x, dtype))).collect()
}

/// 16-bit floats are stored by their bits, which some writers sign-extend.
fn bits<T>(values: &[i32], make: impl Fn(u16) -> T, dtype: DType) -> Result<Vec<T>, String> {
    let sixteen =
        |x: i32| u16::try_from(x).or(i16::try_from(x).map(|x| x as u16)).map_err(|_| outside(x, dtype));
    values.iter().map(|&x| sixteen(x).map(&make)).collect()
}

fn type_name(proto: &TensorProto) -> String {
    let n = proto.data_type();
    crate::proto::tensor_proto::DataType::try_from(n)
        .map_or_else(|_| n.to_string(), |t| t.as_str_name().to_lowercase())
}

/// The message of a tensor: raw data, which is shared.
pub fn from_tensor(name: &str, tensor: &Tensor) -> TensorProto {
    TensorProto {
        dims: tensor.shape().iter().map(|&d| d as i64).collect(),
        data_type: Some(tensor.dtype().onnx()),
        name: (!name.is_empty()).then(|| name.to_string()),
        raw_data: Some(tensor.bytes().clone()),
        ..TensorProto::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn proto(dtype: DType, dims: &[i64]) -> TensorProto {
        let (dims, data_type) = (dims.to_vec(), Some(dtype.onnx()));
        TensorProto { dims, data_type, name: Some("w".into()), ..TensorProto::default() }
    }

    #[test]
    fn raw_and_typed_data_are_the_same_tensor() {
        let ints = |d, v: &[i32]| TensorProto { int32_data: v.to_vec(), ..proto(d, &[v.len() as i64]) };
        let cases = [
            (TensorProto { float_data: vec![1.5, -2.0], ..proto(DType::F32, &[2]) }, vec![1.5, -2.0]),
            (TensorProto { double_data: vec![1.5], ..proto(DType::F64, &[]) }, vec![1.5]),
            (TensorProto { int64_data: vec![-7, 9], ..proto(DType::I64, &[1, 2]) }, vec![-7.0, 9.0]),
            (TensorProto { uint64_data: vec![7], ..proto(DType::U64, &[1]) }, vec![7.0]),
            (
                TensorProto { uint64_data: vec![u32::MAX.into()], ..proto(DType::U32, &[1]) },
                vec![u32::MAX as f64],
            ),
            (ints(DType::I32, &[-1, 5]), vec![-1.0, 5.0]),
            (ints(DType::I8, &[-128, 127]), vec![-128.0, 127.0]),
            (ints(DType::U8, &[0, 255]), vec![0.0, 255.0]),
            (ints(DType::I16, &[-32768]), vec![-32768.0]),
            (ints(DType::U16, &[65535]), vec![65535.0]),
            (ints(DType::Bool, &[0, 1, 2]), vec![0.0, 1.0, 1.0]),
            (ints(DType::F16, &[0x3c00, 0xc000, -16384]), vec![1.0, -2.0, -2.0]),
            (ints(DType::BF16, &[0x3f80]), vec![1.0]),
            (TensorProto { int32_data: vec![0x2f, 0x08], ..proto(DType::I4, &[3]) }, vec![-1.0, 2.0, -8.0]),
            (
                TensorProto { int32_data: vec![0x2f, -1], ..proto(DType::U4, &[4]) },
                vec![15.0, 2.0, 15.0, 15.0],
            ),
        ];
        for (typed, values) in cases {
            let tensor = to_tensor(&typed).unwrap();
            assert_eq!(tensor.to_f64(), values, "{:?}", tensor.dtype());
            assert_eq!(to_tensor(&from_tensor("w", &tensor)).unwrap(), tensor);
        }
    }

    #[test]
    fn raw_data_is_shared() {
        let raw = Bytes::from(vec![0; 8]);
        let tensor =
            to_tensor(&TensorProto { raw_data: Some(raw.clone()), ..proto(DType::F32, &[2]) }).unwrap();
        assert_eq!(tensor.bytes().as_ptr(), raw.as_ptr());
    }

    #[test]
    fn an_empty_tensor_needs_no_data() {
        assert!(to_tensor(&proto(DType::F32, &[0, 3])).unwrap().is_empty());
        let raw_data = Some(Bytes::new());
        assert!(to_tensor(&TensorProto { raw_data, ..proto(DType::I64, &[0]) }).unwrap().is_empty());
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let raw = |n| Some(Bytes::from(vec![0; n]));
        let cases = [
            (proto(DType::F32, &[2, -1]), "its shape [2, -1] has a negative dimension"),
            (proto(DType::F32, &[i64::MAX, 8]), "more elements than this machine can count"),
            (proto(DType::F32, &[i64::MAX / 8]), "more elements than this machine can count"),
            (proto(DType::F32, &[3]), "asks for 3 values, but it has no data"),
            (TensorProto { float_data: vec![1.0], ..proto(DType::F32, &[3]) }, "3 values, but 1 are there"),
            (TensorProto { raw_data: raw(8), ..proto(DType::F32, &[3]) }, "takes 12 bytes, but 8 are there"),
            (
                TensorProto { int32_data: vec![300], ..proto(DType::U8, &[1]) },
                "value 300 is outside the range of uint8",
            ),
            (TensorProto { data_type: Some(8), ..proto(DType::F32, &[1]) }, "elements of type string"),
            (TensorProto { data_type: Some(99), ..proto(DType::F32, &[1]) }, "elements of type 99"),
            (TensorProto { data_location: Some(1), ..proto(DType::F32, &[1]) }, "in another file"),
            (TensorProto { segment: Some(Default::default()), ..proto(DType::F32, &[1]) }, "segment"),
        ];
        for (bad, expected) in cases {
            let message = to_tensor(&bad).unwrap_err().to_string();
            assert!(message.starts_with("tensor \"w\": ") && message.contains(expected), "{message}");
        }
    }
}
