//! Text to ids.
//!
//! In: a text. Out: its ids, exactly those of Hugging Face `tokenizers`: per piece, the pair of lowest rank is merged first,
//! the leftmost of equals first. Pieces seen before come from the thread's cache; new short ones are merged by sweeping for
//! the minimum, long ones with a heap, O(n log n) for a piece of n bytes. Leaves cutting to `split`, memory to `cache`.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{MutexGuard, PoisonError},
};

use rayon::prelude::*;

use crate::{
    Tokenizer,
    cache::{Cache, NO_ID},
    key,
    ranks::NONE,
};

/// Pieces of up to this many bytes are merged by sweeping.
const SWEEP: usize = 40;
/// Pieces looked up together, so that their cache lines are fetched at the same time.
const BATCH: usize = 32;

/// A tokenizer with a cache of its own, for a thread that encodes many texts.
pub struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    cache: Option<Cache>,
    scratch: Scratch,
}

#[derive(Default)]
struct Scratch {
    ids: Vec<u32>,
    ranks: Vec<u32>,
    next: Vec<u32>,
    before: Vec<u32>,
    heap: BinaryHeap<Reverse<u64>>,
}

impl Tokenizer {
    /// Ids of a text. The text of a special token is ordinary text here: what a page says can never end a document.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        self.encode_into(text, &mut ids);
        ids
    }

    /// `encode`, appended to `out`.
    pub fn encode_into(&self, text: &str, out: &mut Vec<u32>) {
        self.encoder().encode_into(text, out);
    }

    /// Ids of a text in which the texts of special tokens are those tokens (the longest at the leftmost place), as
    /// `tokenizers` encodes. Only for text that the program itself wrote.
    pub fn encode_with_specials(&self, text: &str) -> Vec<u32> {
        let (mut out, mut done, mut encoder) = (Vec::new(), 0, self.encoder());
        let mut at = 0;
        while at < text.len() {
            let rest = &text.as_bytes()[at..];
            let found = self.parts.specials.iter().filter(|special| rest.starts_with(special.text.as_bytes()));
            if let Some(special) = found.max_by_key(|special| special.text.len()) {
                encoder.encode_into(&text[done..at], &mut out);
                out.push(special.id);
                at += special.text.len();
                done = at;
            } else {
                at += 1;
            }
        }
        encoder.encode_into(&text[done..], &mut out);
        out
    }

    /// Ids of many texts, on the current rayon pool.
    pub fn encode_batch<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vec<Vec<u32>> {
        texts.par_iter().map_init(|| self.encoder(), |encoder, text| encoder.encode(text.as_ref())).collect()
    }

    /// An encoder that borrows one of the tokenizer's caches until it is dropped.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder { tokenizer: self, cache: Some(self.pool().pop().unwrap_or_default()), scratch: Scratch::default() }
    }

    /// As many caches as there were encoders at the same time. A panic elsewhere cannot leave one half written here.
    fn pool(&self) -> MutexGuard<'_, Vec<Cache>> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Encoder<'_> {
    fn drop(&mut self) {
        if let Some(cache) = self.cache.take() {
            self.tokenizer.pool().push(cache);
        }
    }
}

impl Encoder<'_> {
    /// See [`Tokenizer::encode`].
    pub fn encode(&mut self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        self.encode_into(text, &mut ids);
        ids
    }

    /// See [`Tokenizer::encode_into`].
    pub fn encode_into(&mut self, text: &str, out: &mut Vec<u32>) {
        let tokenizer = self.tokenizer;
        let cache = self.cache.as_mut().expect("only drop takes the cache");
        let mut spans = [(0, 0); BATCH];
        let mut n = 0;
        tokenizer.parts.splitter.spans(text, &mut |start, end| {
            spans[n] = (start, end);
            n += 1;
            if n == BATCH {
                flush(tokenizer, cache, &mut self.scratch, text.as_bytes(), &spans, out);
                n = 0;
            }
        });
        flush(tokenizer, cache, &mut self.scratch, text.as_bytes(), &spans[..n], out);
    }
}

