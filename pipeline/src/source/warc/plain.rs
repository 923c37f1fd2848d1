//! Records of an uncompressed file, borrowed from it.
//!
//! In: the file, the first unit's offset, the range's end. Out: items, and where the next range begins. A record whose
//! `Content-Length` does not lead to two line breaks, another record or the end of the file is damage; reading goes on at the next line
//! that starts a record, searched from behind its header, because a wrong length may have swallowed records.

use std::borrow::Cow;

use super::head::{self, Kind};
use super::{Damage, Item, Limits};

pub(super) struct Plain<'a> {
    file: &'a [u8],
    at: usize,
    end: usize,
    max_header_bytes: usize,
    max_block_bytes: u64,
    /// The format of the last record seen; damage is searched for the same.
    kind: Option<Kind>,
    exit: Option<usize>,
}

impl<'a> Plain<'a> {
    pub fn new(file: &'a [u8], from: usize, end: usize, limits: &Limits) -> Self {
        let Limits { max_header_bytes, max_block_bytes, .. } = *limits;
        Self { file, at: from, end, max_header_bytes, max_block_bytes, kind: None, exit: None }
    }

    pub fn exit(&self) -> Option<usize> {
        self.exit
    }

    pub fn next_item(&mut self) -> Option<Item<'a>> {
        if self.exit.is_some() {
            return None;
        }
        let start = self.at + head::newlines(&self.file[self.at..]);
        if start >= self.file.len() {
            self.exit = Some(self.file.len());
            return None;
        }
        match head::starts_record(&self.file[start..]) {
            Some(_) if start >= self.end => {
                self.exit = Some(start);
                None
            }
            Some(kind) => {
                self.kind = Some(kind);
                Some(self.record(start, kind))
            }
            None => {
                let rest = &self.file[start..];
                let cut = self.kind.is_some_and(|kind| head::is_cut_start(rest, kind));
                let (rule, detail) = match rest {
                    _ if cut => ("truncated_record", "the file ends inside a header"),
                    [0x04, 0x22, 0x4d, 0x18, ..] => ("garbage", "lz4 is not supported: use gzip or zstd"),
                    _ => ("garbage", "no record starts here"),
                };
                Some(self.damage(start, start, rule, detail.to_owned()))
            }
        }
    }

    fn record(&mut self, start: usize, kind: Kind) -> Item<'a> {
        let rest = &self.file[start..];
        let Some(header) = head::head_end(&rest[..rest.len().min(self.max_header_bytes)], kind) else {
            let cut = rest.len() < self.max_header_bytes;
            let (rule, detail) = match cut {
                true => ("truncated_record", "the file ends inside a header".to_owned()),
                false => ("bad_header", format!("longer than {} bytes", self.max_header_bytes)),
            };
            return self.damage(start, start + 5, rule, detail);
        };
        let head = match head::parse(&rest[..header], kind) {
            Ok(head) => head,
            Err(detail) => return self.damage(start, start + header, "bad_header", detail),
        };
        let block_start = start + header;
        let length = head.content_length;
        let available = self.file.len() - block_start;
        if length > available as u64 {
            let detail = format!("Content-Length {length}, the file has {available} bytes more");
            let swallowed = head::find_record(self.file, block_start, kind).is_some();
            let rule = if swallowed { "length_mismatch" } else { "truncated_record" };
            return self.damage(start, block_start, rule, detail);
        }
        let block_end = block_start + length as usize;
        let next = block_end + head::newlines(&self.file[block_end..]);
        let rest = &self.file[next..];
        let vouched = rest.is_empty() || next - block_end >= head::END_OF_RECORD;
        if !vouched && head::starts_record(rest).is_none() && !head::is_cut_start(rest, kind) {
            let detail = format!("no record follows after Content-Length {length}");
            return self.damage(start, block_start, "length_mismatch", detail);
        }
        self.at = next;
        if length > self.max_block_bytes {
            let detail = format!("Content-Length {length}, at most {}", self.max_block_bytes);
            return damage(start, next, "too_large", detail);
        }
        let block = Cow::Borrowed(&self.file[block_start..block_end]);
        Item::Record(head.into_record(start, 0, next - start, block))
    }

    /// Damage from `start` to the next record found from `search` on, where reading goes on.
    fn damage(&mut self, start: usize, search: usize, rule: &'static str, detail: String) -> Item<'a> {
        let found = match self.kind {
            Some(kind) => head::find_record(self.file, search, kind),
            None => [Kind::Warc, Kind::Arc].into_iter().find_map(|kind| head::find_record(self.file, search, kind)),
        };
        self.at = found.unwrap_or(self.file.len());
        damage(start, self.at, rule, detail)
    }
}

fn damage(start: usize, end: usize, rule: &'static str, detail: String) -> Item<'static> {
    Item::Damaged(Damage { offset: start as u64, offset_in_member: 0, length: (end - start) as u64, rule, detail })
}
