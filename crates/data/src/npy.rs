//! NumPy's `.npy` format, versions 1.0 to 3.0 (NumPy Enhancement Proposal 1 and `numpy.lib.format`).
//!
//! The element type of the file is kept; Fortran order and big-endian bytes become C order and little-endian.

use crate::file::{check_held, write_atomic};
use crate::{Error, Place};
use std::io::{Read, Write};
use std::path::Path;
use tensor::{DType, Tensor, element_count};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// More than any header that NumPy writes for the types we read.
const MAX_HEADER: usize = 1 << 16;

/// Reads one array. A large file is mapped: its elements are read from the disk when they are used.
///
/// # Errors
/// When the file cannot be read, is not a `.npy` file, holds elements other than numbers and booleans, or holds
/// fewer or more bytes than its header says.
pub fn read(path: impl AsRef<Path>) -> Result<Tensor, Error> {
    let place = Place::file(path.as_ref());
    let file = onnx::read_bytes(path.as_ref()).map_err(|e| Error::read(&place, e))?;
    let (header, taken) = read_header(&mut &file[..], &place)?;
    let Header { dtype, big_endian, fortran, shape } = &header;
    if *big_endian || (*fortran && shape.len() > 1) {
        return read_from(&file[..], file.len() as u64, &place);
    }
    header.bytes(&place, (file.len() - taken) as u64)?;
    Tensor::from_bytes(*dtype, shape, file.slice(taken..)).map_err(|e| Error::format(&place, e.to_string()))
}

/// Writes one array in C order, through a temporary file and a rename.
///
/// # Errors
/// When the file cannot be written, or NumPy has no such element type (bfloat16, int4, uint4).
pub fn write(path: impl AsRef<Path>, array: &Tensor) -> Result<(), Error> {
    let path = path.as_ref();
    let header = header(array, &Place::file(path))?;
    write_atomic(path, |mut out| {
        out.write_all(&header)?;
        out.write_all(array.bytes())?;
        Ok(out)
    })
}

/// What the header of an array says.
#[derive(Debug, PartialEq)]
struct Header {
    dtype: DType,
    big_endian: bool,
    fortran: bool,
    shape: Vec<usize>,
}

impl Header {
    /// How many bytes the elements take.
    ///
    /// # Errors
    /// When that is not what is `available`.
    fn bytes(&self, place: &Place, available: u64) -> Result<usize, Error> {
        let Header { dtype, shape, .. } = self;
        let expected =
            element_count(shape).and_then(|n| n.checked_mul(dtype.bits() / 8)).ok_or_else(|| {
                Error::format(place, format!("the header's shape {shape:?} is too large to count"))
            })?;
        match available == expected as u64 {
            true => Ok(expected),
            false => Err(Error::format(
                place,
                format!(
                    "a {dtype} array of shape {shape:?} takes {expected} bytes, but {available} are there; write the \
                     file again"
                ),
            )),
        }
    }
}

/// Reads an array of which `size` bytes are said to be there. Memory grows with the bytes that really come, so
/// that a lying header cannot ask for more.
pub(crate) fn read_from(mut reader: impl Read, size: u64, place: &Place) -> Result<Tensor, Error> {
    let (header, taken) = read_header(&mut reader, place)?;
    let Header { dtype, shape, .. } = &header;
    let expected = header.bytes(place, size.saturating_sub(taken as u64))?;
    check_held(place, expected)?;
    let mut bytes = Vec::with_capacity(expected.min(1 << 20));
    // One byte more than expected, so that too long an entry is seen and a zip entry is read to its checksum.
    reader.take(expected as u64 + 1).read_to_end(&mut bytes).map_err(|e| Error::read(place, e))?;
    header.bytes(place, bytes.len() as u64)?;
    let width = dtype.bits() / 8;
    if header.big_endian {
        bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    }
    if header.fortran && shape.len() > 1 {
        bytes = to_c_order(&bytes, shape, width);
    }
    Tensor::from_bytes(*dtype, shape, bytes.into()).map_err(|e| Error::format(place, e.to_string()))
}

