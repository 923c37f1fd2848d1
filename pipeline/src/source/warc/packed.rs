//! Records of a compressed file: units of members decoded piece by piece, blocks decoded straight into their own buffer.
//!
//! In: the file, the first unit's offset, the range's end. Out: items, and where the next range begins. Left to others:
//! decoding (`member.rs`), headers (`head.rs`). Holds one block and 16 KiB, however long the unit is.

use std::borrow::Cow;

use super::head::{self, Kind, START_BYTES};
use super::member::{BOMB, CHUNK, Decoder, Fault, Opened, Step};
use super::{Compression, Damage, Item, Limits};

/// A block's buffer grows in steps of at least this, so that a hostile length cannot claim memory.
const BLOCK_STEP: usize = 1 << 20;

pub(super) struct Packed<'a> {
    decoder: Decoder<'a>,
    file_len: usize,
    end: usize,
    limits: Limits,
    state: State,
    /// Decoded front of the member that the decoder has just opened, not yet taken: of this unit while it is open, of
    /// the next one once it has ended.
    front: Vec<u8>,
    /// The format of the last record seen; damage is searched for the same.
    kind: Option<Kind>,
    /// Where the open unit starts.
    unit: usize,
    /// Decoded bytes not yet read are `buffer[at..]`; `buffer[0]` is byte `base` of the unit.
    buffer: Vec<u8>,
    at: usize,
    base: u64,
    fault: Option<Fault>,
    /// Inside a record: a member that begins with none carries it on.
    record_open: bool,
    /// Compressed and decoded position where the current record started, for the ratio.
    ratio_from: (usize, u64),
    decoded: u64,
}

enum State {
    /// Nothing is open; the chain goes on at this offset.
    Between(usize),
    /// An anchor is open at this offset; its front is at hand.
    Anchored(usize),
    /// Inside a unit.
    Unit,
    /// The unit's last member has ended; decoded bytes may be left.
    UnitEnd(Next),
    Done(usize),
}

#[derive(Clone, Copy)]
enum Next {
    Anchor(usize),
    Other(usize),
}

impl Next {
    fn offset(self) -> usize {
        match self {
            Self::Anchor(at) | Self::Other(at) => at,
        }
    }
}

/// Why reading stopped before what was asked for.
enum Stop {
    /// The unit ends here.
    UnitEnd,
    Fault(Fault),
}

impl<'a> Packed<'a> {
    pub fn new(file: &'a [u8], compression: Compression, from: usize, end: usize, limits: &Limits) -> Self {
        Self {
            decoder: Decoder::new(file, compression),
            file_len: file.len(),
            end,
            limits: limits.clone(),
            state: State::Between(from),
            front: Vec::new(),
            kind: None,
            unit: from,
            buffer: Vec::with_capacity(CHUNK),
            at: 0,
            base: 0,
            fault: None,
            record_open: true,
            ratio_from: (0, 0),
            decoded: 0,
        }
    }

    pub fn exit(&self) -> Option<usize> {
        match self.state {
            State::Done(at) => Some(at),
            _ => None,
        }
    }