/// Appends the ids of some pieces.
fn flush(
    tokenizer: &Tokenizer,
    cache: &mut Cache,
    scratch: &mut Scratch,
    text: &[u8],
    spans: &[(usize, usize)],
    out: &mut Vec<u32>,
) {
    // Four places are written for every piece and then taken back to the number of its ids: no branch on that number.
    let mut len = out.len();
    out.resize(len + 4 * spans.len(), 0);
    for (done, &(start, end)) in spans.iter().enumerate() {
        let key = key::short(text, start, end);
        if let Some(ids) = key.and_then(|key| cache.get(key)) {
            out[len..len + 4].copy_from_slice(&ids);
            len += 1 + ids[1..].iter().map(|&id| usize::from(id != NO_ID)).sum::<usize>();
            continue;
        }
        out.truncate(len);
        miss(tokenizer, cache, scratch, &text[start..end], key, out);
        len = out.len();
        out.resize(len + 4 * (spans.len() - done), 0);
    }
    out.truncate(len);
}

/// A piece that is not in the short cache.
#[cold]
#[inline(never)]
fn miss(
    tokenizer: &Tokenizer,
    cache: &mut Cache,
    scratch: &mut Scratch,
    piece: &[u8],
    key: Option<[u64; 2]>,
    out: &mut Vec<u32>,
) {
    let hash = key::hash_bytes(piece);
    if let Some(ids) = cache.get_long(piece, hash) {
        out.extend_from_slice(ids);
        return;
    }
    let from = out.len();
    merge_piece(tokenizer, scratch, piece, out);
    match key {
        Some(key) if out.len() - from <= 4 => cache.put(key, &out[from..]),
        _ => cache.put_long(piece, hash, &out[from..]),
    }
}

fn merge_piece(tokenizer: &Tokenizer, scratch: &mut Scratch, piece: &[u8], out: &mut Vec<u32>) {
    if let Some(&id) = tokenizer.whole.get(piece) {
        out.push(id);
    } else if piece.len() <= SWEEP {
        sweep(tokenizer, piece, out);
    } else {
        merge_long(tokenizer, scratch, piece, out);
    }
}

/// Merges the lowest rank until none is left, reading all ranks each time.
fn sweep(tokenizer: &Tokenizer, piece: &[u8], out: &mut Vec<u32>) {
    let mut ids = [0_u32; SWEEP];
    let mut ranks = [NONE; SWEEP]; // of the pair (i, i + 1)
    let mut n = piece.len();
    for (id, &byte) in ids.iter_mut().zip(piece) {
        *id = tokenizer.byte_ids[usize::from(byte)];
    }
    for i in 1..n {
        ranks[i - 1] = tokenizer.ranks.get(ids[i - 1], ids[i]);
    }
    while n > 1 {
        let (mut at, mut best) = (0, NONE);
        for (i, &rank) in ranks[..n - 1].iter().enumerate() {
            if rank < best {
                (at, best) = (i, rank);
            }
        }
        if best == NONE {
            break;
        }
        ids[at] = tokenizer.parts.merges[best as usize].2;
        ids.copy_within(at + 2..n, at + 1);
        ranks.copy_within(at + 1..n, at);
        n -= 1;
        ranks[n - 1] = NONE;
        if at + 1 < n {
            ranks[at] = tokenizer.ranks.get(ids[at], ids[at + 1]);
        }
        if at > 0 {
            ranks[at - 1] = tokenizer.ranks.get(ids[at - 1], ids[at]);
        }
    }
    out.extend_from_slice(&ids[..n]);
}

const END: u32 = u32::MAX;

