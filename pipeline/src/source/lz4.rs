//! LZ4 frames: what is between the magic number and the end mark, one block at a time, in bounded memory.
//!
//! In: the bytes of a file. Out: decoded bytes, or [`Broken`] where they are cut or damaged. Left to others: records.
//! LZ4 Frame Format 1.6 and LZ4 Block Format 1.5.1 (lz4.org): blocks of 64 KiB to 4 MiB, alone or with the 64 KiB before them as window, and
//! xxHash-32 checksums, all of which are looked at. Dictionaries and the legacy frame are refused. Memory: a block and the window.
//! All of it is safe code: every length of a hostile file is checked before it is used.

use std::hash::Hasher;
use std::io::{Error, ErrorKind, Read};
use twox_hash::XxHash32;

/// First bytes of a frame.
pub const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// Bytes before a block that its copies may reach into.
const WINDOW: usize = 64 << 10;
/// Least length of a copy.
const LEAST_COPY: usize = 4;

/// Why a frame cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The file ends inside it.
    CutOff,
    /// It says what cannot be.
    Bad(String),
    /// Its bytes are not those its checksum was made of.
    Checksum(String),
}

/// One open frame.
pub struct Frame {
    linked: bool,
    block_checksums: bool,
    content: Option<XxHash32>,
    content_size: Option<u64>,
    max_block: usize,
    written: u64,
    held: Vec<u8>,
    /// Where the last block starts in `held`.
    from: usize,
}

fn word(bytes: &[u8], at: usize) -> Result<u32, Broken> {
    let word = bytes.get(at..at + 4).ok_or(Broken::CutOff)?;
    Ok(u32::from_le_bytes(word.try_into().expect("four bytes were cut")))
}

fn bad<T>(what: impl Into<String>) -> Result<T, Broken> {
    Err(Broken::Bad(what.into()))
}

impl Frame {
    /// Opens the frame at the start of `bytes`, which begin with [`MAGIC`]; gives the length of its header.
    pub fn open(bytes: &[u8]) -> Result<(Self, usize), Broken> {
        let &[flags, sizes] = bytes.get(4..6).ok_or(Broken::CutOff)? else { return Err(Broken::CutOff) };
        let flag = |bit: u8| flags & (1 << bit) != 0;
        if flags >> 6 != 1 || flag(1) || sizes & 0x8f != 0 {
            return bad(format!("a frame with the flags {flags:02x} {sizes:02x}, which version 1 has not"));
        }
        if flag(0) {
            return bad("a frame that needs a dictionary");
        }
        let max_block = match sizes >> 4 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            other => return bad(format!("a block size of number {other}, which is not one of 4 to 7")),
        };
        let end = if flag(3) { 14 } else { 6 };
        let descriptor = bytes.get(4..end).ok_or(Broken::CutOff)?;
        let content_size =
            flag(3).then(|| u64::from_le_bytes(descriptor[2..].try_into().expect("eight bytes were cut")));
        let (found, said) = ((XxHash32::oneshot(0, descriptor) >> 8) as u8, *bytes.get(end).ok_or(Broken::CutOff)?);
        if found != said {
            return Err(Broken::Checksum(format!("the header's checksum is {found:02x}, it says {said:02x}")));
        }
        let frame = Self {
            linked: !flag(5),
            block_checksums: flag(4),
            content: flag(2).then(|| XxHash32::with_seed(0)),
            content_size,
            max_block,
            written: 0,
            held: Vec::new(),
            from: 0,
        };
        Ok((frame, end + 1))
    }

    /// The bytes of the last block.
    pub fn decoded(&self) -> &[u8] {
        &self.held[self.from..]
    }

    /// Decodes the block at the start of `bytes`; gives how many of them it took, and whether it was the frame's end.
    pub fn block(&mut self, bytes: &[u8]) -> Result<(usize, bool), Broken> {
        let keep = if self.linked { self.held.len().min(WINDOW) } else { 0 };
        self.held.drain(..self.held.len() - keep);
        self.from = keep;
        let size = word(bytes, 0)?;
        if size == 0 {
            return self.end(bytes);
        }
        let (stored, length) = (size >> 31 == 1, (size & 0x7fff_ffff) as usize);
        if length > self.max_block {
            return bad(format!("a block of {length} bytes where {} are the most", self.max_block));
        }
        let block = bytes.get(4..4 + length).ok_or(Broken::CutOff)?;
        let mut taken = 4 + length;
        if self.block_checksums {
            same("block", XxHash32::oneshot(0, block), word(bytes, taken)?)?;
            taken += 4;
        }
        match stored {
            true => self.held.extend_from_slice(block),
            false => decode(block, &mut self.held, self.from + self.max_block)?,
        }
        let decoded = &self.held[self.from..];
        self.written += decoded.len() as u64;
        if let Some(content) = &mut self.content {
            content.write(decoded);
        }
        Ok((taken, false))
    }

    /// Behind the last block: the checksum, if there is one.
    fn end(&mut self, bytes: &[u8]) -> Result<(usize, bool), Broken> {
        let mut taken = 4;
        if let Some(content) = &self.content {
            same("content", content.finish_32(), word(bytes, taken)?)?;
            taken += 4;
        }
        match self.content_size.filter(|size| *size != self.written) {
            Some(size) => bad(format!("{} bytes where the header says {size}", self.written)),
            None => Ok((taken, true)),
        }
    }
}

