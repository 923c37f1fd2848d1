//! The merging of one piece: bytes to ids by a table of ranked pairs.
//!
//! In: the bytes of a piece. Out: its ids: the pair of lowest rank is merged first, the leftmost of equals first, until no
//! pair is in the table (Sennrich et al. 2016). Up to [`SWEEP`] bytes by sweeping for the minimum over fixed places with one
//! bit for each that still stands; longer ones with a linked list and a heap: at most one heap entry for each pair ever
//! seen, of which there are fewer than three for each byte. Leaves cutting and remembering to `encode`.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::ranks::{NONE, Ranks};

/// Pieces of up to this many bytes are merged by sweeping.
pub(crate) const SWEEP: usize = 64;

/// The merges of a vocabulary.
#[derive(Clone)]
pub(crate) struct Merging {
    ranks: Ranks,
    /// Rank of each pair of bytes: the look-ups that every piece begins with.
    byte_pairs: Vec<u32>, // [256 * 256]
    pub(crate) byte_ids: [u32; 256],
    /// Id that a merge makes, by rank.
    results: Vec<u32>,
}

/// Memory of `Merging::long` that is used again.
#[derive(Default)]
pub(crate) struct Heap {
    ids: Vec<u32>,
    ranks: Vec<u32>,
    next: Vec<u32>,
    before: Vec<u32>,
    heap: BinaryHeap<Reverse<u64>>,
}

impl Merging {
    /// `merges` are (left, right, result) in the order of their ranks; `ranks` holds the rank of each pair.
    pub(crate) fn new(ranks: Ranks, byte_ids: [u32; 256], merges: &[(u32, u32, u32)]) -> Self {
        let mut byte_pairs = vec![NONE; 256 * 256];
        for (i, slot) in byte_pairs.iter_mut().enumerate() {
            *slot = ranks.get(byte_ids[i / 256], byte_ids[i % 256]);
        }
        Self { ranks, byte_pairs, byte_ids, results: merges.iter().map(|merge| merge.2).collect() }
    }

    /// Appends the ids of a piece.
    pub(crate) fn merge(&self, piece: &[u8], heap: &mut Heap, out: &mut Vec<u32>) {
        match piece {
            [] => {}
            [byte] => out.push(self.byte_ids[usize::from(*byte)]),
            _ if piece.len() <= SWEEP => self.sweep(piece, out),
            _ => self.long(piece, heap, out),
        }
    }

    fn byte_pair(&self, left: u8, right: u8) -> u32 {
        self.byte_pairs[usize::from(left) * 256 + usize::from(right)]
    }

    /// Reads all ranks for each merge. 2 to [`SWEEP`] bytes.
    fn sweep(&self, piece: &[u8], out: &mut Vec<u32>) {
        // A rank and its place in one number: the smallest is the next merge. Ranks have 21 bits, places 6.
        const GONE: u32 = u32::MAX;
        let packed = |rank: u32, at: usize| if rank == NONE { GONE } else { rank << 6 | at as u32 };
        let n = piece.len();
        let mut ids = [0_u32; SWEEP];
        let mut ranks = [GONE; SWEEP]; // of the pair that begins at a place
        for (id, &byte) in ids.iter_mut().zip(piece) {
            *id = self.byte_ids[usize::from(byte)];
        }
        for (i, pair) in piece.windows(2).enumerate() {
            ranks[i] = packed(self.byte_pair(pair[0], pair[1]), i);
        }
        let mut standing = !0_u64 >> (64 - n);
        let used = (n - 1).next_multiple_of(8);
        loop {
            let mut lanes = [GONE; 8];
            for chunk in ranks[..used].chunks_exact(8) {
                for (lane, &rank) in lanes.iter_mut().zip(chunk) {
                    *lane = (*lane).min(rank);
                }
            }
            let best = lanes.iter().fold(GONE, |best, &rank| best.min(rank));
            if best == GONE {
                break;
            }
            let at = (best & 63) as usize;
            let after = standing & (!0 << at << 1);
            let dead = after.trailing_zeros() as usize;
            standing &= !(1 << dead);
            ranks[dead] = GONE;
            let id = self.results[(best >> 6) as usize];
            ids[at] = id;
            let next = after & after.wrapping_sub(1);
            ranks[at] = match next {
                0 => GONE,
                _ => packed(self.ranks.get(id, ids[next.trailing_zeros() as usize]), at),
            };
            let before = standing & ((1 << at) - 1);
            if before != 0 {
                let left = 63 - before.leading_zeros() as usize;
                ranks[left] = packed(self.ranks.get(ids[left], id), left);
            }
        }
        while standing != 0 {
            out.push(ids[standing.trailing_zeros() as usize]);
            standing &= standing - 1;
        }
    }

    fn long(&self, piece: &[u8], heap: &mut Heap, out: &mut Vec<u32>) {
        long(piece, heap, out, &self.byte_ids, &self.results, |left, right| self.ranks.get(left, right));
    }
}

const END: u32 = u32::MAX;

