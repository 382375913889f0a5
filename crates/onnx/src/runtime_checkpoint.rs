//! The checkpoint of ONNX Runtime's training: the parameters that `training_model.onnx` and `eval_model.onnx` read as inputs.
//!
//! It is a FlatBuffer (file identifier `ODTC`) of the schema `ort_training_checkpoint.fbs`, of which only the parameters are
//! read. Every offset is checked: the file is as untrusted as a model.

use crate::{Error, file};
use bytes::Bytes;
use std::path::Path;
use tensor::{DType, Tensor};

/// The parameters of a checkpoint, in order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuntimeCheckpoint {
    /// Parameters that are trained.
    pub trained: Vec<(String, Tensor)>,
    /// Parameters that stay as they are.
    pub frozen: Vec<(String, Tensor)>,
}

/// Reads a checkpoint of ONNX Runtime's training. `None` when the file is something else.
///
/// # Errors
/// When it cannot be read, is damaged, or keeps its tensors in another file.
pub fn read_runtime_checkpoint(path: &Path) -> Result<Option<RuntimeCheckpoint>, Error> {
    let bytes = file::read(path)?;
    if bytes.get(4..8) != Some(b"ODTC") {
        return Ok(None);
    }
    let damaged = |what: String| Error::Damaged { path: path.to_path_buf(), what };
    parse(&bytes).map(Some).map_err(|what| damaged(format!("as a training checkpoint, {what}")))
}

// Field numbers of the schema.
const MODULE_STATE: usize = 1;
const REQUIRES_GRAD: usize = 0;
const FROZEN: usize = 1;
const TENSOR_NAME: usize = 0;
const TENSOR_DIMS: usize = 2;
const TENSOR_TYPE: usize = 3;
const TENSOR_RAW: usize = 4;

fn parse(bytes: &Bytes) -> Result<RuntimeCheckpoint, String> {
    let buffer = Buffer(bytes);
    let root = Table::at(buffer, buffer.offset(0)?)?;
    let Some(state) = root.table(MODULE_STATE)? else { return Err("it holds no parameters".into()) };
    Ok(RuntimeCheckpoint { trained: tensors(state, REQUIRES_GRAD)?, frozen: tensors(state, FROZEN)? })
}

fn tensors(state: Table, field: usize) -> Result<Vec<(String, Tensor)>, String> {
    let Some((start, len)) = state.vector(field, 4)? else { return Ok(Vec::new()) };
    let mut list = Vec::new();
    for i in 0..len {
        let table = Table::at(state.buffer, state.buffer.offset(start + 4 * i)?)?;
        list.push(tensor(table)?);
    }
    Ok(list)
}

fn tensor(table: Table) -> Result<(String, Tensor), String> {
    let buffer = table.buffer;
    let name = match table.vector(TENSOR_NAME, 1)? {
        Some((start, len)) => String::from_utf8_lossy(buffer.bytes(start, len)?).into_owned(),
        None => return Err("a parameter has no name".into()),
    };
    let error = |what: String| format!("parameter \"{name}\": {what}");
    let mut shape = Vec::new();
    if let Some((start, len)) = table.vector(TENSOR_DIMS, 8)? {
        for i in 0..len {
            let dim = i64::from_le_bytes(buffer.array(start + 8 * i)?);
            shape.push(usize::try_from(dim).map_err(|_| error(format!("a size is {dim}")))?);
        }
    }
    let number = match table.field(TENSOR_TYPE)? {
        Some(at) => i32::from_le_bytes(buffer.array(at)?),
        None => 0,
    };
    let dtype =
        DType::from_onnx(number).ok_or_else(|| error(format!("element type {number} is not known")))?;
    let Some((start, len)) = table.vector(TENSOR_RAW, 1)? else {
        return Err(error(
            "its values are not in this file; save the checkpoint without external data".into(),
        ));
    };
    buffer.bytes(start, len)?;
    let value = Tensor::from_bytes(dtype, &shape, buffer.0.slice(start..start + len));
    Ok((name.clone(), value.map_err(|e| error(e.to_string()))?))
}

/// Bytes, read with checks. All numbers are little-endian.
#[derive(Clone, Copy)]
struct Buffer<'a>(&'a Bytes);

impl Buffer<'_> {
    fn bytes(&self, at: usize, len: usize) -> Result<&[u8], String> {
        let end = at.checked_add(len).filter(|&end| end <= self.0.len());
        end.map(|end| &self.0[at..end])
            .ok_or_else(|| format!("byte {at} and the {len} from there are not in the file"))
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(at, N)?);
        Ok(array)
    }

    /// Where the offset at `at` points to.
    fn offset(&self, at: usize) -> Result<usize, String> {
        let distance = u32::from_le_bytes(self.array(at)?) as usize;
        at.checked_add(distance).ok_or_else(|| format!("the offset at byte {at} is too large"))
    }
}

