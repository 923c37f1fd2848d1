//! Gzip members, zstd and LZ4 frames: opening one, decoding it piece by piece, finding the next one after damage.
//!
//! In: the file and an offset. Out: decoded bytes, the end of the member, or a [`Fault`]. Left to others: records, where a
//! frame ends (`frame.rs`).
//! RFC 1952 (gzip), RFC 8878 (zstd). Every loop moves forward in the file or stops.

use flate2::{Crc, Decompress, FlushDecompress, Status};
use memchr::{memchr, memmem};
use zstd::stream::raw::{Decoder as ZstdStream, InBuffer, Operation, OutBuffer};

use super::super::lz4;
use super::Compression;
use super::frame::{ZSTD_MAGIC, frame_len, skippable, zstd_dictionary};
use super::head::{START_BYTES, starts_record};

/// Compressed bytes that are decoded to see what a member holds; fixed, so that every range sees the same.
const GZIP_PROBE_IN: usize = 4 << 10;
/// The same for zstd, which gives nothing before the end of a block of up to 128 KiB.
const ZSTD_PROBE_IN: usize = 132 << 10;
/// Decoded bytes taken by that look and by each later read.
pub(super) const CHUNK: usize = 16 << 10;
/// Most compressed bytes given to one decoding call.
const STEP_IN: usize = 1 << 20;
/// Longest gzip header that is believed.
const MAX_GZIP_HEADER: usize = 68 << 10;
/// A stored deflate block is at most 64 KiB, so a decoder that runs past the end of a cut member is soon noticed. The
/// search for the next member goes back this far from where the fault was seen, not more: rescanning stays linear.
const OVERRUN: usize = 128 << 10;

/// The rule of a fault that is not the decoder's: nothing is known to be wrong with the member's bytes.
pub(super) const BOMB: &str = "decompression_bomb";

const TRUNCATED: &str = "truncated_member";
const CRC_MISMATCH: &str = "crc_mismatch";

/// Why a member could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub rule: &'static str,
    pub detail: String,
}

impl Fault {
    fn new(rule: &'static str, detail: impl Into<String>) -> Self {
        Self { rule, detail: detail.into() }
    }
}

/// What one decoding call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Bytes were read or written; there may be more.
    More,
    /// The member is complete, checksum included; the decoder stands behind it.
    End,
}

/// What is at an offset.
pub(super) enum Opened {
    /// No member can start here.
    Nothing,
    /// A member may start here, but the file ends before it says anything.
    CutOff,
    /// A member with these first decoded bytes (possibly none).
    Member { front: Vec<u8> },
}

impl Opened {
    /// Is it a member that begins with a record?
    pub fn is_anchor(&self) -> bool {
        matches!(self, Self::Member { front } if starts_record(front).is_some())
    }
}

/// A decoder for the members of one file, reused from member to member.
pub(super) struct Decoder<'a> {
    file: &'a [u8],
    codec: Codec,
    /// Where the open member starts.
    pub member: usize,
    /// The next compressed byte to read.
    pub at: usize,
    /// An empty buffer to decode the next front into.
    spare: Vec<u8>,
    /// How the open member ended, once it has.
    outcome: Option<Result<Step, Fault>>,
}

enum Codec {
    Gzip {
        inflate: Box<Decompress>,
        crc: Crc,
    },
    Zstd {
        stream: Option<ZstdStream<'static>>,
        dictionary: Vec<u8>,
    },
    /// `given`: bytes of its last block that were handed out.
    Lz4 {
        frame: Option<lz4::Frame>,
        given: usize,
    },
}

impl<'a> Decoder<'a> {
    pub fn new(file: &'a [u8], compression: Compression) -> Self {
        let codec = match compression {
            Compression::Zstd => {
                let dictionary = zstd_dictionary(file).unwrap_or_default();
                Codec::Zstd { stream: ZstdStream::with_dictionary(&dictionary).ok(), dictionary }
            }
            Compression::Lz4 => Codec::Lz4 { frame: None, given: 0 },
            _ => Codec::Gzip { inflate: Box::new(Decompress::new(false)), crc: Crc::new() },
        };
        Self { file, codec, member: 0, at: 0, spare: Vec::new(), outcome: None }
    }

