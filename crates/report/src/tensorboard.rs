//! Event files that TensorBoard shows.
//!
//! A file is a list of records (TFRecord): the length as `u64`, its checksum, the bytes of an `Event` message, their
//! checksum, all little endian. A checksum is CRC-32C, rotated by 15 bits and with a constant added. The messages are those of
//! TensorFlow's `event.proto` and `summary.proto`, as far as scalars need them.

use prost::Message;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionStatus.START`
const START: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// Writes scalars to an event file, which grows while it is read.
#[derive(Debug)]
pub struct EventWriter {
    file: BufWriter<File>,
    path: PathBuf,
}

impl EventWriter {
    /// Begins a file of its own in `folder`, which is made where it is missing. TensorBoard shows each folder as one run.
    ///
    /// # Errors
    /// When folder or file cannot be made.
    pub fn create(folder: &Path) -> io::Result<EventWriter> {
        fs::create_dir_all(folder)?;
        let now = seconds();
        // TensorBoard finds files by `tfevents` in their name and reads those of a folder in the order of their names.
        let name = |n: u32| folder.join(format!("events.out.tfevents.{now:010.0}.{n}.onnx-qat"));
        let mut opened = Err(io::ErrorKind::AlreadyExists.into());
        let mut path = folder.to_path_buf();
        for n in 0..1000 {
            path = name(n);
            opened = File::options().write(true).create_new(true).open(&path);
            match &opened {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                _ => break,
            }
        }
        let mut writer = EventWriter { file: BufWriter::new(opened?), path };
        let version = Some("brain.Event:2".to_string());
        writer.record(&Event { wall_time: now, file_version: version, ..Event::default() })?;
        Ok(writer)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds points at a step, one per curve: `train/loss` and so on. The part before the slash groups curves.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn scalars<'a>(
        &mut self,
        step: u64,
        values: impl IntoIterator<Item = (&'a str, f32)>,
    ) -> io::Result<()> {
        let value = |(tag, value): (&str, f32)| Value { tag: tag.to_string(), simple_value: Some(value) };
        let summary = Some(Summary { value: values.into_iter().map(value).collect() });
        self.record(&Event { wall_time: seconds(), step: signed(step), summary, ..Event::default() })
    }

    /// Says that the run goes on with this step after it was interrupted or went back: what the folder has of this step and of
    /// later ones holds no more, and TensorBoard forgets it (`purge_step` of its own writers).
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn restart(&mut self, step: u64) -> io::Result<()> {
        let session_log = Some(SessionLog { status: START });
        self.record(&Event { wall_time: seconds(), step: signed(step), session_log, ..Event::default() })
    }

    /// Makes everything so far visible to readers.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn record(&mut self, event: &Event) -> io::Result<()> {
        let bytes = event.encode_to_vec();
        let length = (bytes.len() as u64).to_le_bytes();
        self.file.write_all(&length)?;
        self.file.write_all(&masked(crc32c(&length)).to_le_bytes())?;
        self.file.write_all(&bytes)?;
        self.file.write_all(&masked(crc32c(&bytes)).to_le_bytes())
    }
}

fn signed(step: u64) -> i64 {
    i64::try_from(step).unwrap_or(i64::MAX)
}

/// Time since 1970.
fn seconds() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// The checksum as TFRecord stores it, so that a checksum of bytes that hold checksums means something.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli) bit by bit: event files are small.
fn crc32c(bytes: &[u8]) -> u32 {
    let byte = |crc: u32, &b: &u8| {
        (0..8).fold(crc ^ b as u32, |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    };
    !bytes.iter().fold(!0, byte)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// RFC 3720, B.4, and the mask of TensorFlow's `crc32c_test`.
    #[test]
    fn checksums_are_those_of_the_standards() {
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&ascending), 0x46dd_794e);
        let unmask = |m: u32| m.wrapping_sub(0xa282_ead8).rotate_left(15);
        assert_eq!(unmask(masked(crc32c(b"foo"))), crc32c(b"foo"));
    }

    #[test]
    fn records_can_be_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(&dir.path().join("run")).unwrap();
        writer.scalars(3, [("train/loss", 0.5), ("lr", 1e-3)]).unwrap();
        writer.restart(2).unwrap();
        writer.flush().unwrap();
        let bytes = fs::read(writer.path()).unwrap();
        let (mut rest, mut events) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], masked(crc32c(&rest[..8])).to_le_bytes());
            let message = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked(crc32c(message)).to_le_bytes());
            events.push(Event::decode(message).unwrap());
            rest = &rest[16 + length..];
        }
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        let values = &events[1].summary.as_ref().unwrap().value;
        assert_eq!(
            (events[1].step, values[0].tag.as_str(), values[1].simple_value),
            (3, "train/loss", Some(1e-3))
        );
        assert_eq!((events[2].step, events[2].session_log.as_ref().unwrap().status), (2, START));
        // A second run into the same folder is a file of its own.
        assert_ne!(EventWriter::create(&dir.path().join("run")).unwrap().path(), writer.path());
    }
}
