//! Compressed WARC files: gzip members and zstd frames, as they are or packed from the input's bytes, whole or damaged.
//!
//! For any bytes: items in strict order and inside the file, decoded bytes bounded by the limits, the same items from ranges of any
//! size as from the whole file, and every record found again from its offset and length alone.

use super::super::source::warc::{Compression, Item, Limits, records, records_from};
use super::{damaged, knobs, pack};

/// Small limits, so that small files reach them.
const LIMITS: Limits = Limits {
    max_header_bytes: 1 << 10,
    max_block_bytes: 16 << 10,
    max_ratio: 20,
    ratio_free_bytes: 8 << 10,
    lookback_bytes: 256,
};

/// Bytes by which a decoder may pass a limit before that is seen: its buffers.
const SLACK_BYTES: u64 = 64 << 10;

/// Knobs: form, bytes in a member, ranges, damage, place of the damage.
pub fn check(bytes: &[u8]) {
    let ([form, cut, ranges, damage, at], bytes) = knobs(bytes);
    let file = match form % 4 {
        0 => bytes.to_vec(),
        1 => packed(bytes, cut, pack::gzip_stored),
        2 => packed(bytes, cut, pack::gzip),
        _ => packed(bytes, cut, pack::zstd),
    };
    check_file(&damaged(file, damage, at), usize::from(ranges) + 1);
}

/// Members of `cut` times 16 bytes; 0: cut before each version line.
fn packed(bytes: &[u8], cut: u8, pack: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let fewest = bytes.len() / 64 + 1;
    if cut > 0 {
        return bytes.chunks((usize::from(cut) * 16).max(fewest)).flat_map(pack).collect();
    }
    let mut cuts = vec![0];
    cuts.extend(memchr::memmem::find_iter(bytes, b"WARC/1").filter(|&at| at > 0).take(64));
    cuts.push(bytes.len());
    cuts.windows(2).flat_map(|cut| pack(&bytes[cut[0]..cut[1]])).collect()
}

/// All that is promised of any file, read whole and in `ranges` ranges.
pub fn check_file(file: &[u8], ranges: usize) {
    let whole: Vec<Item<'_>> = records(file, 0, u64::MAX, &LIMITS).collect();
    let (mut last, mut held) = (None, 0);
    for item in &whole {
        let (offset, inside, length) = match item {
            Item::Record(record) => {
                let block = record.block.len() as u64;
                assert!(block <= LIMITS.max_block_bytes, "a block of {block} bytes");
                held += block;
                (record.offset, record.offset_in_member, record.length)
            }
            Item::Damaged(damage) => (damage.offset, damage.offset_in_member, damage.length),
        };
        assert!(offset.checked_add(length).is_some_and(|end| end <= file.len() as u64), "outside the file: {item:?}");
        assert!(last < Some((offset, inside)), "out of order: {item:?}");
        last = Some((offset, inside));
    }
    let most = LIMITS.max_ratio * file.len() as u64 + whole.len() as u64 * (LIMITS.ratio_free_bytes + SLACK_BYTES);
    assert!(held <= most, "{held} bytes decoded from {}", file.len());
    assert!(by_ranges(file, file.len() / ranges + 1) == whole, "ranges give other items");
    read_again(file, &whole);
}

/// The items of ranges of `step` bytes; one that was entered at the wrong place is read again from the exit of the one before.
fn by_ranges(file: &[u8], step: usize) -> Vec<Item<'_>> {
    let (mut items, mut exit) = (Vec::new(), 0);
    for start in (0..file.len() as u64).step_by(step) {
        let end = start + step as u64;
        let mut range = records(file, start, end, &LIMITS);
        if range.entry() != exit {
            range = records_from(file, exit, end, &LIMITS);
        }
        items.extend(range.by_ref());
        exit = range.exit().expect("the range is used up");
        assert!(exit >= end.min(file.len() as u64), "a range leaves some of itself to the next");
    }
    items
}

/// Each record, read from its own bytes. With a dictionary, a frame of a zstd file cannot be.
fn read_again(file: &[u8], whole: &[Item<'_>]) {
    let skippable = file.len() > 3 && file[0] & 0xf0 == 0x50 && file[1..4] == [0x2a, 0x4d, 0x18];
    if Compression::sniff(file) == Compression::Zstd && skippable {
        return;
    }
    for item in whole.iter().take(20) {
        let Item::Record(wanted) = item else { continue };
        let own = &file[wanted.offset as usize..(wanted.offset + wanted.length) as usize];
        let found = records(own, 0, u64::MAX, &LIMITS).find_map(|item| match item {
            Item::Record(record) if record.offset_in_member == wanted.offset_in_member => Some(record),
            _ => None,
        });
        let found = found.unwrap_or_else(|| panic!("not found again: {wanted:?}"));
        assert!(found.block == wanted.block && found.target_uri == wanted.target_uri, "{found:?} is not {wanted:?}");
    }
}
