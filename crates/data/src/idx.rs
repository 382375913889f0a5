//! The idx format of the MNIST files (<http://yann.lecun.com/exdb/mnist>, "the IDX file format"): two zero bytes, a
//! type code, the number of dimensions, each dimension and then the elements, all big-endian; plain or gzipped.

use crate::file::check_held;
use crate::{Error, Place};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;
use tensor::{DType, Tensor, element_count};

/// The two bytes that gzip files begin with (RFC 1952).
pub(crate) const GZIP: [u8; 2] = [0x1f, 0x8b];

/// (type code, element type)
const CODES: [(u8, DType); 6] = [
    (0x08, DType::U8),
    (0x09, DType::I8),
    (0x0b, DType::I16),
    (0x0c, DType::I32),
    (0x0d, DType::F32),
    (0x0e, DType::F64),
];

/// Reads one array, from a plain or a gzipped file.
///
/// # Errors
/// When the file cannot be read, is not in idx format, or holds fewer or more bytes than its header says.
pub fn read(path: impl AsRef<Path>) -> Result<Tensor, Error> {
    let place = Place::file(path.as_ref());
    let open = || {
        let mut file = BufReader::new(File::open(path.as_ref())?);
        let mut start = Vec::new();
        file.by_ref().take(2).read_to_end(&mut start)?;
        file.rewind()?;
        Ok::<Box<dyn Read>, std::io::Error>(match start == GZIP {
            true => Box::new(MultiGzDecoder::new(file)),
            false => Box::new(file),
        })
    };
    read_from(open().map_err(|e| Error::read(&place, e))?, &place)
}

fn read_from(mut reader: impl Read, place: &Place) -> Result<Tensor, Error> {
    let mut fill = |buffer: &mut [u8]| {
        reader.read_exact(buffer).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::format(place, "not an idx file: it ends inside its header")
            }
            _ => Error::read(place, e),
        })
    };
    let mut start = [0u8; 4];
    fill(&mut start)?;
    let [0, 0, code, rank] = start else {
        return Err(Error::format(
            place,
            "not an idx file (as MNIST's): it does not begin with two zero bytes",
        ));
    };
    let Some(&(_, dtype)) = CODES.iter().find(|(c, _)| *c == code) else {
        return Err(Error::format(place, format!("not an idx file: type code {code:#04x} is unknown")));
    };
    let mut shape = Vec::with_capacity(rank as usize);
    for _ in 0..rank {
        let mut dim = [0u8; 4];
        fill(&mut dim)?;
        shape.push(u32::from_be_bytes(dim) as usize);
    }
    let width = dtype.bits() / 8;
    let expected = element_count(&shape)
        .and_then(|n| n.checked_mul(width))
        .ok_or_else(|| Error::format(place, format!("the header's shape {shape:?} is too large to count")))?;
    check_held(place, expected)?;
    // Memory grows with the bytes that really come; one byte more tells a file that is too long, and has gzip
    // check its sum.
    let mut bytes = Vec::with_capacity(expected.min(1 << 20));
    reader
        .take((expected as u64).saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| Error::read(place, e))?;
    if bytes.len() != expected {
        let found = if bytes.len() > expected { "more".to_string() } else { format!("only {}", bytes.len()) };
        let problem =
            format!("a {dtype} array of shape {shape:?} takes {expected} bytes, but {found} are there");
        return Err(Error::format(place, problem));
    }
    bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    Tensor::from_bytes(dtype, &shape, bytes.into()).map_err(|e| Error::format(place, e.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;

    fn parse(bytes: &[u8]) -> Result<Tensor, String> {
        read_from(bytes, &Place::file(Path::new("x-idx"))).map_err(|e| e.to_string())
    }

    #[test]
    fn giant_arrays_are_refused() {
        let e = parse(&[0, 0, 8, 2, 0, 2, 0, 0, 0, 2, 0, 0]).unwrap_err();
        assert!(
            e.contains("x-idx: the array takes 17179869184 bytes") && e.contains("as an .npy file"),
            "{e}"
        );
    }

    #[test]
    fn all_types_are_read() {
        assert_eq!(parse(&[0, 0, 8, 1, 0, 0, 0, 2, 7, 9]).unwrap(), Tensor::new(&[2], vec![7u8, 9]));
        assert_eq!(parse(&[0, 0, 0x0b, 1, 0, 0, 0, 1, 1, 2]).unwrap(), Tensor::new(&[1], vec![258i16]));
        let float = [&[0, 0, 0x0d, 2, 0, 0, 0, 1, 0, 0, 0, 1][..], &1.5f32.to_be_bytes()].concat();
        assert_eq!(parse(&float).unwrap(), Tensor::new(&[1, 1], vec![1.5f32]));
        assert_eq!(parse(&[0, 0, 8, 2, 0, 0, 0, 0, 0, 0, 0, 5]).unwrap().shape(), [0, 5]);
    }

    #[test]
    fn gzip_is_seen_by_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels");
        let plain = [0u8, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        for bytes in [&plain[..], &gzip] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read(&path).unwrap(), Tensor::new(&[3], vec![1u8, 2, 3]));
        }
        for cut in 0..gzip.len() {
            std::fs::write(&path, &gzip[..cut]).unwrap();
            assert!(read(&path).unwrap_err().to_string().contains("labels"));
        }
        let mut damaged = gzip.clone();
        let crc = damaged.len() - 8;
        damaged[crc] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        assert!(read(&path).is_err(), "the checksum is looked at");
    }

    #[test]
    fn bad_files_are_told() {
        for (bytes, says) in [
            (&[0, 0, 8][..], "ends inside its header"),
            (&[0, 0, 8, 2, 0, 0, 0, 1], "ends inside its header"),
            (&[1, 0, 8, 1, 0, 0, 0, 1, 5], "two zero bytes"),
            (&[0, 0, 7, 1, 0, 0, 0, 1, 5], "type code 0x07"),
            (&[0, 0, 8, 1, 0, 0, 0, 2, 5], "takes 2 bytes, but only 1 are there"),
            (&[0, 0, 8, 1, 0, 0, 0, 1, 5, 6], "takes 1 bytes, but more are there"),
            (&[0, 0, 14, 2, 255, 255, 255, 255, 255, 255, 255, 255], "too large"),
            (&[0, 0, 8, 1, 255, 255, 255, 255, 1], "takes 4294967295 bytes, but only 1 are there"),
        ] {
            let e = parse(bytes).unwrap_err();
            assert!(e.starts_with("x-idx: ") && e.contains(says), "{e}");
        }
    }
}
