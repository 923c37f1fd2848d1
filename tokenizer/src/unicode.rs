//! Character classes for the hand-written splitters.
//!
//! In: a Unicode scalar. Out: one of eight class bits. The general categories come from the tables of `regex-syntax`, the
//! parser that the regex engines use too, so the hand-written splitters and a regex see the same version of Unicode.
//! Leaves the rules to `scan`. Two stages: a block number per 256 scalars, then one byte per scalar.

use std::sync::LazyLock;

/// `\p{Lu}` and `\p{Lt}`.
pub(crate) const UPPER: u8 = 1;
/// `\p{Ll}`.
pub(crate) const LOWER: u8 = 2;
/// `\p{Lm}` and `\p{Lo}`: letters without case.
pub(crate) const CASELESS: u8 = 4;
/// `\p{M}`.
pub(crate) const MARK: u8 = 8;
/// `\p{N}`.
pub(crate) const NUMBER: u8 = 16;
/// CR and LF.
pub(crate) const NEWLINE: u8 = 32;
/// `\s` without CR and LF.
pub(crate) const SPACE: u8 = 64;
/// Everything else.
pub(crate) const REST: u8 = 128;
/// `\p{L}`.
pub(crate) const LETTER: u8 = UPPER | LOWER | CASELESS;
/// `\s`.
pub(crate) const WHITE: u8 = NEWLINE | SPACE;
/// `[^\s\p{L}\p{N}]`.
pub(crate) const SYMBOL: u8 = MARK | REST;

const SCALARS: usize = 0x11_0000;
const BLOCK: usize = 256;

/// The class of every scalar.
pub(crate) struct Classes {
    /// Class by leading byte for ASCII, 0 for bytes that start or continue a longer character.
    pub(crate) ascii: [u8; 256],
    blocks: Vec<u16>,
    classes: Vec<[u8; BLOCK]>,
}

static CLASSES: LazyLock<Classes> = LazyLock::new(Classes::build);

impl Classes {
    /// The table, built once per process (it is a constant; building takes about a millisecond).
    pub(crate) fn get() -> &'static Self {
        &CLASSES
    }

    /// The class bit of a scalar value.
    #[inline]
    pub(crate) fn of(&self, code: u32) -> u8 {
        let block = self.blocks[(code as usize / BLOCK).min(SCALARS / BLOCK - 1)];
        self.classes[usize::from(block)][code as usize % BLOCK]
    }

    fn build() -> Self {
        let mut flat = vec![REST; SCALARS];
        for (pattern, class) in [
            ("[\\p{Lu}\\p{Lt}]", UPPER),
            ("\\p{Ll}", LOWER),
            ("[\\p{Lm}\\p{Lo}]", CASELESS),
            ("\\p{M}", MARK),
            ("\\p{N}", NUMBER),
        ] {
            for (first, last) in ranges(pattern) {
                flat[first as usize..=last as usize].fill(class);
            }
        }
        for (code, slot) in flat.iter_mut().enumerate() {
            match char::from_u32(code as u32) {
                Some('\r' | '\n') => *slot = NEWLINE,
                Some(c) if c.is_whitespace() => *slot = SPACE,
                _ => {}
            }
        }
        let mut ascii = [0; 256];
        ascii[..128].copy_from_slice(&flat[..128]);
        let mut classes: Vec<[u8; BLOCK]> = Vec::new();
        let number = |chunk: &[u8]| {
            let known = classes.iter().position(|block| block == chunk).unwrap_or_else(|| {
                classes.push(chunk.try_into().expect("chunks_exact yields whole blocks"));
                classes.len() - 1
            });
            known as u16
        };
        let blocks = flat.chunks_exact(BLOCK).map(number).collect();
        Self { ascii, blocks, classes }
    }
}

/// The ranges of scalar values that a one-character pattern matches.
fn ranges(pattern: &str) -> Vec<(u32, u32)> {
    let hir = regex_syntax::parse(pattern).expect("the five patterns above are valid");
    match hir.kind() {
        regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) => {
            class.ranges().iter().map(|range| (u32::from(range.start()), u32::from(range.end()))).collect()
        }
        other => unreachable!("{pattern} is a class, not {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_of_each_category_has_its_class() {
        let table = Classes::get();
        for (c, class) in [
            ('A', UPPER),
            ('ǅ', UPPER),
            ('z', LOWER),
            ('ß', LOWER),
            ('ª', CASELESS),
            ('漢', CASELESS),
            ('ʰ', CASELESS),
            ('\u{301}', MARK),
            ('ா', MARK),
            ('7', NUMBER),
            ('½', NUMBER),
            ('Ⅷ', NUMBER),
            ('\n', NEWLINE),
            ('\r', NEWLINE),
            (' ', SPACE),
            ('\t', SPACE),
            ('\u{a0}', SPACE),
            ('\u{3000}', SPACE),
            ('\u{85}', SPACE),
            ('\'', REST),
            ('\u{200b}', REST),
            ('😀', REST),
            ('\u{10ffff}', REST),
            ('\0', REST),
        ] {
            assert_eq!(table.of(c as u32), class, "{c:?}");
        }
    }

    #[test]
    fn classes_agree_with_the_regex_engine_on_every_scalar() {
        let table = Classes::get();
        let all: String = (0..=0x10_ffff).filter_map(char::from_u32).collect();
        for (pattern, mask) in [
            (r"\p{L}", LETTER),
            (r"\p{N}", NUMBER),
            (r"\s", WHITE),
            (r"\p{M}", MARK),
            (r"[\p{Lu}\p{Lt}]", UPPER),
            (r"[\p{Lm}\p{Lo}]", CASELESS),
            (r"\p{Ll}", LOWER),
            (r"[\r\n]", NEWLINE),
        ] {
            // One text of all scalars; what the pattern matches in it is marked.
            let mut matched = vec![false; SCALARS];
            for found in fancy_regex::Regex::new(pattern).unwrap().find_iter(&all) {
                matched[found.unwrap().as_str().chars().next().unwrap() as usize] = true;
            }
            for c in all.chars() {
                assert_eq!(matched[c as usize], table.of(c as u32) & mask != 0, "{pattern} {:x}", c as u32);
            }
        }
    }
}
