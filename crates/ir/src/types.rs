//! Static types of values: element type and shape, each possibly unknown.

use std::fmt;
use std::sync::Arc;
use tensor::DType;

/// One dimension of a shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Known size.
    Fixed(usize),
    /// A size with a name, as ONNX's `dim_param`: equal names are equal sizes.
    Sym(Arc<str>),
    /// A size nobody named.
    Unknown,
}

impl Dim {
    /// The size, where it is known.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            Dim::Fixed(n) => Some(*n),
            _ => None,
        }
    }

    /// A named size.
    pub fn sym(name: &str) -> Dim {
        Dim::Sym(name.into())
    }

    /// `false` only when the two cannot be the same size.
    pub fn agrees(&self, other: &Dim) -> bool {
        !matches!((self, other), (Dim::Fixed(a), Dim::Fixed(b)) if a != b)
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::Fixed(n)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Sym(s) => f.write_str(s),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

/// What is known statically of a value. `None` means unknown: results of operators that we do not understand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Type {
    /// Element type.
    pub dtype: Option<DType>,
    /// Dimensions, outermost first.
    pub shape: Option<Vec<Dim>>,
}

impl Type {
    /// The most dimensions that a tensor may have here; ONNX sets no limit, numpy has the same.
    pub const MAX_RANK: usize = 64;

    /// Known element type and dimensions.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = impl Into<Dim>>) -> Type {
        Type { dtype: Some(dtype), shape: Some(shape.into_iter().map(Into::into).collect()) }
    }

    /// A known element type of unknown shape.
    pub fn of(dtype: DType) -> Type {
        Type { dtype: Some(dtype), shape: None }
    }

    /// Nothing known.
    pub fn unknown() -> Type {
        Type::default()
    }

    /// All sizes, where every one is known.
    pub fn dims(&self) -> Option<Vec<usize>> {
        self.shape.as_ref()?.iter().map(Dim::fixed).collect()
    }

    /// Number of dimensions, where known.
    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }

    /// Whether the known sizes describe a tensor that could exist: at most [`Type::MAX_RANK`] dimensions, and 2^48 elements, so
    /// that products of sizes, and of sizes and element widths, never overflow. Sizes of 0 do not excuse the others, of which
    /// there may be tables: 2^24 is their most.
    pub fn is_countable(&self) -> bool {
        if self.rank() > Some(Type::MAX_RANK) {
            return false;
        }
        let fixed = || self.shape.iter().flatten().filter_map(Dim::fixed);
        let most = if fixed().any(|n| n == 0) { 1 << 24 } else { 1 << 48 };
        fixed().map(|n| n.max(1)).try_fold(1usize, usize::checked_mul).is_some_and(|n| n <= most)
    }

    /// `false` only when no tensor can have both types.
    pub fn agrees(&self, other: &Type) -> bool {
        let dtype = !matches!((self.dtype, other.dtype), (Some(a), Some(b)) if a != b);
        let shape = match (&self.shape, &other.shape) {
            (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.agrees(b)),
            _ => true,
        };
        dtype && shape
    }

    /// What is true of both: unknown where they differ.
    pub fn common(&self, other: &Type) -> Type {
        let shape = match (&self.shape, &other.shape) {
            (Some(a), Some(b)) if a.len() == b.len() => {
                Some(a.iter().zip(b).map(|(a, b)| if a == b { a.clone() } else { Dim::Unknown }).collect())
            }
            _ => None,
        };
        Type { dtype: self.dtype.filter(|_| self.dtype == other.dtype), shape }
    }

    /// The knowledge of both: `self` first, `other` where `self` knows nothing.
    pub fn refined(&self, other: &Type) -> Type {
        let shape = match (&self.shape, &other.shape) {
            (Some(a), Some(b)) if a.len() == b.len() => Some(
                a.iter()
                    .zip(b)
                    .map(|(a, b)| match (a, b) {
                        (Dim::Fixed(_), _) | (_, Dim::Unknown) => a.clone(),
                        (_, Dim::Fixed(_)) | (Dim::Unknown, _) => b.clone(),
                        _ => a.clone(),
                    })
                    .collect(),
            ),
            (a, b) => a.clone().or_else(|| b.clone()),
        };
        Type { dtype: self.dtype.or(other.dtype), shape }
    }
}

impl fmt::Display for Type {
    /// As ONNX text: `float[N,3,8,8]`; a scalar is `float[]`, an unknown shape `float`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dtype.map_or("?", DType::name))?;
        let Some(shape) = &self.shape else { return Ok(()) };
        f.write_str("[")?;
        for (i, d) in shape.iter().enumerate() {
            write!(f, "{}{d}", if i == 0 { "" } else { "," })?;
        }
        f.write_str("]")
    }
}
