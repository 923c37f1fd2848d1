//! One compressed stream of records becomes pieces that several workers can read: decoded once, cut between records,
//! written again with the fastest compression.

use super::records::{Records, Shape};
use crate::error::{Error, Result};
use crate::store::durable::{DurableFile, FileEntry};
use std::io::{BufRead, Write};
use std::path::Path;

/// A run of whole records.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The file that holds them, as a zstd frame.
    pub file: FileEntry,
    /// Offset of the first in the decoded stream.
    pub start: u64,
    /// Offset behind the last.
    pub end: u64,
}

/// The pieces of a stream, and where and why it broke if it did.
pub type Spooled = (Vec<Piece>, Option<(u64, String)>);

/// Cuts the records of `reader` from offset `start` on into pieces of at least `piece_bytes`, the last one excepted; there is
/// always one.
pub fn spool(
    reader: impl BufRead,
    shape: Shape,
    start: u64,
    piece_bytes: u64,
    folder: &Path,
    name: impl Fn(usize) -> String,
) -> Result<Spooled> {
    let mut records = Records::new(reader, shape, start);
    let mut pieces: Vec<Piece> = Vec::new();
    loop {
        let name = name(pieces.len());
        let start = records.offset();
        let failed = |e| Error::io("write", folder.join(&name))(e);
        let mut writer = zstd::Encoder::new(DurableFile::create(folder, &name)?, 1).map_err(failed)?;
        let mut unwritten = None;
        let mut ended = None;
        while ended.is_none() && records.offset() - start < piece_bytes {
            let mut copy = |bytes: &[u8]| {
                writer.write_all(bytes).map_err(|e| {
                    unwritten = Some(e);
                    std::io::Error::other("not written")
                })
            };
            match records.next_copied(&mut copy) {
                Ok(Some(_)) => {}
                Ok(None) => ended = Some(None),
                Err(e) => ended = Some(Some(e.to_string())),
            }
        }
        if let Some(e) = unwritten {
            return Err(failed(e));
        }
        let file = writer.finish().map_err(failed)?.finish()?;
        pieces.push(Piece { file, start, end: records.offset() });
        if let Some(why) = ended {
            return Ok((pieces, why.map(|why| (records.offset(), why))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_put_together_are_the_stream_up_to_its_break() {
        let lines: Vec<u8> = (0..5000).flat_map(|i| format!("{{\"text\": \"line {i}\"}}\n").into_bytes()).collect();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&lines).unwrap();
        let packed = packed.finish().unwrap();
        for cut in [packed.len(), packed.len() / 2] {
            let folder = tempfile::tempdir().unwrap();
            let reader = std::io::BufReader::new(flate2::bufread::MultiGzDecoder::new(&packed[..cut]));
            let (pieces, broken) =
                spool(reader, Shape::Lines, 0, 10_000, folder.path(), |i| format!("piece-{i}")).unwrap();
            assert!(pieces.len() > 3);
            assert_eq!(broken.is_some(), cut < packed.len());
            let mut joined = Vec::new();
            for piece in &pieces {
                assert_eq!(piece.start, joined.len() as u64);
                let bytes = std::fs::read(folder.path().join(&piece.file.path)).unwrap();
                joined.extend(zstd::decode_all(&bytes[..]).unwrap());
                assert_eq!(piece.end, joined.len() as u64);
                assert_eq!(joined.last(), Some(&b'\n'));
            }
            assert!(lines.starts_with(&joined));
            if let Some((at, _)) = broken {
                assert_eq!(at, joined.len() as u64);
            } else {
                assert_eq!(joined, lines);
            }
        }
    }
}
