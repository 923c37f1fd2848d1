//! WARC and ARC headers: uncompressed files as they are, and files written here and read back.
//!
//! As they are: what `members` asserts, and items that do not overlap, with blocks that are slices of the file. Written here: the
//! same addresses and blocks come out of every form of the file, whatever the blocks hold, and nothing is damage.

use super::super::source::warc::{Item, Limits, Record, records};
use super::{knobs, members, pack};

/// Knobs: what is done, ranges or bytes in a member.
pub fn check(bytes: &[u8]) {
    let ([form, size], bytes) = knobs(bytes);
    match form % 3 {
        0 => as_it_is(bytes, usize::from(size) + 1),
        1 => written(bytes, Some(usize::from(size) + 16), warc_record),
        _ => written(bytes, None, arc_record),
    }
}

fn as_it_is(file: &[u8], ranges: usize) {
    members::check_file(file, ranges);
    let mut end = 0;
    for item in records(file, 0, u64::MAX, &Limits::default()) {
        let (offset, length) = match &item {
            Item::Record(record) => (record.offset, record.length),
            Item::Damaged(damage) => (damage.offset, damage.length),
        };
        if let Item::Record(Record { block: std::borrow::Cow::Borrowed(block), .. }) = &item {
            assert!(offset >= end, "begins inside the item before: {item:?}");
            let own = &file[offset as usize..(offset + length) as usize];
            assert!(own.as_ptr_range().contains(&block.as_ptr()) || block.is_empty(), "not a slice of its record");
            end = offset + length;
        }
    }
}

/// Records from the parts between bytes 0xff: a first line that becomes the address, and a block. Read back from every form; with a
/// `size` that holds a version line also from members of so many bytes.
fn written(bytes: &[u8], size: Option<usize>, write: impl Fn(&str, &[u8]) -> Vec<u8>) {
    let mut wanted = Vec::new();
    for part in bytes.split(|&byte| byte == 0xff).take(40) {
        let (line, block) = part.split_at(memchr::memchr(b'\n', part).unwrap_or(part.len()));
        let mut address = String::from_utf8_lossy(line).into_owned();
        address.retain(|c| !c.is_control() && !c.is_whitespace() && c != '<');
        let address: String = address.chars().take(900).collect();
        wanted.push((format!("http://a.test/{address}"), block));
    }
    let parts: Vec<Vec<u8>> = wanted.iter().map(|(address, block)| write(address, block)).collect();
    let (plain, packed) =
        (parts.concat(), |pack: fn(&[u8]) -> Vec<u8>| parts.iter().flat_map(|part| pack(part)).collect());
    let mut forms: Vec<Vec<u8>> =
        vec![plain.clone(), packed(pack::gzip_stored), packed(pack::zstd), pack::gzip(&plain), pack::zstd(&plain)];
    // A member that begins like a record is one: blocks with anything like a header line must not be cut, nor line breaks before one.
    let ends_in_line_break = wanted.iter().any(|(_, block)| matches!(block.last(), None | Some(b'\n' | b'\r')));
    let inside = |pattern: &[u8]| wanted.iter().any(|(_, block)| memchr::memmem::find(block, pattern).is_some());
    if let Some(size) = size
        && !ends_in_line_break
        && !inside(b"WARC/")
        && !inside(b":")
        && !wanted.iter().any(|(address, _)| address.contains("WARC/"))
    {
        forms.push(plain.chunks(size).take(64).flat_map(pack::gzip_stored).collect());
        forms.last_mut().expect("just pushed").extend(pack::gzip_stored(plain.get(64 * size..).unwrap_or_default()));
    }
    for (form, file) in forms.iter().enumerate() {
        let mut found = records(file, 0, u64::MAX, &Limits::default());
        for (address, block) in &wanted {
            match found.next() {
                Some(Item::Record(record)) => {
                    assert_eq!(record.target_uri.as_ref(), Some(address), "form {form}");
                    assert!(record.block == *block, "form {form}: another block for {address}");
                }
                other => panic!("form {form}: {other:?} for {address}"),
            }
        }
        assert_eq!(found.next(), None, "form {form}");
    }
}

fn warc_record(address: &str, block: &[u8]) -> Vec<u8> {
    let (length, date) = (block.len(), "2020-01-02T03:04:05Z");
    let head = format!(
        "WARC/1.0\r\nWARC-Type: response\r\nwarc-target-uri:\t<{address}>\r\nWARC-Date:\r\n {date}\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), block, b"\r\n\r\n"].concat()
}

fn arc_record(address: &str, block: &[u8]) -> Vec<u8> {
    let head = format!("{address} 192.0.2.1 20200102030405 text/html {}\n", block.len());
    [head.as_bytes(), block, b"\n"].concat()
}