/// The same with a linked list and a heap of (rank, place).
fn merge_long(tokenizer: &Tokenizer, scratch: &mut Scratch, piece: &[u8], out: &mut Vec<u32>) {
    let Scratch { ids, ranks, next, before, heap } = scratch;
    let n = u32::try_from(piece.len()).expect("a piece is shorter than 4 GiB");
    ids.clear();
    ids.extend(piece.iter().map(|&byte| tokenizer.byte_ids[usize::from(byte)]));
    next.clear();
    next.extend((1..n).chain([END]));
    before.clear();
    before.extend([END].into_iter().chain(0..n - 1));
    ranks.clear();
    ranks.extend(ids.windows(2).map(|pair| tokenizer.ranks.get(pair[0], pair[1])));
    ranks.push(NONE);
    let entry = |rank: u32, at: u32| Reverse(u64::from(rank) << 32 | u64::from(at));
    let known = ranks.iter().zip(0..).filter(|(rank, _)| **rank != NONE);
    let mut entries = std::mem::take(heap).into_vec();
    entries.clear();
    entries.extend(known.map(|(&rank, at)| entry(rank, at)));
    *heap = BinaryHeap::from(entries);
    while let Some(Reverse(top)) = heap.pop() {
        let (rank, at) = ((top >> 32) as u32, top as u32 as usize);
        if ranks[at] != rank {
            continue; // the pair is gone; a dead place has rank NONE
        }
        let dead = next[at] as usize;
        ids[at] = tokenizer.parts.merges[rank as usize].2;
        ranks[dead] = NONE;
        next[at] = next[dead];
        ranks[at] = NONE;
        if next[at] != END {
            before[next[at] as usize] = at as u32;
            ranks[at] = tokenizer.ranks.get(ids[at], ids[next[at] as usize]);
            if ranks[at] != NONE {
                heap.push(entry(ranks[at], at as u32));
            }
        }
        if before[at] != END {
            let left = before[at] as usize;
            ranks[left] = tokenizer.ranks.get(ids[left], ids[at]);
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
    use crate::{TokenizerConfig, WordCounts, count, train};

    fn tokenizer(split: &str) -> Tokenizer {
        let config = TokenizerConfig { vocab_size: 700, split: split.parse().unwrap(), ..TokenizerConfig::default() };
        let mut counts = WordCounts::new();
        let text =
            "the cat sat on the mat, aaaaaaaaaaaaaaaa abababababab 漢字漢字かな чай чаю, ------------- 2048 1024 "
                .repeat(3);
        count(&text, &config.splitter().unwrap(), &mut counts);
        train(&counts, &config).unwrap()
    }

    #[test]
    fn sweeping_and_the_heap_merge_alike_at_every_length() {
        let tokenizer = tokenizer("gpt2");
        let mut scratch = Scratch::default();
        let mut state = 5_u64;
        for round in 0..3000 {
            let piece: Vec<u8> = (0..1 + round % SWEEP)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    b"aab-t he\xe6\xbc\xa2"[(state >> 40) as usize % 11]
                })
                .collect();
            let (mut swept, mut heaped) = (Vec::new(), Vec::new());
            sweep(&tokenizer, &piece, &mut swept);
            merge_long(&tokenizer, &mut scratch, &piece, &mut heaped);
            assert_eq!(swept, heaped, "{piece:?}");
            assert_eq!(tokenizer.decode_bytes(&swept), piece);
        }
    }

    #[test]
    fn every_text_comes_back_and_a_warm_cache_changes_nothing() {
        let tokenizer = tokenizer("cl100k");
        for text in [
            "",
            "a",
            " ",
            "the cat",
            "漢字かな交じり文",
            "чай с молоком",
            "\0\u{10ffff}\r\n\t",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            let cold = tokenizer.clone().encode(text);
            assert_eq!(tokenizer.decode(&cold), text);
            assert_eq!(tokenizer.encode(text), cold);
            assert_eq!(tokenizer.encode(text), cold);
        }
    }

    #[test]
    fn threads_and_batches_give_the_same_ids() {
        let tokenizer = tokenizer("o200k");
        let texts: Vec<String> =
            (0..500).map(|i| format!("the {i} cat{} 漢字 antidisestablishmentarianism{}", i % 7, i % 3)).collect();
        let one: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.clone().encode(text)).collect();
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| tokenizer.encode_batch(&texts)), one);
        }
    }

    #[test]
    fn a_mebibyte_of_one_letter_is_not_quadratic() {
        let tokenizer = tokenizer("gpt2");
        for unit in ["a", "-", " ", "ab", "漢", "zq"] {
            let text = unit.repeat((1 << 20) / unit.len());
            assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), text); // quadratic work would take hours
        }
    }

    #[test]
    fn special_texts_are_specials_only_when_asked_for() {
        let tokenizer = tokenizer("gpt2");
        let text = "a<|end|>b<|endoftext|><|en";
        assert!(tokenizer.encode(text).iter().all(|&id| !tokenizer.is_special(id)));
        let ids = tokenizer.encode_with_specials(text);
        assert_eq!(ids.iter().copied().filter(|&id| tokenizer.is_special(id)).collect::<Vec<_>>(), [4, 0]);
        assert_eq!(tokenizer.decode(&ids), text);
        assert!(tokenizer.encode_with_specials("").is_empty());
    }
}