    pub fn next_item(&mut self) -> Option<Item<'a>> {
        loop {
            match self.state {
                State::Done(_) => return None,
                State::Between(at) => {
                    let at = self.decoder.behind_skippable(at);
                    if at >= self.file_len {
                        self.state = State::Done(self.file_len);
                        continue;
                    }
                    match self.decoder.open(at) {
                        opened if opened.is_anchor() => self.anchored(at, opened),
                        opened => return Some(self.garbage(at, &opened)),
                    }
                }
                State::Anchored(at) if at >= self.end => self.state = State::Done(at),
                State::Anchored(at) => self.begin_unit(at),
                State::Unit | State::UnitEnd(_) => {
                    if let Some(item) = self.unit_item() {
                        return Some(item);
                    }
                }
            }
        }
    }

    fn anchored(&mut self, at: usize, opened: Opened) {
        if let Opened::Member { front } = opened {
            self.front = front;
        }
        self.state = State::Anchored(at);
    }

    fn begin_unit(&mut self, at: usize) {
        self.buffer.clear();
        std::mem::swap(&mut self.buffer, &mut self.front);
        self.decoder.recycle(std::mem::take(&mut self.front));
        (self.unit, self.at, self.base, self.fault) = (at, 0, 0, None);
        self.record_open = true;
        self.decoded = self.buffer.len() as u64;
        self.ratio_from = (at, 0);
        self.state = State::Unit;
    }

    /// Looks for the next anchor; what lies before it is damage.
    fn garbage(&mut self, at: usize, opened: &Opened) -> Item<'a> {
        let next = self.decoder.find_anchor_past(at);
        self.state = State::Between(next);
        let (rule, detail) = match opened {
            Opened::CutOff if next >= self.file_len => ("truncated_member", "the file ends at the front of a member"),
            Opened::Member { .. } => ("garbage", "a member that does not begin with a record"),
            _ => ("garbage", "no member starts here"),
        };
        let length = (next - at) as u64;
        let (offset, detail) = (at as u64, detail.to_owned());
        Item::Damaged(Damage { offset, offset_in_member: 0, length, rule, detail })
    }

    /// Decodes more of the unit into the spare capacity of `out`, at least one byte.
    fn decode(&mut self, out: &mut Vec<u8>) -> Result<(), Stop> {
        let before = out.len();
        while out.len() == before {
            if let State::UnitEnd(_) = self.state {
                return Err(Stop::UnitEnd);
            } else if !self.front.is_empty() {
                let count = self.front.len().min(out.capacity() - out.len());
                out.extend(self.front.drain(..count));
            } else if let Some(fault) = &self.fault {
                return Err(Stop::Fault(fault.clone()));
            } else {
                match self.decoder.step(out) {
                    Ok(Step::More) => {}
                    Ok(Step::End) => {
                        self.record_open |= head::newlines(&out[before..]) < out.len() - before;
                        self.member_ended();
                    }
                    Err(fault) => self.fault = Some(fault),
                }
            }
        }
        self.decoded += (out.len() - before) as u64;
        self.check_ratio();
        Ok(())
    }

    /// The member is complete: another unit, more of this one, or the end of what can be read.
    fn member_ended(&mut self) {
        let at = self.decoder.behind_skippable(self.decoder.at);
        let opened = self.decoder.open(at);
        let next = if opened.is_anchor() { Next::Anchor(at) } else { Next::Other(at) };
        // A record that is open goes on, and its last line breaks may have a member to themselves; an empty one says nothing.
        let goes_on = match (&opened, next) {
            (Opened::Member { front }, Next::Other(_)) => self.record_open || head::newlines(front) == front.len(),
            _ => false,
        };
        if let (Opened::Member { front }, true) = (opened, goes_on || matches!(next, Next::Anchor(_))) {
            self.front = front;
        }
        if !goes_on {
            self.state = State::UnitEnd(next);
        }
    }

    fn check_ratio(&mut self) {
        let read = (self.decoder.at.saturating_sub(self.ratio_from.0) as u64).max(1);
        let written = self.decoded - self.ratio_from.1;
        if self.fault.is_none() && written > self.limits.ratio_free_bytes && written / read > self.limits.max_ratio {
            let detail = format!("{written} bytes from {read}, at most {} times", self.limits.max_ratio);
            self.fault = Some(Fault { rule: BOMB, detail });
        }
    }

    /// Appends to the buffer.
    fn fill(&mut self) -> Result<(), Stop> {
        self.base += self.at as u64;
        self.buffer.drain(..self.at);
        self.at = 0;
        let mut buffer = std::mem::take(&mut self.buffer);
        if buffer.len() < CHUNK && buffer.capacity() > 4 * CHUNK {
            buffer.shrink_to(CHUNK);
        }
        if buffer.capacity() - buffer.len() < CHUNK / 2 {
            buffer.reserve_exact(CHUNK);
        }
        let result = self.decode(&mut buffer);
        self.buffer = buffer;
        result
    }

    /// Decoded offset of the next unread byte in the unit.
    fn position(&self) -> u64 {
        self.base + self.at as u64
    }

    /// Skips line breaks until there is a byte to read.
    fn skip_newlines(&mut self) -> Result<(), Stop> {
        loop {
            self.at += head::newlines(&self.buffer[self.at..]);
            if self.at < self.buffer.len() {
                self.record_open = true;
                return Ok(());
            }
            self.fill()?;
        }
    }

    /// The format of the record at the next unread byte, reading as far as that needs.
    fn peek_record(&mut self) -> Option<Kind> {
        loop {
            let unread = &self.buffer[self.at..];
            let kind = head::starts_record(unread);
            if kind.is_some() || unread.len() >= START_BYTES || self.fill().is_err() {
                self.kind = kind.or(self.kind);
                return kind;
            }
        }
    }

    /// The next item of the open unit; `None` when it is used up and the state says where the chain goes on.
    fn unit_item(&mut self) -> Option<Item<'a>> {
        let start = match self.skip_newlines() {
            Ok(()) => self.position(),
            Err(Stop::Fault(fault)) => return Some(self.faulty(self.position(), fault)),
            Err(Stop::UnitEnd) => {
                self.leave_unit();
                return None;
            }
        };
        self.ratio_from = (self.decoder.at, self.decoded);
        let Some(kind) = self.peek_record() else {
            return Some(self.resync(start, "garbage", "no record starts here".to_owned()));
        };
        let header = match self.read_head(kind) {
            Ok(header) => header,
            Err(Stop::Fault(fault)) => return Some(self.faulty(start, fault)),
            Err(Stop::UnitEnd) => {
                let detail = match self.buffer.len() - self.at < self.limits.max_header_bytes {
                    true => "the member ends inside a header".to_owned(),
                    false => format!("longer than {} bytes", self.limits.max_header_bytes),
                };
                self.at += 5;
                return Some(self.resync(start, "bad_header", detail));
            }
        };
        let head = head::parse(&self.buffer[self.at..self.at + header], kind);
        self.at += header;
        match head {
            Ok(head) => Some(self.read_record(start, head)),
            Err(detail) => Some(self.resync(start, "bad_header", detail)),
        }
    }

    fn leave_unit(&mut self) {
        if let State::UnitEnd(next) = self.state {
            match next {
                Next::Anchor(at) => self.state = State::Anchored(at),
                Next::Other(at) => self.state = State::Between(at),
            }
        }
    }

    /// Length of the header at the next unread byte. `UnitEnd` also if it is too long.
    fn read_head(&mut self, kind: Kind) -> Result<usize, Stop> {
        loop {
            let unread = &self.buffer[self.at..];
            let unread = &unread[..unread.len().min(self.limits.max_header_bytes)];
            match head::head_end(unread, kind) {
                Some(end) => return Ok(end),
                None if unread.len() == self.limits.max_header_bytes => return Err(Stop::UnitEnd),
                None => self.fill()?,
            }
        }
    }

    fn read_record(&mut self, start: u64, head: head::Head) -> Item<'a> {
        let length = head.content_length;
        let held = length.min(self.limits.max_block_bytes);
        let block = match self.read_block(held as usize) {
            Ok(_) if length > held => return self.skip_block(start, length, held),
            Ok(block) => block,
            Err((_, Stop::Fault(fault))) => return self.faulty(start, fault),
            Err((block, Stop::UnitEnd)) => {
                let detail = format!("Content-Length {length}, the member has {} bytes more", block.len());
                self.unread(block, self.position());
                return self.resync(start, "length_mismatch", detail);
            }
        };
        let block_end = self.position();
        self.record_open = false;
        match self.skip_newlines() {
            Ok(()) if self.contradicted(block_end) => {
                let detail = format!("no record follows after Content-Length {length}");
                self.unread(block, block_end);
                return self.resync(start, "length_mismatch", detail);
            }
            Err(Stop::Fault(fault)) => return self.faulty(start, fault),
            Ok(()) | Err(Stop::UnitEnd) => {}
        }
        let length = self.read_to() - self.unit;
        Item::Record(head.into_record(self.unit, start, length, Cow::Owned(block)))
    }

    /// What follows a block that ended at `block_end` is neither the end of its record nor another one, nor one of which
    /// a fault hides all but the first bytes.
    fn contradicted(&mut self, block_end: u64) -> bool {
        if self.position() - block_end >= head::END_OF_RECORD as u64 || self.peek_record().is_some() {
            return false;
        }
        let unread = &self.buffer[self.at..];
        !(self.fault.is_some() && self.kind.is_some_and(|kind| head::is_cut_start(unread, kind)))
    }

    /// The end of what has been read of the unit, as an offset in the file; the unit's end if that has been seen.
    fn read_to(&self) -> usize {
        let at = match self.state {
            State::UnitEnd(next) => next.offset(),
            _ => self.decoder.at,
        };
        at.max(self.unit)
    }

    /// The next `length` decoded bytes, or what there is of them.
    fn read_block(&mut self, length: usize) -> Result<Vec<u8>, (Vec<u8>, Stop)> {
        let buffered = (self.buffer.len() - self.at).min(length);
        let mut block = Vec::with_capacity(length.min(BLOCK_STEP.max(buffered)));
        block.extend_from_slice(&self.buffer[self.at..self.at + buffered]);
        self.at += buffered;
        while block.len() < length {
            if block.len() == block.capacity() {
                block.reserve_exact((length - block.len()).min(block.len().max(BLOCK_STEP)));
            }
            if let Err(stop) = self.decode(&mut block) {
                self.base += block.len() as u64 - buffered as u64;
                return Err((block, stop));
            }
        }
        self.base += (length - buffered) as u64;
        Ok(block)
    }

    /// Passes over the rest of a block too long to hold.
    fn skip_block(&mut self, start: u64, length: u64, held: u64) -> Item<'a> {
        let mut left = length - held;
        while left > 0 {
            let step = left.min((self.buffer.len() - self.at) as u64);
            self.at += step as usize;
            left -= step;
            match if left > 0 { self.fill() } else { Ok(()) } {
                Ok(()) => {}
                Err(Stop::Fault(fault)) => return self.faulty(start, fault),
                Err(Stop::UnitEnd) => left = 0,
            }
        }
        let detail = format!("Content-Length {length}, at most {}", self.limits.max_block_bytes);
        self.damage(start, "too_large", detail)
    }

    /// Puts the bytes of a block that ended at `block_end` back before the unread ones, line breaks included.
    fn unread(&mut self, mut block: Vec<u8>, block_end: u64) {
        let line_breaks = (self.position() - block_end).min(64) as usize;
        self.base = self.position() - (block.len() + line_breaks) as u64;
        block.resize(block.len() + line_breaks, b'\n');
        block.extend_from_slice(&self.buffer[self.at..]);
        (self.buffer, self.at) = (block, 0);
    }

    /// Damage at `start`; reading goes on at the next record of the unit, if there is one.
    fn resync(&mut self, start: u64, rule: &'static str, detail: String) -> Item<'a> {
        loop {
            let kind = self.kind.unwrap_or(Kind::Warc);
            if let Some(at) = head::find_record(&self.buffer, self.at.min(self.buffer.len()), kind) {
                self.at = at;
                return self.damage(start, rule, detail);
            }
            // A record's first lines may be cut by the buffer's end: keep what is needed to tell.
            let keep_from = self.buffer.len().saturating_sub(START_BYTES);
            self.at = keep_from.max(self.at.min(self.buffer.len()));
            match self.fill() {
                Ok(()) => {}
                Err(Stop::Fault(fault)) => return self.faulty(start, fault),
                Err(Stop::UnitEnd) => {
                    self.at = self.buffer.len();
                    return self.damage(start, rule, detail);
                }
            }
        }
    }

    /// The rest of the unit cannot be decoded: damage from the record at `start` to the next anchor.
    fn faulty(&mut self, start: u64, fault: Fault) -> Item<'a> {
        let next = self.decoder.find_anchor_after(&fault);
        self.state = State::Between(next);
        let length = (next.max(self.unit) - self.unit) as u64;
        let (offset, rule) = (self.unit as u64, fault.rule);
        Item::Damaged(Damage { offset, offset_in_member: start, length, rule, detail: fault.detail })
    }

    fn damage(&self, start: u64, rule: &'static str, detail: String) -> Item<'a> {
        let length = (self.read_to() - self.unit) as u64;
        Item::Damaged(Damage { offset: self.unit as u64, offset_in_member: start, length, rule, detail })
    }
}