    /// Where the member at `at` really starts: behind skippable frames, which zstd and LZ4 have alike.
    pub fn behind_skippable(&self, mut at: usize) -> usize {
        if let Codec::Zstd { .. } | Codec::Lz4 { .. } = self.codec {
            while let Some(frame) = skippable(&self.file[at..]) {
                at += frame.len() + 8;
            }
        }
        at
    }

    /// Begins the member at `at` and decodes its front.
    pub fn open(&mut self, at: usize) -> Opened {
        let bytes = &self.file[at.min(self.file.len())..];
        let header = match &mut self.codec {
            Codec::Gzip { inflate, crc } => match gzip_header(bytes) {
                Header::Not => return Opened::Nothing,
                Header::CutOff => return Opened::CutOff,
                Header::Length(header) => {
                    inflate.reset(false);
                    crc.reset();
                    header
                }
            },
            Codec::Zstd { stream, dictionary } => {
                if !bytes.starts_with(&ZSTD_MAGIC) {
                    let cut_off = !bytes.is_empty() && bytes.len() < 4 && ZSTD_MAGIC.starts_with(bytes);
                    return if cut_off { Opened::CutOff } else { Opened::Nothing };
                }
                let fresh = stream.as_mut().is_some_and(|stream| stream.reinit().is_ok());
                if !fresh {
                    *stream = ZstdStream::with_dictionary(dictionary).ok();
                }
                0
            }
            Codec::Lz4 { frame, given } => {
                let seen = bytes.len().min(4);
                if seen == 0 || bytes[..seen] != lz4::MAGIC[..seen] {
                    return Opened::Nothing;
                }
                match lz4::Frame::open(bytes) {
                    Ok((opened, header)) => {
                        (*frame, *given) = (Some(opened), 0);
                        header
                    }
                    Err(lz4::Broken::CutOff) => return Opened::CutOff,
                    Err(_) => return Opened::Nothing,
                }
            }
        };
        (self.member, self.at, self.outcome) = (at, at + header, None);
        let mut front = std::mem::take(&mut self.spare);
        front.clear();
        front.shrink_to(CHUNK);
        front.reserve_exact(CHUNK);
        let probe_end = match self.codec {
            Codec::Gzip { .. } => self.at + GZIP_PROBE_IN,
            Codec::Zstd { .. } | Codec::Lz4 { .. } => self.at + ZSTD_PROBE_IN,
        };
        while front.len() < START_BYTES && self.at < probe_end {
            if !matches!(self.step_within(&mut front, probe_end), Ok(Step::More)) {
                break;
            }
        }
        match self.outcome {
            Some(Err(Fault { rule: TRUNCATED, .. })) if starts_record(&front).is_none() => Opened::CutOff,
            Some(Err(_)) if front.is_empty() => Opened::Nothing,
            _ => Opened::Member { front },
        }
    }

