//! The 256 byte symbols of byte-level BPE.
//!
//! In: a byte. Out: the printable character that stands for it in `tokenizer.json`, and the place of its symbol among the
//! 256. Leaves tokens and merges to the other files. The mapping is `bytes_to_unicode` of GPT-2 (Radford et al. 2019):
//! printable Latin-1 bytes stand for themselves, the other 68 take U+0100 and up in byte order.

use std::collections::HashMap;

/// Is the byte its own stand-in?
const fn is_printable(byte: u8) -> bool {
    matches!(byte, 33..=126 | 161..=172 | 174..=255)
}

/// The 256 bytes in the order of their stand-in characters: the order in which Hugging Face numbers the symbols.
pub(crate) const fn symbol_order() -> [u8; 256] {
    let mut order = [0_u8; 256];
    let mut filled = 0;
    let mut pass = 0;
    while pass < 2 {
        let mut byte = 0_usize;
        while byte < 256 {
            if is_printable(byte as u8) == (pass == 0) {
                order[filled] = byte as u8;
                filled += 1;
            }
            byte += 1;
        }
        pass += 1;
    }
    order
}

/// Stand-in character of every byte.
pub(crate) fn stand_ins() -> [char; 256] {
    let mut table = ['\0'; 256];
    let mut next = 256_u32;
    for byte in 0..=255_u8 {
        let code = if is_printable(byte) {
            u32::from(byte)
        } else {
            next += 1;
            next - 1
        };
        table[usize::from(byte)] = char::from_u32(code).expect("stand-ins are below U+0144, so never surrogates");
    }
    table
}

/// Writes bytes as their stand-in characters.
pub(crate) fn to_stand_ins(bytes: &[u8], table: &[char; 256]) -> String {
    bytes.iter().map(|&byte| table[usize::from(byte)]).collect()
}

/// Stand-in character to byte, for reading.
pub(crate) fn byte_of() -> HashMap<char, u8> {
    stand_ins().iter().enumerate().map(|(byte, &c)| (c, byte as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_stand_in_and_the_symbol_order_follows_their_code_points() {
        let table = stand_ins();
        assert_eq!(table[usize::from(b' ')], 'Ġ');
        assert_eq!(table[usize::from(b'\n')], 'Ċ');
        assert_eq!(table[usize::from(b'a')], 'a');
        let codes: Vec<char> = symbol_order().iter().map(|&b| table[usize::from(b)]).collect();
        assert!(codes.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(byte_of().len(), 256);
        assert_eq!(to_stand_ins("é ".as_bytes(), &table), "Ã©Ġ");
    }
}
