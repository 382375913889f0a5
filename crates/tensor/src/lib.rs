//! Typed tensors: a shape, an element type, and bytes that are owned or shared with a mapped file.

mod dtype;

pub use dtype::DType;

use bytemuck::Pod;
use bytes::Bytes;
use std::borrow::Cow;
use std::fmt;

/// A Rust type that stores one element of a [`DType`].
pub trait Element: Pod + Send + Sync + PartialOrd + fmt::Debug + 'static {
    /// The element type that this Rust type stores.
    const DTYPE: DType;
}

macro_rules! elements { ($($t:ty => $d:ident),* $(,)?) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* } }
elements! {
    f32 => F32, f64 => F64, half::f16 => F16, half::bf16 => BF16, i8 => I8, u8 => U8, i16 => I16, u16 => U16,
    i32 => I32, u32 => U32, i64 => I64, u64 => U64,
}

/// What can be wrong with a tensor's bytes.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum TensorError {
    #[error("a {dtype} tensor of shape {shape:?} takes {expected} bytes, but {found} are there")]
    Size { dtype: DType, shape: Vec<usize>, expected: usize, found: usize },
    #[error("shape {shape:?} has more elements than this machine can count")]
    Overflow { shape: Vec<usize> },
    #[error("expected elements of type {expected}, found {found}")]
    DType { expected: DType, found: DType },
    #[error("{value} is outside the type {dtype}")]
    Range { dtype: DType, value: i64 },
    #[error("{bytes} bytes are more than this machine gives at once")]
    Memory { bytes: usize },
}

/// A dense row-major tensor. Cloning shares the bytes.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Bytes,
}

/// Keeps a `Vec<T>` alive as bytes, so that `T`'s alignment survives.
struct Owner<T>(Vec<T>);

impl<T: Pod> AsRef<[u8]> for Owner<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Number of elements of `shape`, or `None` on overflow.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

/// Checks that so much memory can be had, which an allocation itself does not survive where it cannot.
///
/// # Errors
/// When it cannot.
pub fn check_room(bytes: usize) -> Result<(), TensorError> {
    // What is small is there, or all is lost anyway.
    match bytes < 1 << 24 || Vec::<u8>::new().try_reserve_exact(bytes).is_ok() {
        true => Ok(()),
        false => Err(TensorError::Memory { bytes }),
    }
}

