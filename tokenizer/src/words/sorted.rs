//! Piece counts as a sorted file: written, read and merged row by row, in memory that does not grow with the rows.
//!
//! Format, version 1: `GMWORDS\x01`, number of rows, then for each row in strictly rising order of its bytes: bytes shared with
//! the row before, bytes of the rest, the rest, the count. Numbers are LEB128. Equal counts give equal bytes, whoever wrote
//! them: a table in memory (`WordCounts::to_bytes`), a counter that spilled, or a merge of such files. Leaves counting to
//! `counter`.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, binary_heap::PeekMut},
    fs::File,
    io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use crate::TokenizerError;

pub(super) const MAGIC: &[u8; 8] = b"GMWORDS\x01";
/// Files merged at once; each costs one buffer.
const FAN_IN: usize = 64;
const BUFFER: usize = 1 << 16;

/// A file of sorted piece counts and its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortedWords {
    /// The file.
    pub path: PathBuf,
    /// Different pieces.
    pub rows: u64,
    /// Sum of all counts; `u64::MAX` if it is more.
    pub total: u64,
}

impl SortedWords {
    /// Calls `each` with every piece and its count, in rising order of the bytes. Fails on a damaged file.
    pub fn each(&self, mut each: impl FnMut(&[u8], u64)) -> Result<(), TokenizerError> {
        let mut rows = Rows::open(&self.path)?;
        while let Some((piece, count)) = rows.next()? {
            each(piece, count);
        }
        Ok(())
    }
}

/// LEB128.
pub(super) fn put(out: &mut impl Write, mut value: u64) -> std::io::Result<()> {
    while value >= 0x80 {
        out.write_all(&[value as u8 | 0x80])?;
        value >>= 7;
    }
    out.write_all(&[value as u8])
}

fn fault(what: &'static str) -> TokenizerError {
    TokenizerError::Words { what }
}

fn write_fault(path: &Path) -> impl FnOnce(std::io::Error) -> TokenizerError {
    let path = path.display().to_string();
    |source| TokenizerError::Write { path, source }
}

fn read_fault(path: &Path) -> impl FnOnce(std::io::Error) -> TokenizerError {
    let path = path.display().to_string();
    |source| TokenizerError::Read { path, source }
}

/// Writes rows, front coded.
pub(super) struct RowWriter<W> {
    out: W,
    before: Vec<u8>,
}

impl<W: Write> RowWriter<W> {
    /// `out` holds the magic bytes and the number of rows already.
    pub(super) fn new(out: W) -> Self {
        Self { out, before: Vec::new() }
    }

    pub(super) fn row(&mut self, piece: &[u8], count: u64) -> std::io::Result<()> {
        let shared = self.before.iter().zip(piece).take_while(|(a, b)| a == b).count();
        put(&mut self.out, shared as u64)?;
        put(&mut self.out, (piece.len() - shared) as u64)?;
        self.out.write_all(&piece[shared..])?;
        put(&mut self.out, count)?;
        self.before.truncate(shared);
        self.before.extend_from_slice(&piece[shared..]);
        Ok(())
    }
}

/// Reads rows one after the other; refuses foreign, truncated and unordered bytes.
pub(super) struct Rows<R> {
    input: R,
    left: u64,
    piece: Vec<u8>,
}

impl Rows<BufReader<File>> {
    fn open(path: &Path) -> Result<Self, TokenizerError> {
        Self::new(BufReader::with_capacity(BUFFER, File::open(path).map_err(read_fault(path))?))
    }
}

impl<R: BufRead> Rows<R> {
    pub(super) fn new(mut input: R) -> Result<Self, TokenizerError> {
        let mut magic = [0; MAGIC.len()];
        let read = input.read_exact(&mut magic);
        if read.is_err() || magic != *MAGIC {
            return Err(fault("it does not begin with GMWORDS, version 1"));
        }
        let mut rows = Self { input, left: 0, piece: Vec::new() };
        rows.left = rows.number("the number of rows is cut off")?;
        Ok(rows)
    }

    fn number(&mut self, what: &'static str) -> Result<u64, TokenizerError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.input.fill_buf().ok().and_then(|buffer| buffer.first()).ok_or(fault(what))?;
            self.input.consume(1);
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(fault(what))
    }