    /// Takes back a buffer that [`Decoder::open`] handed out, or another one.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.spare = buffer;
    }

    /// Decodes into the spare capacity of `out`, which must not be zero.
    pub fn step(&mut self, out: &mut Vec<u8>) -> Result<Step, Fault> {
        self.step_within(out, self.at + STEP_IN)
    }

    fn step_within(&mut self, out: &mut Vec<u8>, input_end: usize) -> Result<Step, Fault> {
        if let Some(outcome) = &self.outcome {
            return outcome.clone();
        }
        let (from, before) = (self.at, out.len());
        let input = &self.file[from..input_end.min(self.file.len())];
        let ended = match &mut self.codec {
            Codec::Gzip { inflate, crc } => {
                let read_before = inflate.total_in();
                let status = inflate.decompress_vec(input, out, FlushDecompress::None);
                self.at += (inflate.total_in() - read_before) as usize;
                crc.update(&out[before..]);
                status.map(|status| status == Status::StreamEnd).map_err(|error| error.to_string())
            }
            Codec::Zstd { stream, .. } => {
                let mut source = InBuffer::around(input);
                let hint = zstd_step(stream.as_mut(), &mut source, out);
                self.at += source.pos();
                hint.map(|hint| hint == 0)
            }
            Codec::Lz4 { frame, given } => {
                let Some(frame) = frame else {
                    return Err(Fault::new("corrupt_member", "no frame is open"));
                };
                let mut ended = Ok(false);
                if frame.decoded().len() == *given {
                    *given = 0;
                    match frame.block(&self.file[from..]) {
                        Ok((taken, last)) => {
                            self.at = from + taken;
                            ended = Ok(last);
                        }
                        Err(lz4::Broken::CutOff) => self.at = self.file.len(),
                        Err(lz4::Broken::Bad(why)) => ended = Err(why),
                        Err(lz4::Broken::Checksum(why)) => {
                            let fault = Err(Fault::new(CRC_MISMATCH, why));
                            self.outcome = Some(fault.clone());
                            return fault;
                        }
                    }
                }
                if ended.is_ok() {
                    let left = &frame.decoded()[*given..];
                    let count = left.len().min(out.capacity() - out.len());
                    out.extend_from_slice(&left[..count]);
                    *given += count;
                }
                ended
            }
        };
        let result = match ended {
            Ok(true) => self.finish(),
            Ok(false) if self.at > from || out.len() > before => return Ok(Step::More),
            Ok(false) if self.at >= self.file.len() => Err(Fault::new(TRUNCATED, "the file ends inside a member")),
            Ok(false) => Err(Fault::new("corrupt_member", "the decoder makes no progress")),
            Err(detail) => Err(Fault::new("corrupt_member", detail)),
        };
        self.outcome = Some(result.clone());
        result
    }

    /// Behind the last compressed block: gzip's checksum and length.
    fn finish(&mut self) -> Result<Step, Fault> {
        let Codec::Gzip { inflate, crc } = &self.codec else {
            return Ok(Step::End);
        };
        let Some(trailer) = self.file.get(self.at..self.at + 8) else {
            self.at = self.file.len();
            return Err(Fault::new(TRUNCATED, "the file ends inside a member's checksum"));
        };
        self.at += 8;
        let word = |at: usize| u32::from_le_bytes([trailer[at], trailer[at + 1], trailer[at + 2], trailer[at + 3]]);
        if word(0) == crc.sum() && word(4) == inflate.total_out() as u32 {
            return Ok(Step::End);
        }
        let detail = format!(
            "checksum {:08x}, length {}; the member says {:08x}, {}",
            crc.sum(),
            inflate.total_out() as u32,
            word(0),
            word(4)
        );
        Err(Fault::new(CRC_MISMATCH, detail))
    }

    /// The first anchor at or after `from`, or the file's length.
    pub fn find_anchor(&mut self, mut from: usize) -> usize {
        let file = self.file;
        match self.codec {
            Codec::Zstd { .. } | Codec::Lz4 { .. } => self.chained_anchor_from(from, from),
            Codec::Gzip { .. } => {
                while let Some(found) = memmem::find(&file[from.min(file.len())..], &GZIP_MAGIC) {
                    if self.open(from + found).is_anchor() {
                        return from + found;
                    }
                    from += found + 1;
                }
                file.len()
            }
        }
    }

    /// The first anchor after the offset `at`, where none is.
    pub fn find_anchor_past(&mut self, at: usize) -> usize {
        match self.codec {
            Codec::Zstd { .. } | Codec::Lz4 { .. } => {
                let next = self.next_frame(at);
                self.find_anchor(next)
            }
            Codec::Gzip { .. } => self.find_anchor(at + 1),
        }
    }

    /// The next anchor after `fault` ended the open member.
    pub fn find_anchor_after(&mut self, fault: &Fault) -> usize {
        match self.codec {
            Codec::Zstd { .. } | Codec::Lz4 { .. } => self.find_anchor_past(self.member),
            Codec::Gzip { .. } => {
                let (member, at) = (self.member, self.at);
                // A flipped bit may also move the end of a member, so the one behind a bad checksum is not trusted.
                let end_is_known = fault.rule == CRC_MISMATCH && self.open(at).is_anchor();
                let overrun = if end_is_known || fault.rule == BOMB { 0 } else { OVERRUN };
                self.find_anchor(at.saturating_sub(overrun).max(member + 1))
            }
        }
    }

    /// The first anchor at or after `goal`, hopping over frames from the start of a zstd or LZ4 file without decoding them.
    pub fn chained_anchor(&mut self, goal: usize) -> usize {
        self.chained_anchor_from(0, goal)
    }

    fn chained_anchor_from(&mut self, from: usize, goal: usize) -> usize {
        let mut at = self.behind_skippable(from.min(self.file.len()));
        while at < self.file.len() {
            if at >= goal && self.open(at).is_anchor() {
                return at;
            }
            let next = self.next_frame(at);
            at = self.behind_skippable(next);
        }
        self.file.len()
    }

    /// Where the frame at `at` ends; if it is none, the next place that looks like one. A frame is believed if another
    /// frame or nothing follows it, or else if its front decodes.
    fn next_frame(&mut self, at: usize) -> usize {
        let file = self.file;
        let (magic, length) = match self.codec {
            Codec::Lz4 { .. } => (lz4::MAGIC, lz4::frame_len(&file[at..])),
            _ => (ZSTD_MAGIC, frame_len(&file[at..])),
        };
        if let Some(length) = length {
            let end = at + length;
            let behind = &file[end..];
            let followed = behind.is_empty() || behind.starts_with(&magic) || skippable(behind).is_some();
            if followed || matches!(self.open(at), Opened::Member { .. }) {
                return end;
            }
        }
        let from = (at + 1).min(file.len());
        memmem::find(&file[from..], &magic).map_or(file.len(), |found| from + found)
    }
}

