//! Zstd frames by their headers alone: where one starts, where it ends, and the dictionary of a file.
//!
//! In: the file from some offset on. Out: lengths and slices; nothing is decoded but a compressed dictionary. RFC 8878 §3.1, and
//! <https://iipc.github.io/warc-specifications/specifications/warc-zstd/>.

pub(super) use super::super::lz4::skippable;

pub(super) const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The magic of the skippable frame that holds a file's dictionary (warc-zstd §2).
const ZSTD_DICTIONARY_MAGIC: [u8; 4] = [0x5d, 0x2a, 0x4d, 0x18];
/// Most blocks of a frame that are hopped over, 512 MiB of them as `zstd` writes them. In a hostile file a frame may seem to start every
/// nine bytes and to go on to the file's end: without a bound, looking for the next sound one would take the square of its length.
const MAX_BLOCKS: usize = 4 << 10;

/// Does a zstd file start here?
pub(super) fn zstd_frame(bytes: &[u8]) -> bool {
    bytes.starts_with(&ZSTD_MAGIC) || skippable(bytes).is_some()
}

/// Length of the frame at the start of `bytes`; `None` if it is none, is cut, or has more than [`MAX_BLOCKS`] blocks.
pub(super) fn frame_len(bytes: &[u8]) -> Option<usize> {
    let &descriptor = bytes.strip_prefix(&ZSTD_MAGIC)?.first()?;
    let (size_flag, single_segment) = (usize::from(descriptor >> 6), descriptor & 0x20 != 0);
    let size_len = if size_flag == 0 { usize::from(single_segment) } else { 1 << size_flag };
    let dictionary_len = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let checksum_len = if descriptor & 4 != 0 { 4 } else { 0 };
    let mut at = ZSTD_MAGIC.len() + 1 + usize::from(!single_segment) + dictionary_len + size_len;
    for _ in 0..MAX_BLOCKS {
        let header = bytes.get(at..at + 3)?;
        let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
        let length = match header >> 1 & 3 {
            0 | 2 => (header >> 3) as usize,
            1 => 1,
            _ => return None,
        };
        at += 3 + length;
        if header & 1 == 1 {
            let end = at + checksum_len;
            return (end <= bytes.len()).then_some(end);
        }
    }
    None
}

/// The dictionary for all frames of a file, stored in its first frame, itself compressed or not.
pub(super) fn zstd_dictionary(file: &[u8]) -> Option<Vec<u8>> {
    const MAX_DICTIONARY_BYTES: usize = 64 << 20;
    let content = file.starts_with(&ZSTD_DICTIONARY_MAGIC).then(|| skippable(file)).flatten()?;
    if content.starts_with(&ZSTD_MAGIC) {
        return zstd::bulk::decompress(content, MAX_DICTIONARY_BYTES).ok();
    }
    Some(content.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lengths_are_those_that_zstd_itself_finds() {
        let text: Vec<u8> = (0..700_000_u32).flat_map(|n| (n.wrapping_mul(n) >> 7).to_le_bytes()).collect();
        for length in [0, 1, 300, 70_000, text.len()] {
            for (checksum, known_size) in [(false, false), (true, false), (false, true), (true, true)] {
                let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
                encoder.include_checksum(checksum).unwrap();
                encoder.set_pledged_src_size(known_size.then_some(length as u64)).unwrap();
                encoder.write_all(&text[..length]).unwrap();
                let frame = encoder.finish().unwrap();
                let wanted = zstd::zstd_safe::find_frame_compressed_size(&frame).unwrap();
                assert_eq!((frame_len(&frame), wanted), (Some(frame.len()), frame.len()));
                let followed = [&frame[..], b"WARC"].concat();
                assert_eq!(frame_len(&followed), Some(frame.len()));
                assert_eq!(frame_len(&frame[..frame.len() - 1]), None);
            }
        }
        assert_eq!(
            (frame_len(b""), frame_len(&ZSTD_MAGIC), frame_len(b"\x28\xb5\x2f\xfd\x00\x58\x07\x00\x00")),
            (None, None, None)
        );
    }

    #[test]
    fn a_frame_that_seems_to_go_on_for_ever_is_none() {
        // A header, then raw blocks of six bytes, each of which is the header of another such frame.
        let endless = b"\x28\xb5\x2f\xfd\x00\x58\x30\x00\x00".repeat(2 * MAX_BLOCKS);
        let cut = endless.len() / 2;
        let mut ended = endless.clone();
        ended[cut + 6] |= 1;
        assert_eq!(
            (frame_len(&endless), frame_len(&ended), frame_len(&ended[18..])),
            (None, None, Some(cut + 15 - 18))
        );
    }
}