/// A table of a FlatBuffer: fields by number, each there or not.
#[derive(Clone, Copy)]
struct Table<'a> {
    buffer: Buffer<'a>,
    at: usize,
    fields: usize,
    /// Bytes of the list of fields.
    size: usize,
}

impl<'a> Table<'a> {
    fn at(buffer: Buffer<'a>, at: usize) -> Result<Table<'a>, String> {
        let distance = i64::from(i32::from_le_bytes(buffer.array(at)?));
        let fields = usize::try_from(at as i64 - distance)
            .map_err(|_| format!("the table at byte {at} has no fields"))?;
        let size = u16::from_le_bytes(buffer.array(fields)?) as usize;
        Ok(Table { buffer, at, fields, size })
    }

    /// Where a field stands, if it is there.
    fn field(&self, number: usize) -> Result<Option<usize>, String> {
        let entry = 4 + 2 * number;
        if entry + 2 > self.size {
            return Ok(None);
        }
        match u16::from_le_bytes(self.buffer.array(self.fields + entry)?) {
            0 => Ok(None),
            distance => Ok(Some(self.at + distance as usize)),
        }
    }

    fn table(&self, number: usize) -> Result<Option<Table<'a>>, String> {
        let Some(at) = self.field(number)? else { return Ok(None) };
        Table::at(self.buffer, self.buffer.offset(at)?).map(Some)
    }

    /// First byte and number of elements of a vector whose elements have `width` bytes.
    fn vector(&self, number: usize, width: usize) -> Result<Option<(usize, usize)>, String> {
        let Some(at) = self.field(number)? else { return Ok(None) };
        let start = self.buffer.offset(at)?;
        let len = u32::from_le_bytes(self.buffer.array(start)?) as usize;
        let bytes = len.checked_mul(width).ok_or_else(|| format!("the list at byte {start} is too long"))?;
        self.buffer.bytes(start + 4, bytes)?;
        Ok(Some((start + 4, len)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A checkpoint with the parameter `w`: [1.5, -2].
    fn checkpoint() -> Vec<u8> {
        let mut b = Vec::new();
        let word = |b: &mut Vec<u8>, x: i32| b.extend(x.to_le_bytes());
        let half = |b: &mut Vec<u8>, x: &[u16]| x.iter().for_each(|x| b.extend(x.to_le_bytes()));
        word(&mut b, 16); // root table at 16
        b.extend(b"ODTC");
        half(&mut b, &[8, 8, 0, 4]); // 8: fields of the root: none, module state at 4
        word(&mut b, 8); // 16: root table
        word(&mut b, 12); // 20: module state at 32
        half(&mut b, &[6, 8, 4, 0]); // 24: fields of the module state: trained at 4
        word(&mut b, 8); // 32: module state
        word(&mut b, 4); // 36: vector at 40
        word(&mut b, 1); // 40
        word(&mut b, 20); // 44: tensor at 64
        half(&mut b, &[14, 20, 4, 0, 8, 12, 16, 0]); // 48: fields of the tensor: name, none, dims, type, raw
        word(&mut b, 16); // 64: tensor
        word(&mut b, 16); // 68: name at 84
        word(&mut b, 20); // 72: dims at 92
        word(&mut b, 1); // 76: float
        word(&mut b, 24); // 80: raw at 104
        word(&mut b, 1); // 84: name
        b.extend(b"w\0\0\0");
        word(&mut b, 1); // 92: dims
        b.extend(2i64.to_le_bytes());
        word(&mut b, 8); // 104: raw
        b.extend([1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()));
        b
    }

    fn read(bytes: &[u8]) -> Result<Option<RuntimeCheckpoint>, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        std::fs::write(&path, bytes).unwrap();
        read_runtime_checkpoint(&path)
    }

    #[test]
    fn parameters_are_read() {
        let found = read(&checkpoint()).unwrap().unwrap();
        assert_eq!(found.trained, [("w".to_string(), Tensor::new(&[2], vec![1.5f32, -2.0]))]);
        assert!(found.frozen.is_empty());
        assert_eq!(read(b"something else").unwrap(), None);
    }

    #[test]
    fn damage_is_told_and_never_panics() {
        let whole = checkpoint();
        for cut in 8..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "cut to {cut} bytes");
        }
        for at in 0..whole.len() {
            for bit in [0x01, 0x80] {
                let mut damaged = whole.clone();
                damaged[at] ^= bit;
                let _ = read(&damaged);
            }
        }
        let mut huge = whole;
        huge[96] = 0xff; // The size of dims[0] no longer fits the data.
        let message = read(&huge).unwrap_err().to_string();
        assert!(message.contains("parameter \"w\""), "{message}");
    }
}