fn same(what: &str, found: u32, said: u32) -> Result<(), Broken> {
    match found == said {
        true => Ok(()),
        false => Err(Broken::Checksum(format!("the {what}'s checksum is {found:08x}, it says {said:08x}"))),
    }
}

/// Most blocks of a frame that are hopped over, 1 GiB of the smallest size: in a hostile file frames may seem to start everywhere and to go
/// on to the file's end, and looking for the next sound one would take the square of its length.
const MAX_BLOCKS: usize = 16 << 10;

/// Length of the frame at the start of `bytes`, found by hopping over its blocks; `None` if it is none, is cut off or has more than
/// [`MAX_BLOCKS`].
pub fn frame_len(bytes: &[u8]) -> Option<usize> {
    let (frame, mut at) = Frame::open(bytes.starts_with(&MAGIC).then_some(bytes)?).ok()?;
    let checksum = |is_there: bool| if is_there { 4 } else { 0 };
    for _ in 0..MAX_BLOCKS {
        let size = word(bytes.get(at..)?, 0).ok()?;
        let length = (size & 0x7fff_ffff) as usize;
        if size == 0 {
            at += 4 + checksum(frame.content.is_some());
            return (at <= bytes.len()).then_some(at);
        }
        if length > frame.max_block {
            return None;
        }
        at += 4 + length + checksum(frame.block_checksums);
    }
    None
}

/// Content of the skippable frame at the start of `bytes`; zstd has the same.
pub fn skippable(bytes: &[u8]) -> Option<&[u8]> {
    let header = bytes.get(..8)?;
    let is_magic = header[0] & 0xf0 == 0x50 && header[1..4] == [0x2a, 0x4d, 0x18];
    let size = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    is_magic.then(|| bytes.get(8..8 + size)).flatten()
}

/// Appends what one block holds to `out`, up to a length of `most`: runs of literals, each but the last followed by a copy of earlier
/// bytes.
fn decode(block: &[u8], out: &mut Vec<u8>, most: usize) -> Result<(), Broken> {
    let short = || Broken::Bad("a block that ends inside a sequence".into());
    let mut at = 0;
    let length = |at: &mut usize, first: usize| -> Result<usize, Broken> {
        let (mut length, mut goes_on) = (first, first == 15);
        while goes_on {
            let byte = *block.get(*at).ok_or_else(short)?;
            *at += 1;
            length += usize::from(byte);
            goes_on = byte == 255;
        }
        Ok(length)
    };
    loop {
        let token = *block.get(at).ok_or_else(short)?;
        at += 1;
        let literals = length(&mut at, usize::from(token >> 4))?;
        let bytes = block.get(at..at + literals).ok_or_else(short)?;
        at += literals;
        if out.len() + literals > most {
            return bad("a block that holds more than the header allows");
        }
        out.extend_from_slice(bytes);
        if at == block.len() {
            return Ok(());
        }
        let &[low, high] = block.get(at..at + 2).ok_or_else(short)? else { return Err(short()) };
        at += 2;
        let back = usize::from(u16::from_le_bytes([low, high]));
        let mut copy = length(&mut at, usize::from(token & 15))? + LEAST_COPY;
        if back == 0 || back > out.len() {
            return bad(format!("a copy from {back} bytes back where {} are there", out.len()));
        }
        if out.len() + copy > most {
            return bad("a block that holds more than the header allows");
        }
        // A copy may reach into itself: what is there is repeated, twice as much each time.
        let start = out.len() - back;
        while copy > 0 {
            let step = copy.min(out.len() - start);
            out.extend_from_within(start..start + step);
            copy -= step;
        }
    }
}

/// The decoded bytes of all frames of a file.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    frame: Option<Frame>,
    /// Bytes of the last block that were handed out.
    given: usize,
}

