//! The header of llm.c's token files (`dev/data/data_common.py`, `llmc/dataloader.h`).
//!
//! 256 i32, little endian: magic, version, number of tokens, zeros; then the tokens, u16 under magic 20240520 version 1, u32
//! under magic 20240801 version 7. One stream of tokens, in which documents end (llm.c's own begin) with the end-of-text token.

use super::Width;

/// Bytes of the header.
pub const HEADER: usize = 1024;

/// The header of a file of `tokens` tokens (below 2^31).
pub fn header(width: Width, tokens: u32) -> [u8; HEADER] {
    assert!(tokens < 1 << 31, "the number of tokens is an i32 there");
    let (magic, version) = match width {
        Width::U16 => (20_240_520_u32, 1_u32),
        Width::U32 => (20_240_801, 7),
    };
    let mut bytes = [0; HEADER];
    for (field, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip([magic, version, tokens]) {
        *field = value.to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_the_fields_where_llm_c_reads_them() {
        let bytes = header(Width::U16, 258);
        assert_eq!(bytes[..16], [0x88, 0xd8, 0x34, 0x01, 1, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert!(bytes[12..].iter().all(|&b| b == 0));
        assert_eq!(header(Width::U32, 1)[..12], [0xa1, 0xd9, 0x34, 0x01, 7, 0, 0, 0, 1, 0, 0, 0]);
    }
}