/// Reads magic, version and header; also how many bytes they took.
fn read_header(reader: &mut impl Read, place: &Place) -> Result<(Header, usize), Error> {
    let not_npy = |what: &str| Error::format(place, format!("not an array in NumPy's .npy format: {what}"));
    let mut fill = |buffer: &mut [u8]| {
        reader.read_exact(buffer).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => not_npy("it ends inside its header"),
            _ => Error::read(place, e),
        })
    };
    let mut start = [0u8; 8];
    fill(&mut start)?;
    if &start[..6] != MAGIC {
        return Err(not_npy("it does not begin with \\x93NUMPY"));
    }
    let length_bytes = match start[6] {
        1 => 2,
        2 | 3 => 4,
        v => return Err(not_npy(&format!("version {v} is unknown, 1 to 3 are read"))),
    };
    let mut length = [0u8; 4];
    fill(&mut length[..length_bytes])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER {
        return Err(not_npy(&format!("its header claims {length} bytes, at most {MAX_HEADER} are read")));
    }
    let mut text = vec![0u8; length];
    fill(&mut text)?;
    // Latin-1 before version 3, UTF-8 then: they differ only in field names of records, which are refused.
    let text = String::from_utf8_lossy(&text);
    let header = parse_header(&text).map_err(|problem| Error::format(place, problem))?;
    Ok((header, 8 + length_bytes + length))
}

/// Parses the Python dictionary `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse_header(text: &str) -> Result<Header, String> {
    let broken = || format!("the .npy header cannot be understood: {}", text.trim_end());
    let value = |key: &str| {
        let quoted = [format!("'{key}'"), format!("\"{key}\"")];
        let after = quoted.iter().find_map(|q| text.split_once(q.as_str())).map(|(_, rest)| rest);
        after.and_then(|rest| rest.trim_start().strip_prefix(':')).map(str::trim_start).ok_or_else(broken)
    };

    let descr = value("descr")?;
    if descr.starts_with('[') {
        return Err("the array holds records; save each field as an array of its own".into());
    }
    let quote = if descr.starts_with('"') { '"' } else { '\'' };
    let descr = descr.strip_prefix(quote).and_then(|d| d.split_once(quote)).ok_or_else(broken)?.0;
    let (big_endian, dtype) = parse_descr(descr)?;

    let order = value("fortran_order")?;
    let fortran = match (order.starts_with("True"), order.starts_with("False")) {
        (true, _) => true,
        (_, true) => false,
        _ => return Err(broken()),
    };

    let shape = value("shape")?.strip_prefix('(').and_then(|s| s.split_once(')')).ok_or_else(broken)?.0;
    let dims = shape.split(',').map(str::trim).filter(|d| !d.is_empty());
    // Python 2 wrote long integers as `3L`.
    let shape =
        dims.map(|d| d.trim_end_matches('L').parse()).collect::<Result<_, _>>().map_err(|_| broken())?;
    Ok(Header { dtype, big_endian, fortran, shape })
}

/// (`descr` without its byte order, element type)
const DESCR: [(&str, DType); 12] = [
    ("f2", DType::F16),
    ("f4", DType::F32),
    ("f8", DType::F64),
    ("i1", DType::I8),
    ("i2", DType::I16),
    ("i4", DType::I32),
    ("i8", DType::I64),
    ("u1", DType::U8),
    ("u2", DType::U16),
    ("u4", DType::U32),
    ("u8", DType::U64),
    ("b1", DType::Bool),
];

fn parse_descr(descr: &str) -> Result<(bool, DType), String> {
    let (order, kind) = match descr.chars().next() {
        Some(c @ ('<' | '>' | '|' | '=')) => (c, &descr[1..]),
        _ => ('|', descr),
    };
    let dtype = DESCR.iter().find(|(name, _)| *name == kind).map(|(_, dtype)| *dtype);
    dtype.map(|dtype| (order == '>', dtype)).ok_or_else(|| match kind.chars().next() {
        Some('U' | 'S') => format!("the array holds text ({descr}); numbers or booleans are needed"),
        Some('O') => "the array holds Python objects; save it with an ordinary dtype such as float32".into(),
        Some('c') => format!("the array holds complex numbers ({descr}); real ones are needed"),
        _ => format!("elements of type '{descr}' are not read; use float16/32/64, int8-64, uint8-64 or bool"),
    })
}