impl Tensor {
    /// A tensor over raw little-endian bytes, as in `TensorProto.raw_data`. Booleans are one byte each.
    ///
    /// # Errors
    /// When the number of bytes is not what shape and type ask for.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: Bytes) -> Result<Tensor, TensorError> {
        let overflow = || TensorError::Overflow { shape: shape.to_vec() };
        let len = element_count(shape).ok_or_else(overflow)?;
        len.checked_mul(dtype.bits()).ok_or_else(overflow)?;
        let expected = dtype.bytes(len);
        if bytes.len() != expected {
            return Err(TensorError::Size { dtype, shape: shape.to_vec(), expected, found: bytes.len() });
        }
        Ok(Tensor { dtype, shape: shape.to_vec(), bytes })
    }

    /// A tensor that takes `values` over.
    ///
    /// # Panics
    /// When `values` has not as many elements as `shape`: a mistake of the caller, never of the input.
    pub fn new<T: Element>(shape: &[usize], values: Vec<T>) -> Tensor {
        assert_eq!(
            element_count(shape),
            Some(values.len()),
            "shape {shape:?} against {} values",
            values.len()
        );
        Tensor { dtype: T::DTYPE, shape: shape.to_vec(), bytes: Bytes::from_owner(Owner(values)) }
    }

    /// A tensor of a floating-point type, to which the values are rounded.
    ///
    /// # Errors
    /// When the type is another.
    ///
    /// # Panics
    /// As [`Tensor::new`].
    pub fn from_f32(dtype: DType, shape: &[usize], values: &[f32]) -> Result<Tensor, TensorError> {
        let all = values.iter().copied();
        Ok(match dtype {
            DType::F32 => Tensor::new(shape, values.to_vec()),
            DType::F64 => Tensor::new(shape, all.map(f64::from).collect()),
            DType::F16 => Tensor::new(shape, all.map(half::f16::from_f32).collect()),
            DType::BF16 => Tensor::new(shape, all.map(half::bf16::from_f32).collect()),
            _ => return Err(TensorError::DType { expected: dtype, found: DType::F32 }),
        })
    }

    /// A tensor of an integer type of whole bytes, or of booleans, which has all of the values.
    ///
    /// # Errors
    /// When a value is outside the type, or the type is another.
    ///
    /// # Panics
    /// As [`Tensor::new`].
    pub fn from_i64(dtype: DType, shape: &[usize], values: &[i64]) -> Result<Tensor, TensorError> {
        fn all<T: Element + TryFrom<i64>>(shape: &[usize], values: &[i64]) -> Result<Tensor, TensorError> {
            let outside = |value| TensorError::Range { dtype: T::DTYPE, value };
            let each = values.iter().map(|&value| T::try_from(value).map_err(|_| outside(value)));
            Ok(Tensor::new(shape, each.collect::<Result<Vec<T>, _>>()?))
        }
        match dtype {
            DType::I8 => all::<i8>(shape, values),
            DType::U8 => all::<u8>(shape, values),
            DType::I16 => all::<i16>(shape, values),
            DType::U16 => all::<u16>(shape, values),
            DType::I32 => all::<i32>(shape, values),
            DType::U32 => all::<u32>(shape, values),
            DType::I64 => all::<i64>(shape, values),
            DType::U64 => all::<u64>(shape, values),
            DType::Bool => match values.iter().find(|v| !(0..=1).contains(*v)) {
                Some(&value) => Err(TensorError::Range { dtype, value }),
                None => Ok(Tensor::bools(shape, &values.iter().map(|v| *v == 1).collect::<Vec<_>>())),
            },
            _ => Err(TensorError::DType { expected: dtype, found: DType::I64 }),
        }
    }

    /// A rank-0 tensor.
    pub fn scalar<T: Element>(value: T) -> Tensor {
        Tensor::new(&[], vec![value])
    }

    /// A boolean tensor; stored one byte each.
    ///
    /// # Panics
    /// As [`Tensor::new`].
    pub fn bools(shape: &[usize], values: &[bool]) -> Tensor {
        let bytes: Vec<u8> = values.iter().map(|&b| b as u8).collect();
        Tensor { dtype: DType::Bool, ..Tensor::new(shape, bytes) }
    }

    /// Zeros of any type.
    ///
    /// # Panics
    /// When the shape overflows.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Tensor {
        let n = element_count(shape)
            .map(|n| dtype.bytes(n))
            .unwrap_or_else(|| panic!("shape {shape:?} overflows"));
        Tensor {
            dtype,
            shape: shape.to_vec(),
            bytes: Bytes::from_owner(Owner(vec![0u64; n.div_ceil(8)])).slice(..n),
        }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions, outermost first. Empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// No elements at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The raw little-endian bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The elements, copied only where the bytes are not aligned for `T` (a mapped file aligns nothing).
    ///
    /// # Errors
    /// When the tensor holds another element type. A boolean tensor reads as `u8`.
    pub fn values<T: Element>(&self) -> Result<Cow<'_, [T]>, TensorError> {
        let same = self.dtype == T::DTYPE || (self.dtype == DType::Bool && T::DTYPE == DType::U8);
        if !same {
            return Err(TensorError::DType { expected: T::DTYPE, found: self.dtype });
        }
        Ok(match bytemuck::try_cast_slice(&self.bytes) {
            Ok(aligned) => Cow::Borrowed(aligned),
            Err(_) => Cow::Owned(bytemuck::allocation::pod_collect_to_vec(&self.bytes)),
        })
    }

    /// All elements as `f64`, whatever the type (sub-byte types sign-extended). For small tensors and messages.
    pub fn to_f64(&self) -> Vec<f64> {
        fn all<T: Element>(t: &Tensor, f: impl Fn(T) -> f64) -> Vec<f64> {
            t.values::<T>().map(|v| v.iter().map(|&x| f(x)).collect()).unwrap_or_default()
        }
        let nibble = |i: usize| (self.bytes[i / 2] >> (4 * (i % 2))) & 0xf;
        match self.dtype {
            DType::F32 => all(self, |x: f32| x as f64),
            DType::F64 => all(self, |x: f64| x),
            DType::F16 => all(self, |x: half::f16| x.to_f64()),
            DType::BF16 => all(self, |x: half::bf16| x.to_f64()),
            DType::I8 => all(self, |x: i8| x as f64),
            DType::U8 | DType::Bool => all(self, |x: u8| x as f64),
            DType::I16 => all(self, |x: i16| x as f64),
            DType::U16 => all(self, |x: u16| x as f64),
            DType::I32 => all(self, |x: i32| x as f64),
            DType::U32 => all(self, |x: u32| x as f64),
            DType::I64 => all(self, |x: i64| x as f64),
            DType::U64 => all(self, |x: u64| x as f64),
            DType::U4 => (0..self.len()).map(|i| nibble(i) as f64).collect(),
            DType::I4 => (0..self.len()).map(|i| (((nibble(i) << 4) as i8) >> 4) as f64).collect(),
        }
    }

    /// All elements as `i64`: exact for integer types, truncated for floating point.
    pub fn to_i64(&self) -> Vec<i64> {
        match self.values::<i64>() {
            Ok(v) => v.into_owned(),
            Err(_) => self.to_f64().into_iter().map(|x| x as i64).collect(),
        }
    }

    /// All elements as `f32`.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.values::<f32>() {
            Ok(v) => v.into_owned(),
            Err(_) => self.to_f64().into_iter().map(|x| x as f32).collect(),
        }
    }

    /// The same elements under another shape; the bytes are shared.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor, TensorError> {
        Tensor::from_bytes(self.dtype, shape, self.bytes.clone())
    }

    /// 64-bit FNV-1a over type, shape and bytes: names a constant in printed graphs.
    pub fn digest(&self) -> u64 {
        let mut h = 0xcbf2_9ce4_8422_2325u64;
        let mut eat = |b: u8| h = (h ^ b as u64).wrapping_mul(0x0100_0000_01b3);
        self.dtype.onnx().to_le_bytes().into_iter().for_each(&mut eat);
        self.shape.iter().flat_map(|d| (*d as u64).to_le_bytes()).for_each(&mut eat);
        self.bytes.iter().copied().for_each(&mut eat);
        h
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)?;
        if self.len() <= 8 { write!(f, "{:?}", self.to_f64()) } else { write!(f, "#{:016x}", self.digest()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn unaligned_bytes_are_copied() {
        let file = Bytes::from(vec![0u8, 0, 0, 128, 63, 0, 0, 0, 64, 9]);
        let t = Tensor::from_bytes(DType::F32, &[2], file.slice(1..9)).unwrap();
        assert_eq!(&*t.values::<f32>().unwrap(), &[1.0, 2.0]);
    }

    #[test]
    fn wrong_size_is_told() {
        let e = Tensor::from_bytes(DType::F32, &[3], Bytes::from_static(&[0; 8])).unwrap_err();
        assert_eq!(e.to_string(), "a float tensor of shape [3] takes 12 bytes, but 8 are there");
        assert!(Tensor::from_bytes(DType::F32, &[usize::MAX, 2], Bytes::new()).is_err());
    }

    #[test]
    fn numbers_of_any_type() {
        let integers =
            [DType::I8, DType::U8, DType::I16, DType::U16, DType::I32, DType::U32, DType::I64, DType::U64];
        for dtype in integers.into_iter().chain([DType::Bool]) {
            let t = Tensor::from_i64(dtype, &[2], &[0, 1]).unwrap();
            assert_eq!((t.dtype(), t.to_i64()), (dtype, vec![0, 1]));
        }
        let outside =
            [(DType::I8, 128), (DType::U8, -1), (DType::U16, 65_536), (DType::U64, -1), (DType::Bool, 2)];
        for (dtype, value) in outside {
            assert_eq!(Tensor::from_i64(dtype, &[1], &[value]), Err(TensorError::Range { dtype, value }));
        }
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let t = Tensor::from_f32(dtype, &[2], &[1.5, -2.0]).unwrap();
            assert_eq!((t.dtype(), t.to_f32()), (dtype, vec![1.5, -2.0]));
        }
        assert!(
            Tensor::from_f32(DType::I8, &[1], &[0.0]).is_err()
                && Tensor::from_i64(DType::F32, &[1], &[0]).is_err()
        );
    }

    #[test]
    fn nibbles_are_sign_extended() {
        let t = Tensor::from_bytes(DType::I4, &[3], Bytes::from_static(&[0x7f, 0x08])).unwrap();
        assert_eq!(t.to_f64(), [-1.0, 7.0, -8.0]);
    }

    #[test]
    fn values_keep_their_type() {
        assert!(Tensor::scalar(1i64).values::<f32>().is_err());
        assert_eq!(Tensor::bools(&[2], &[true, false]).to_i64(), [1, 0]);
    }
}