enum Header {
    Not,
    CutOff,
    Length(usize),
}

/// Gzip with deflate, the only method there is.
pub(super) const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

/// Is this a gzip header, and how long?
fn gzip_header(bytes: &[u8]) -> Header {
    let seen = bytes.len().min(3);
    if seen == 0 || bytes[..seen] != GZIP_MAGIC[..seen] || bytes.get(3).is_some_and(|flags| flags & 0xe0 != 0) {
        return Header::Not;
    }
    let Some(&flags) = bytes.get(3) else {
        return Header::CutOff;
    };
    let mut length = 10;
    if flags & 4 != 0 {
        let Some(extra) = bytes.get(length..length + 2) else {
            return Header::CutOff;
        };
        length += 2 + usize::from(u16::from_le_bytes([extra[0], extra[1]]));
    }
    for flag in [8, 16] {
        if flags & flag != 0 {
            let Some(rest) = bytes.get(length..) else {
                return Header::CutOff;
            };
            match memchr(0, &rest[..rest.len().min(MAX_GZIP_HEADER)]) {
                Some(end) => length += end + 1,
                None if rest.len() < MAX_GZIP_HEADER => return Header::CutOff,
                None => return Header::Not,
            }
        }
    }
    length += if flags & 2 != 0 { 2 } else { 0 };
    if length >= bytes.len() { Header::CutOff } else { Header::Length(length) }
}

/// One decoding call; returns zstd's hint, 0 at the end of a frame.
fn zstd_step(stream: Option<&mut ZstdStream>, source: &mut InBuffer, out: &mut Vec<u8>) -> Result<usize, String> {
    let stream = stream.ok_or("the file's zstd dictionary cannot be read")?;
    let before = out.len();
    let mut target = OutBuffer::around_pos(out, before);
    stream.run(source, &mut target).map_err(|error| error.to_string())
}