/// The header of `array`, padded so that the data begins at a multiple of 64 bytes as NumPy has it.
pub(crate) fn header(array: &Tensor, place: &Place) -> Result<Vec<u8>, Error> {
    let dtype = array.dtype();
    let name = DESCR.iter().find(|(_, d)| *d == dtype).map(|(name, _)| *name);
    let name = name.ok_or_else(|| Error::format(place, format!("NumPy has no element type for {dtype}")))?;
    let order = if dtype.bits() == 8 { '|' } else { '<' };
    let dims: Vec<String> = array.shape().iter().map(usize::to_string).collect();
    let comma = if dims.len() == 1 { "," } else { "" };
    let mut text = format!(
        "{{'descr': '{order}{name}', 'fortran_order': False, 'shape': ({}{comma}), }}",
        dims.join(", ")
    );
    const PREFIX: usize = 10;
    let padded = (PREFIX + text.len() + 1).next_multiple_of(64) - PREFIX;
    while text.len() < padded - 1 {
        text.push(' ');
    }
    text.push('\n');
    let length = u16::try_from(text.len())
        .map_err(|_| Error::format(place, format!("a shape of {} dimensions is too long", dims.len())))?;
    let mut out = MAGIC.to_vec();
    out.extend([1, 0]);
    out.extend(length.to_le_bytes());
    out.extend(text.as_bytes());
    Ok(out)
}

