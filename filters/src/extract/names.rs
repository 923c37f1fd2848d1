//! Names of elements and attributes to small numbers.
//!
//! In: a name as written in markup, any case. Out: its packed form, a `u128` of up to 16 lower-cased bytes, and from a
//! [`Lookup`] built at compile time the number that belongs to it. Longer names pack to a hash, which equals no known name.
//! Which names matter is left to `tag` and `dom`.

/// Entries of a table; a power of two, several times the number of names.
const SLOTS: usize = 512;

/// Names packed into 16 bytes with the number of each.
pub(super) struct Lookup {
    keys: [u128; SLOTS],
    values: [u8; SLOTS],
}

impl Lookup {
    /// Builds the table; a name's number is its index in `names`.
    pub(super) const fn new(names: &[&str]) -> Self {
        let mut table = Self { keys: [0; SLOTS], values: [0; SLOTS] };
        let mut i = 0;
        while i < names.len() {
            let key = pack(names[i].as_bytes());
            let mut slot = slot_of(key);
            while table.keys[slot] != 0 {
                slot = (slot + 1) % SLOTS;
            }
            table.keys[slot] = key;
            table.values[slot] = i as u8;
            i += 1;
        }
        table
    }

    /// Number of the name with this packed form.
    pub(super) fn find(&self, key: u128) -> Option<usize> {
        let mut slot = slot_of(key);
        loop {
            match self.keys[slot] {
                0 => return None,
                found if found == key => return Some(usize::from(self.values[slot])),
                _ => slot = (slot + 1) % SLOTS,
            }
        }
    }
}

const fn slot_of(key: u128) -> usize {
    let folded = (key as u64) ^ ((key >> 64) as u64).rotate_left(29);
    (folded.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 55) as usize // 9 bits, as many as SLOTS has
}

/// Lower-cased bytes of a name, the first in the lowest byte; never 0 for a name of at least one byte that is not NUL.
pub(super) const fn pack(name: &[u8]) -> u128 {
    let mut key = 0_u128;
    let mut i = 0;
    while i < name.len() && i < 16 {
        key |= (name[i].to_ascii_lowercase() as u128) << (8 * i);
        i += 1;
    }
    while i < name.len() {
        // Bytes above 0x7F in the top byte keep these apart from every known name.
        key = (key ^ name[i].to_ascii_lowercase() as u128).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013B)
            | 0x80 << 120;
        i += 1;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_others_are_not() {
        static TABLE: Lookup = Lookup::new(&["p", "blockquote", "annotation-xml"]);
        for (name, number) in [
            ("p", Some(0)),
            ("P", Some(0)),
            ("BlockQuote", Some(1)),
            ("annotation-xml", Some(2)),
            ("", None),
            ("pp", None),
            ("é", None),
            ("a-name-longer-than-sixteen-bytes", None),
        ] {
            assert_eq!(TABLE.find(pack(name.as_bytes())), number, "{name}");
        }
        assert_ne!(pack(b"a-name-longer-than-sixteen-bytes"), pack(b"a-name-longer-than-sixteen-bytez"));
    }
}