    /// The next row; `None` after the last one, if the bytes end there.
    pub(super) fn next(&mut self) -> Result<Option<(&[u8], u64)>, TokenizerError> {
        if self.left == 0 {
            let more = self.input.fill_buf().is_ok_and(|buffer| !buffer.is_empty());
            return if more { Err(fault("there are bytes after the last row")) } else { Ok(None) };
        }
        let shared = self.number("a row is cut off")? as usize;
        let len = self.number("a row is cut off")?;
        if shared > self.piece.len() {
            return Err(fault("a row shares more bytes than the row before has"));
        }
        let next_byte = self.piece.get(shared).copied();
        self.piece.truncate(shared);
        let read = self.input.by_ref().take(len).read_to_end(&mut self.piece);
        if read.ok() != usize::try_from(len).ok() {
            return Err(fault("a row is longer than the file"));
        }
        // After the shared bytes comes a greater byte, or something where the row before ended.
        if self.piece.get(shared).copied() <= next_byte {
            return Err(fault("the rows are not in strictly rising order"));
        }
        self.left -= 1;
        let count = self.number("a count is missing or zero")?;
        if count == 0 {
            return Err(fault("a count is missing or zero"));
        }
        Ok(Some((&self.piece, count)))
    }
}

/// Writes a file whose number of rows is known only at the end: rows go to a second file first. Both are written beside
/// `out`; a file of that name is replaced.
fn write_rows(
    out: &Path,
    rows: impl FnOnce(&mut dyn FnMut(&[u8], u64) -> Result<(), TokenizerError>) -> Result<(), TokenizerError>,
) -> Result<SortedWords, TokenizerError> {
    let mut body_path = out.as_os_str().to_owned();
    body_path.push(".rows");
    let body_path = PathBuf::from(body_path);
    let body = File::options().read(true).write(true).create(true).truncate(true).open(&body_path);
    let mut writer = RowWriter::new(BufWriter::with_capacity(BUFFER, body.map_err(write_fault(&body_path))?));
    let mut made = SortedWords { path: out.to_owned(), rows: 0, total: 0 };
    rows(&mut |piece, count| {
        made.rows += 1;
        made.total = made.total.saturating_add(count);
        writer.row(piece, count).map_err(write_fault(&body_path))
    })?;
    let finish = || -> std::io::Result<()> {
        let mut body = writer.out.into_inner()?;
        body.seek(SeekFrom::Start(0))?;
        let mut file = File::create(out)?;
        let mut head = MAGIC.to_vec();
        put(&mut head, made.rows)?;
        file.write_all(&head)?;
        std::io::copy(&mut body, &mut file)?;
        std::fs::remove_file(&body_path)
    };
    finish().map_err(write_fault(out))?;
    Ok(made)
}

/// Adds up sorted files, each with a whole-number weight that multiplies its counts, into the sorted file `out`. Memory: one
/// buffer of 64 KiB for each of at most 64 files at a time; more files are merged in rounds, through files beside `out`.
/// Fails if a weighted count passes `u64::MAX`, or if a weight is 0.
pub fn merge_sorted(inputs: &[(PathBuf, u64)], out: &Path) -> Result<SortedWords, TokenizerError> {
    if inputs.iter().any(|(_, weight)| *weight == 0) {
        return Err(fault("a source has weight 0: leave it out"));
    }
    if inputs.len() <= FAN_IN {
        return merge_some(inputs, out);
    }
    let mut rounds = Vec::new();
    for (i, group) in inputs.chunks(FAN_IN).enumerate() {
        let mut path = out.as_os_str().to_owned();
        path.push(format!(".{i}"));
        rounds.push((merge_some(group, Path::new(&path))?.path, 1));
    }
    let merged = merge_sorted(&rounds, out)?;
    for (path, _) in &rounds {
        std::fs::remove_file(path).map_err(write_fault(path))?;
    }
    Ok(merged)
}

fn merge_some(inputs: &[(PathBuf, u64)], out: &Path) -> Result<SortedWords, TokenizerError> {
    let mut heads = BinaryHeap::new();
    for (path, weight) in inputs {
        let mut head = Head { rows: Rows::open(path)?, weight: *weight, count: 0 };
        if head.advance()? {
            heads.push(head);
        }
    }
    write_rows(out, |write| {
        let mut piece = Vec::new();
        while let Some(first) = heads.peek() {
            piece.clone_from(&first.rows.piece);
            let mut count = 0_u64;
            while let Some(mut head) = heads.peek_mut().filter(|head| head.rows.piece == piece) {
                count = count.checked_add(head.count).ok_or(fault("a weighted count passes 2^64 - 1"))?;
                if !head.advance()? {
                    PeekMut::pop(head);
                }
            }
            write(&piece, count)?;
        }
        Ok(())
    })
}

/// The present row of a file that is merged.
struct Head {
    rows: Rows<BufReader<File>>,
    weight: u64,
    count: u64,
}

impl Head {
    /// Goes to the next row; false after the last.
    fn advance(&mut self) -> Result<bool, TokenizerError> {
        let Some((_, count)) = self.rows.next()? else { return Ok(false) };
        self.count = count.checked_mul(self.weight).ok_or(fault("a weighted count passes 2^64 - 1"))?;
        Ok(true)
    }
}

/// The head with the smallest piece is the greatest.
impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        other.rows.piece.cmp(&self.rows.piece)
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}