/// Any length from 1. `rank` is asked fewer than three times for each byte.
fn long(
    piece: &[u8],
    memory: &mut Heap,
    out: &mut Vec<u32>,
    byte_ids: &[u32; 256],
    results: &[u32],
    mut rank: impl FnMut(u32, u32) -> u32,
) {
    let Heap { ids, ranks, next, before, heap } = memory;
    let n = u32::try_from(piece.len()).expect("a piece is shorter than 4 GiB");
    ids.clear();
    ids.extend(piece.iter().map(|&byte| byte_ids[usize::from(byte)]));
    next.clear();
    next.extend((1..n).chain([END]));
    before.clear();
    before.extend([END].into_iter().chain(0..n - 1));
    ranks.clear();
    ranks.extend(ids.windows(2).map(|pair| rank(pair[0], pair[1])));
    ranks.push(NONE);
    let entry = |rank: u32, at: u32| Reverse(u64::from(rank) << 32 | u64::from(at));
    let known = ranks.iter().zip(0..).filter(|(rank, _)| **rank != NONE);
    let mut entries = std::mem::take(heap).into_vec();
    entries.clear();
    entries.extend(known.map(|(&rank, at)| entry(rank, at)));
    *heap = BinaryHeap::from(entries);
    while let Some(Reverse(top)) = heap.pop() {
        let (merge, at) = ((top >> 32) as u32, top as u32 as usize);
        if ranks[at] != merge {
            continue; // the pair is gone; a dead place has rank NONE
        }
        let dead = next[at] as usize;
        ids[at] = results[merge as usize];
        ranks[dead] = NONE;
        next[at] = next[dead];
        ranks[at] = NONE;
        if next[at] != END {
            before[next[at] as usize] = at as u32;
            ranks[at] = rank(ids[at], ids[next[at] as usize]);
            if ranks[at] != NONE {
                heap.push(entry(ranks[at], at as u32));
            }
        }
        if before[at] != END {
            let left = before[at] as usize;
            ranks[left] = rank(ids[left], ids[at]);
            if ranks[left] != NONE {
                heap.push(entry(ranks[left], left as u32));
            }
        }
    }
    let mut at = 0;
    while at != END {
        out.push(ids[at as usize]);
        at = next[at as usize];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tokenizer, TokenizerConfig, WordCounts, count, train};

    fn tokenizer() -> Tokenizer {
        let config = TokenizerConfig { vocab_size: 700, split: "gpt2".parse().unwrap(), ..TokenizerConfig::default() };
        let mut counts = WordCounts::new();
        let text =
            "the cat sat on the mat, aaaaaaaaaaaaaaaa abababababab 漢字漢字かな чай чаю, ------------- 2048 1024 "
                .repeat(3);
        count(&text, &config.splitter().unwrap(), &mut counts);
        train(&counts, &config).unwrap()
    }

    /// The definition: look at all pairs, merge the leftmost of the lowest rank, again and again.
    fn by_definition(merging: &Merging, piece: &[u8]) -> Vec<u32> {
        let mut ids: Vec<u32> = piece.iter().map(|&byte| merging.byte_ids[usize::from(byte)]).collect();
        loop {
            let ranks = ids.windows(2).map(|pair| merging.ranks.get(pair[0], pair[1]));
            match ranks.enumerate().filter(|(_, rank)| *rank != NONE).min_by_key(|&(i, rank)| (rank, i)) {
                Some((i, rank)) => drop(ids.splice(i..i + 2, [merging.results[rank as usize]])),
                None => return ids,
            }
        }
    }

    #[test]
    fn sweeping_and_the_heap_merge_by_the_definition_at_every_length() {
        let tokenizer = tokenizer();
        let merging = &tokenizer.merging;
        let mut heap = Heap::default();
        let mut state = 5_u64;
        for round in 0..4000 {
            let piece: Vec<u8> = (0..2 + round % (SWEEP - 1))
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    b"aab-t he\xe6\xbc\xa2"[(state >> 40) as usize % 11]
                })
                .collect();
            let (mut swept, mut heaped) = (Vec::new(), Vec::new());
            merging.sweep(&piece, &mut swept);
            merging.long(&piece, &mut heap, &mut heaped);
            assert_eq!(swept, by_definition(merging, &piece), "{piece:?}");
            assert_eq!(heaped, swept, "{piece:?}");
            assert_eq!(tokenizer.decode_bytes(&swept), piece);
        }
    }

    #[test]
    fn a_mebibyte_costs_less_than_three_look_ups_and_one_heap_entry_for_each_of_them() {
        let tokenizer = tokenizer();
        let merging = &tokenizer.merging;
        let mut state = 9_u64;
        let random: String = (0..1 << 20)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(3);
                char::from(b'a' + (state >> 40) as u8 % 26)
            })
            .collect();
        let units = ["a", "-", " ", "ab", "漢", "zq"].map(|unit| unit.repeat((1 << 20) / unit.len()));
        for text in units.into_iter().chain([random]) {
            let (mut asked, mut out) = (0_usize, Vec::new());
            long(
                text.as_bytes(),
                &mut Heap::default(),
                &mut out,
                &merging.byte_ids,
                &merging.results,
                |left, right| {
                    asked += 1;
                    merging.ranks.get(left, right)
                },
            );
            assert!(asked < 3 * text.len(), "{asked} for {}", text.len());
            assert_eq!(tokenizer.decode(&out), text);
        }
    }
}