/// Rearranges elements of `width` bytes from first-index-fastest to last-index-fastest.
fn to_c_order(bytes: &[u8], shape: &[usize], width: usize) -> Vec<u8> {
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = 1;
    for &d in shape {
        strides.push(stride);
        stride *= d;
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    while out.len() < bytes.len() {
        out.extend_from_slice(&bytes[at * width..(at + 1) * width]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= index[axis] * strides[axis];
            index[axis] = 0;
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place::file(Path::new("x.npy"))
    }

    /// A file with this header text, followed by `data`.
    fn file(text: &str, data: &[u8]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend([1, 0]);
        out.extend((text.len() as u16).to_le_bytes());
        out.extend(text.as_bytes());
        out.extend(data);
        out
    }

    fn parse(bytes: &[u8]) -> Result<Tensor, String> {
        read_from(bytes, bytes.len() as u64, &place()).map_err(|e| e.to_string())
    }

    #[test]
    fn every_type_and_rank_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npy");
        for (_, dtype) in DESCR {
            for shape in [&[][..], &[3], &[0, 4], &[2, 3], &[1, 2, 3, 4]] {
                let n: usize = dtype.bytes(shape.iter().product());
                let bytes: Vec<u8> =
                    (0..n).map(|i| if dtype == DType::Bool { i % 2 } else { i } as u8).collect();
                let array = Tensor::from_bytes(dtype, shape, bytes.into()).unwrap();
                write(&path, &array).unwrap();
                assert_eq!(read(&path).unwrap(), array);
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn another_implementation_reads_what_we_write_and_the_other_way_round() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npy");
        let array = ndarray::Array2::from_shape_fn((3, 5), |(i, j)| (10 * i + j) as f32);
        ndarray_npy::write_npy(&path, &array).unwrap();
        let ours = read(&path).unwrap();
        assert_eq!((ours.shape(), ours.to_f32()), (&[3, 5][..], array.iter().copied().collect()));
        write(&path, &ours).unwrap();
        assert_eq!(ndarray_npy::read_npy::<_, ndarray::Array2<f32>>(&path).unwrap(), array);
        // `reversed_axes` gives a Fortran-ordered array, which ndarray-npy writes as such.
        let fortran = array.reversed_axes();
        ndarray_npy::write_npy(&path, &fortran).unwrap();
        let ours = read(&path).unwrap();
        assert_eq!((ours.shape(), ours.to_f32()), (&[5, 3][..], fortran.iter().copied().collect()));
    }

    #[test]
    fn fortran_order_becomes_c_order() {
        let bytes = file(
            "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3, 2)}",
            &(0..12).collect::<Vec<u8>>(),
        );
        let array = parse(&bytes).unwrap();
        assert_eq!(array.to_i64(), [0, 6, 2, 8, 4, 10, 1, 7, 3, 9, 5, 11]);
    }

    #[test]
    fn big_endian_and_long_headers_are_read() {
        let bytes = file("{'shape': (2L,), 'fortran_order': False, 'descr': '>i2'}", &[1, 2, 255, 255]);
        assert_eq!(parse(&bytes).unwrap().to_i64(), [258, -1]);
        let text = "{'descr': '<u2', 'fortran_order': False, 'shape': (), }";
        let mut bytes = MAGIC.to_vec();
        bytes.extend([2, 0]);
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.extend([7, 0]);
        let array = parse(&bytes).unwrap();
        assert_eq!((array.shape(), array.to_i64()), (&[][..], vec![7]));
    }

    #[test]
    fn a_lying_header_is_refused() {
        let bytes = file("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}", &[0; 8]);
        let e = parse(&bytes).unwrap_err();
        assert!(
            e.contains("x.npy: a float array of shape [1000000000000] takes 4000000000000 bytes, but 8"),
            "{e}"
        );
        // The size in a zip directory may lie just as well: only bytes that come are stored.
        let large = file("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000,)}", &[0; 8]);
        let e = read_from(&large[..], 4_000_000_000 + large.len() as u64 - 8, &place()).unwrap_err();
        assert!(e.to_string().contains("but 8 are there"), "{e}");
        let e = read_from(&bytes[..], 4_000_000_000_000 + bytes.len() as u64 - 8, &place()).unwrap_err();
        assert!(e.to_string().contains("at most 4294967296 are read into memory"), "{e}");
        let huge = file("{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999, 9999999999)}", &[]);
        assert!(parse(&huge).unwrap_err().contains("too large"));
        let long = file("{'descr': '|u1', 'fortran_order': False, 'shape': (2,)}", &[0; 3]);
        assert!(parse(&long).unwrap_err().contains("takes 2 bytes, but 3 are there"));
    }

    #[test]
    fn what_is_no_array_of_numbers_is_told() {
        let header = |descr: &str| {
            file(&format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (1,)}}"), &[0; 8])
        };
        for (bytes, says) in [
            (b"PK\x03\x04 a zip file".to_vec(), "does not begin with"),
            (MAGIC.to_vec(), "ends inside its header"),
            (b"\x93NUMPY\x09\x00\x00\x00".to_vec(), "version 9"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "claims 4294967295 bytes"),
            (b"\x93NUMPY\x01\x00\x40\x00{".to_vec(), "ends inside its header"),
            (file("{}", &[]), "cannot be understood"),
            (file("{'descr': ", &[]), "cannot be understood"),
            (file("{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1,)}", &[]), "cannot be understood"),
            (file("{'descr': '<f4', 'fortran_order': True, 'shape': (-1,)}", &[]), "cannot be understood"),
            (file("{'descr': '<f4', 'fortran_order': True, 'shape': (1", &[]), "cannot be understood"),
            (header("'<U27'"), "holds text (<U27)"),
            (header("'|O'"), "Python objects"),
            (header("'<c8'"), "complex"),
            (header("'<M8[ns]'"), "elements of type '<M8[ns]'"),
            (header("[('a', '<f4')]"), "records"),
            (header("'é4'"), "elements of type"),
        ] {
            let e = parse(&bytes).unwrap_err();
            assert!(e.starts_with("x.npy: ") && e.contains(says), "{e}");
        }
    }

    /// Whatever is cut off or flipped, the answer is an array or an error.
    #[test]
    fn damaged_headers_never_panic() {
        let good = file("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 1), }", &[0; 8]);
        for i in 0..good.len() {
            assert!(parse(&good[..i]).is_err());
            for flip in [1u8, 0x80, 0xff, b'(' ^ b','] {
                let mut bad = good.clone();
                bad[i] ^= flip;
                let _ = parse(&bad);
            }
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let e = read("/nowhere/x.npy").unwrap_err().to_string();
        assert!(e.starts_with("cannot read /nowhere/x.npy: "), "{e}");
        let e = write("/nowhere/x.npy", &Tensor::scalar(1f32)).unwrap_err().to_string();
        assert!(e.starts_with("cannot write /nowhere/x.npy: "), "{e}");
    }
}