impl<'a> Reader<'a> {
    /// Over a whole file.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, frame: None, given: 0 }
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let rest = &self.bytes[self.at..];
            let Some(frame) = &mut self.frame else {
                if rest.is_empty() {
                    return Ok(0);
                }
                if let Some(skipped) = skippable(rest) {
                    self.at += skipped.len() + 8;
                    continue;
                }
                if !rest.starts_with(&MAGIC[..rest.len().min(4)]) {
                    return Err(Error::new(ErrorKind::InvalidData, "no LZ4 frame starts here"));
                }
                let (frame, header) = Frame::open(rest).map_err(Error::from)?;
                self.at += header;
                (self.frame, self.given) = (Some(frame), 0);
                continue;
            };
            let left = &frame.decoded()[self.given..];
            if !left.is_empty() || into.is_empty() {
                let count = left.len().min(into.len());
                into[..count].copy_from_slice(&left[..count]);
                self.given += count;
                return Ok(count);
            }
            let (taken, ended) = frame.block(rest).map_err(Error::from)?;
            (self.at, self.given) = (self.at + taken, 0);
            if ended {
                self.frame = None;
            }
        }
    }
}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::CutOff => Error::new(ErrorKind::UnexpectedEof, "the file ends inside an LZ4 frame"),
            Broken::Bad(why) | Broken::Checksum(why) => Error::new(ErrorKind::InvalidData, format!("LZ4: {why}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    use std::io::Write;

    /// Words, runs, noise: what copies, reaches into itself and is stored.
    fn sample(bytes: usize) -> Vec<u8> {
        let mut state = 5_u64;
        let mut text = Vec::new();
        while text.len() < bytes {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            match state >> 62 {
                0 => text.extend(std::iter::repeat_n(b'x', (state >> 33) as usize % 3000)),
                1 => text
                    .extend((0..(state >> 50) as u16 % 2000).map(|n| (u64::from(n).wrapping_mul(state) >> 40) as u8)),
                _ => text.extend(format!("the mill number {} turns; ", state >> 58).bytes()),
            }
        }
        text
    }

    fn pack(bytes: &[u8], info: FrameInfo) -> Vec<u8> {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn forms(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut forms = Vec::new();
        for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max4MB] {
            for mode in [BlockMode::Independent, BlockMode::Linked] {
                let info = FrameInfo::new().block_size(size).block_mode(mode);
                forms.push(pack(bytes, info.clone()));
                let all = info.block_checksums(true).content_checksum(true).content_size(Some(bytes.len() as u64));
                forms.push(pack(bytes, all));
            }
        }
        forms
    }

    fn read(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Reader::new(bytes).read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn frames_of_another_encoder_are_read_in_every_form() {
        for length in [0, 1, 12, 13, 70_000, 1 << 20] {
            let text = sample(length);
            for form in forms(&text) {
                assert_eq!(read(&form).unwrap(), text);
                assert_eq!(frame_len(&form), Some(form.len()));
                assert_eq!(frame_len(&form[..form.len() - 1]), None);
            }
        }
        // Frames one behind the other, with what is to be skipped between them.
        let (one, two) = (sample(1000), sample(100_000));
        let mut file = pack(&one, FrameInfo::new());
        file.extend([0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
        file.extend(pack(&two, FrameInfo::new()));
        assert_eq!(read(&file).unwrap(), [one, two].concat());
    }

    #[test]
    fn what_is_cut_or_damaged_is_an_error_and_never_a_panic() {
        let text = sample(3_000);
        for form in forms(&text) {
            for end in 1..form.len() {
                assert_eq!(read(&form[..end]).unwrap_err().kind(), ErrorKind::UnexpectedEof, "{end}");
            }
        }
        let mut checked = FrameInfo::new().content_checksum(true).block_checksums(true);
        checked.block_mode = BlockMode::Linked;
        let form = pack(&text, checked);
        for at in 0..form.len() {
            for bit in 0..8 {
                let mut damaged = form.clone();
                damaged[at] ^= 1 << bit;
                assert!(read(&damaged).map_or(true, |found| found == text), "{at} {bit}");
                let mut plain = pack(&text, FrameInfo::new());
                let at = at % plain.len();
                plain[at] ^= 1 << bit;
                let _ = read(&plain);
            }
        }
        let mut dictionary = form.clone();
        dictionary[4] |= 1;
        assert!(read(&dictionary).unwrap_err().to_string().contains("dictionary"));
        assert!(read(b"plain text").unwrap_err().to_string().contains("no LZ4 frame"));
    }
}
