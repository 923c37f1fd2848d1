//! Frames of the `tcp` wire.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | magic `GMR1` |
//! | 4 | kind: data, abort, bye, hello, table, refusal |
//! | 5 | call (data) |
//! | 6 | type of numbers (data): bytes, f32, f64 |
//! | 7 | 0 |
//! | 8..16 | group, u64 |
//! | 16..24 | number of the call, u64 |
//! | 24..32 | length of the payload in bytes, u64 |
//! | 32..36 | CRC-32 of bytes 0..32 |
//! | 36.. | payload, numbers little-endian |
//! | last 4 | CRC-32 of the payload |
//!
//! All integers are little-endian. A frame whose checks fail ends the connection: nothing after it can be trusted.

use super::Buffer;
use super::wire::{Call, Key};
use std::io::{Error, ErrorKind, Read, Result, Write};

const MAGIC: [u8; 4] = *b"GMR1";
const HEAD: usize = 36;
/// No frame of ours is longer.
const LONGEST: u64 = 1 << 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Abort,
    Bye,
    Hello,
    Table,
    Refusal,
}

const KINDS: [Kind; 6] = [Kind::Data, Kind::Abort, Kind::Bye, Kind::Hello, Kind::Table, Kind::Refusal];

/// One frame as it is written and read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Frame {
    pub kind: Kind,
    call: u8,
    numbers: u8,
    group: u64,
    number: u64,
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame without an address.
    pub fn control(kind: Kind, payload: Vec<u8>) -> Self {
        Self { kind, call: 0, numbers: 0, group: 0, number: 0, payload }
    }

    pub fn data(key: Key, call: Call, data: Buffer) -> Self {
        let (numbers, payload) = match data {
            Buffer::Bytes(data) => (0, data),
            Buffer::F32(data) => (1, data.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Buffer::F64(data) => (2, data.iter().flat_map(|x| x.to_le_bytes()).collect()),
        };
        let call = Call::ALL.iter().position(|c| *c == call).expect("listed because ALL holds every call") as u8;
        Self { kind: Kind::Data, call, numbers, group: key.group, number: key.call, payload }
    }

    /// Address, call and numbers of a data frame from `from`.
    pub fn opened(self, from: usize) -> Result<(Key, Call, Buffer)> {
        let call = Call::ALL.get(usize::from(self.call)).ok_or_else(|| damaged("an unknown call"))?;
        let whole = |width: usize| match self.payload.len().is_multiple_of(width) {
            true => Ok(()),
            false => Err(damaged("a broken number at the end")),
        };
        let data = match self.numbers {
            0 => Buffer::Bytes(self.payload),
            1 => {
                whole(4)?;
                Buffer::F32(self.payload.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
            }
            2 => {
                whole(8)?;
                Buffer::F64(self.payload.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect())
            }
            _ => return Err(damaged("an unknown type of numbers")),
        };
        Ok((Key { from, group: self.group, call: self.number }, *call, data))
    }

    pub fn write(&self, out: &mut impl Write) -> Result<()> {
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&MAGIC);
        head[4] = KINDS.iter().position(|k| *k == self.kind).expect("listed because KINDS holds every kind") as u8;
        (head[5], head[6]) = (self.call, self.numbers);
        head[8..16].copy_from_slice(&self.group.to_le_bytes());
        head[16..24].copy_from_slice(&self.number.to_le_bytes());
        head[24..32].copy_from_slice(&(self.payload.len() as u64).to_le_bytes());
        let check = crc32fast::hash(&head[..32]);
        head[32..].copy_from_slice(&check.to_le_bytes());
        out.write_all(&head)?;
        out.write_all(&self.payload)?;
        out.write_all(&crc32fast::hash(&self.payload).to_le_bytes())
    }

    pub fn read(from: &mut impl Read) -> Result<Self> {
        let mut head = [0; HEAD];
        from.read_exact(&mut head)?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        let check = u32::from_le_bytes(std::array::from_fn(|i| head[32 + i]));
        if head[..4] != MAGIC || check != crc32fast::hash(&head[..32]) || word(24) > LONGEST {
            return Err(damaged("a header that fails its check"));
        }
        let kind = *KINDS.get(usize::from(head[4])).ok_or_else(|| damaged("an unknown kind"))?;
        let len = word(24) as usize;
        let mut payload = Vec::with_capacity(len.min(1 << 26));
        if (&mut *from).take(len as u64).read_to_end(&mut payload)? != len {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut tail = [0; 4];
        from.read_exact(&mut tail)?;
        if u32::from_le_bytes(tail) != crc32fast::hash(&payload) {
            return Err(damaged("a payload that fails its check"));
        }
        Ok(Self { kind, call: head[5], numbers: head[6], group: word(8), number: word(16), payload })
    }
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("a damaged frame: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(frame: &Frame) -> Vec<u8> {
        let mut out = Vec::new();
        frame.write(&mut out).unwrap();
        out
    }

    #[test]
    fn frames_come_back_as_they_went() {
        let key = Key { from: 3, group: u64::MAX, call: 7 };
        for data in
            [Buffer::F32(vec![1.5, -0.0]), Buffer::F64(vec![0.1]), Buffer::Bytes(vec![]), Buffer::Bytes(vec![9; 70])]
        {
            let frame = Frame::data(key, Call::Gather, data.clone());
            let back = Frame::read(&mut bytes(&frame).as_slice()).unwrap();
            assert_eq!(back, frame);
            assert_eq!(back.opened(3).unwrap(), (key, Call::Gather, data));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_and_a_cut_anywhere_are_noticed() {
        let whole = bytes(&Frame::data(Key { from: 0, group: 5, call: 6 }, Call::Reduce, Buffer::F32(vec![1.0, 2.0])));
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(Frame::read(&mut flipped.as_slice()).is_err(), "bit in byte {at}");
            assert!(Frame::read(&mut &whole[..at]).is_err(), "cut at {at}");
        }
    }
}
