//! Side files of keys: entries of a fixed length, cut into partitions of the key space.
//!
//! In: entries of a fragment. Out: one file a fragment, with where each partition begins among the record's counts; then one
//! partition at a time over all fragments.

use super::sign::Flat;
use crate::error::Result;
use crate::stage::Context;
use crate::store::durable::{FileEntry, write_file};
use crate::store::{Counts, FragmentRecord};
use dedup::{Anchor, UnitEntry};

/// Partitions of the key space.
pub const PARTITIONS: usize = 64;

/// An entry as it stands in a side file.
pub trait Entry: Copy + Ord {
    /// Its length.
    const BYTES: usize;
    /// Its partition of the key space.
    fn partition(&self) -> usize;
    /// Appends it.
    fn write(&self, into: &mut Vec<u8>);
    /// Reads it back.
    fn read(bytes: &[u8]) -> Self;
}

fn partition(key: u64) -> usize {
    (key >> (64 - PARTITIONS.trailing_zeros())) as usize
}

/// The little-endian number of eight bytes from a place on.
pub fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were cut"))
}

/// The little-endian number of four bytes from a place on.
pub fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were cut"))
}

impl Entry for UnitEntry {
    const BYTES: usize = 24;

    fn partition(&self) -> usize {
        partition(self.key[0])
    }

    fn write(&self, into: &mut Vec<u8>) {
        self.key.iter().for_each(|k| into.extend(k.to_le_bytes()));
        [self.document, self.ordinal].iter().for_each(|n| into.extend(n.to_le_bytes()));
    }

    fn read(bytes: &[u8]) -> Self {
        Self { key: [word(bytes, 0), word(bytes, 8)], document: half(bytes, 16), ordinal: half(bytes, 20) }
    }
}

impl Entry for Anchor {
    const BYTES: usize = 16;

    fn partition(&self) -> usize {
        partition(self.key)
    }

    fn write(&self, into: &mut Vec<u8>) {
        into.extend(self.key.to_le_bytes());
        [self.document, self.position].iter().for_each(|n| into.extend(n.to_le_bytes()));
    }

    fn read(bytes: &[u8]) -> Self {
        Self { key: word(bytes, 0), document: half(bytes, 8), position: half(bytes, 12) }
    }
}

/// Writes entries sorted by partition, and counts those before each.
pub fn sections<E: Entry>(
    context: &Context<'_>,
    name: &str,
    mut entries: Vec<E>,
    counts: &mut Counts,
) -> Result<FileEntry> {
    entries.sort_unstable_by_key(|e| (e.partition(), *e));
    for number in 0..=PARTITIONS {
        counts.insert(section(number), entries.partition_point(|e| e.partition() < number) as u64);
    }
    let mut bytes = Vec::with_capacity(entries.len() * E::BYTES);
    entries.iter().for_each(|e| e.write(&mut bytes));
    write_file(&context.out.path, name, &bytes)
}

fn section(number: usize) -> String {
    format!("section:{number:02}")
}

/// The side files of one fragment.
pub struct Side {
    entries: Flat,
    starts: Vec<u64>,
    /// Texts, for methods that look at them again.
    pub texts: Option<Flat>,
}

impl Side {
    /// Opens what phase A committed.
    pub fn open(context: &Context<'_>, record: &FragmentRecord) -> Result<Self> {
        let open = |ending: &str| {
            let file = record.files.iter().find(|f| f.path.ends_with(ending));
            file.map(|f| Flat::open(context.out.path.join(&f.path))).transpose()
        };
        let starts = (0..=PARTITIONS).map(|n| record.counts[&section(n)]).collect();
        let entries = open(".bin")?.expect("phase A wrote one for every fragment");
        Ok(Self { entries, starts, texts: open(".text")? })
    }

    /// Appends the entries of one partition.
    pub fn section<E: Entry>(&self, number: usize, into: &mut Vec<E>) -> Result<()> {
        let [from, to] = [self.starts[number], self.starts[number + 1]].map(|n| n as usize * E::BYTES);
        let mut bytes = vec![0; to - from];
        self.entries.read(from as u64, &mut bytes)?;
        into.extend(bytes.chunks_exact(E::BYTES).map(E::read));
        Ok(())
    }
}
