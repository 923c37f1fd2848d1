//! Text to ids.
//!
//! In: a text. Out: its ids, exactly those of Hugging Face `tokenizers` and tiktoken, written straight into the caller's
//! buffer of `u32` or `u16`. Pieces are cut and looked up in the thread's cache a few hundred at a time, so that their cache
//! lines are fetched together. A new short piece is a token or is merged; a long one is first cut where no token can cross.
//! Leaves cutting to `split`, memory to `cache`, merging to `bpe`, special tokens to `added`.

use std::sync::{MutexGuard, PoisonError};

use rayon::prelude::*;

use crate::{
    Tokenizer,
    bpe::Heap,
    cache::{self, Cache, LONGEST},
    joints,
    key::{self, SHORT},
    window::MOST,
};

/// Pieces cut and looked up together.
const BATCH: usize = 4 * MOST;

/// A number that ids are stored as: `u16` (up to 65,536 ids) or `u32`.
pub trait Id: Copy + Send + Sync + private::Sealed {
    /// Most ids a vocabulary can have.
    const MOST: usize;
    /// The id as this number; it fits because the vocabulary has at most [`Id::MOST`] ids.
    fn from_id(id: u32) -> Self;
}

impl Id for u32 {
    const MOST: usize = crate::MAX_VOCAB;

    #[inline(always)]
    fn from_id(id: u32) -> Self {
        id
    }
}

impl Id for u16 {
    const MOST: usize = 1 << 16;

    #[inline(always)]
    fn from_id(id: u32) -> Self {
        id as u16
    }
}

mod private {
    pub trait Sealed {}
    impl Sealed for u16 {}
    impl Sealed for u32 {}
}

/// A tokenizer with a cache of its own, for a thread that encodes many texts.
pub struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    cache: Option<Box<Memory>>,
}

/// What an encoder keeps from text to text.
#[derive(Default)]
pub(crate) struct Memory {
    cache: Cache,
    heap: Heap,
    found: Vec<u32>,
    batch: Batch,
}

/// Pieces that are looked up together.
struct Batch {
    ends: [usize; BATCH],
    keys: [[u64; 2]; BATCH],
    places: [u32; BATCH],
}

impl Default for Batch {
    fn default() -> Self {
        Self { ends: [0; BATCH], keys: [[0; 2]; BATCH], places: [0; BATCH] }
    }
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

    /// Ids of many texts, on the current rayon pool.
    pub fn encode_batch<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vec<Vec<u32>> {
        texts.par_iter().map_init(|| self.encoder(), |encoder, text| encoder.encode(text.as_ref())).collect()
    }

    /// An encoder that borrows one of the tokenizer's caches until it is dropped.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder { tokenizer: self, cache: Some(self.pool().pop().unwrap_or_default()) }
    }

    /// As many caches as there were encoders at the same time. A panic elsewhere cannot leave one half written here.
    fn pool(&self) -> MutexGuard<'_, Vec<Box<Memory>>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Encoder<'_> {
    fn drop(&mut self) {
        if let Some(memory) = self.cache.take() {
            self.tokenizer.pool().push(memory);
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
        self.encode_to(text, out);
    }

    /// `encode_into` for the integer that a shard stores.
    ///
    /// # Panics
    /// If the vocabulary has more ids than fit into `T`.
    pub fn encode_to<T: Id>(&mut self, text: &str, out: &mut Vec<T>) {
        let size = self.tokenizer.vocab_size();
        assert!(size <= T::MOST, "{size} ids do not fit, because a number of this width has {}", T::MOST);
        let text = self.tokenizer.added.normalized(text);
        self.encode_normalized(&text, out);
    }

    /// Ids of any bytes, appended to `out`: what is valid UTF-8 as text, each stretch between as a piece of its own. Without a
    /// normaliser `decode_bytes` gives the same bytes back.
    ///
    /// # Panics
    /// As [`Encoder::encode_to`].
    pub fn encode_bytes<T: Id>(&mut self, bytes: &[u8], out: &mut Vec<T>) {
        for chunk in bytes.utf8_chunks() {
            self.encode_to(chunk.valid(), out);
            let memory = self.cache.as_mut().expect("only drop takes the memory");
            memory.found.clear();
            self.tokenizer.merging.merge(chunk.invalid(), &mut memory.heap, &mut memory.found);
            out.extend(memory.found.iter().map(|&id| T::from_id(id)));
        }
    }

    /// `encode_to` of a text that needs no normalisation.
    pub(crate) fn encode_normalized<T: Id>(&mut self, text: &str, out: &mut Vec<T>) {
        let tokenizer = self.tokenizer;
        let memory = self.cache.as_mut().expect("only drop takes the memory");
        let splitter = &tokenizer.parts.splitter;
        let mut start = 0;
        while let Some(n) = splitter.fill(text, start, &mut memory.batch.ends) {
            if n == 0 {
                return;
            }
            let from = start;
            start = memory.batch.ends[n - 1];
            memory.look_up(tokenizer, text.as_bytes(), from, n, out);
        }
        let (mut n, mut from) = (0, 0);
        splitter.spans(text, &mut |_, end| {
            memory.batch.ends[n] = end;
            n += 1;
            if n == BATCH {
                memory.look_up(tokenizer, text.as_bytes(), from, n, out);
                (n, from) = (0, end);
            }
        });
        memory.look_up(tokenizer, text.as_bytes(), from, n, out);
    }
}

impl Memory {
    /// Appends the ids of the `n` pieces of the batch, the first of which begins at `start`.
    fn look_up<T: Id>(&mut self, tokenizer: &Tokenizer, text: &[u8], start: usize, n: usize, out: &mut Vec<T>) {
        let mut from = start;
        for i in 0..n {
            let end = self.batch.ends[i];
            if let Some(key) = key::short(text, from, end) {
                let place = cache::place(key);
                self.cache.prefetch(place);
                (self.batch.keys[i], self.batch.places[i]) = (key, place);
            }
            from = end;
        }
        // Four places are written for every piece and then taken back to the number of its ids: no branch on that number.
        out.reserve(4 * n);
        let (mut len, mut from) = (out.len(), start);
        for i in 0..n {
            let end = self.batch.ends[i];
            let short = end - from <= SHORT;
            if short
                && let Some(slot) = self.cache.get(self.batch.keys[i], self.batch.places[i])
                && slot.count() != 0
            {
                let ids = slot.ids().map(T::from_id);
                debug_assert!(len + 4 <= out.capacity());
                // SAFETY: room for four ids was reserved for this piece and each one after it, here or after the last miss.
                unsafe { out.as_mut_ptr().add(len).cast::<[T; 4]>().write_unaligned(ids) };
                len += slot.count();
                from = end;
                continue;
            }
            // SAFETY: all `len` ids were written, and the capacity is at least `len`.
            unsafe { out.set_len(len) };
            self.found.clear();
            if short {
                self.miss(tokenizer, &text[from..end], self.batch.keys[i], self.batch.places[i]);
            } else {
                self.long(tokenizer, &text[from..end]);
            }
            out.extend(self.found.iter().map(|&id| T::from_id(id)));
            out.reserve(4 * (n - i));
            len = out.len();
            from = end;
        }
        // SAFETY: as above.
        unsafe { out.set_len(len) };
    }

    /// Finds the ids of a short piece that is not in its own set, or has more than four ids.
    #[inline(never)]
    fn miss(&mut self, tokenizer: &Tokenizer, piece: &[u8], key: [u64; 2], place: u32) {
        if self.cache.find(key, place, &mut self.found) {
            return;
        }
        match tokenizer.vocab.get(piece, &tokenizer.parts.tokens) {
            // Not remembered, because a segment of a longer piece with the same bytes has other ids.
            Some(found) if found.by_name_only => self.found.push(found.id),
            Some(found) => {
                self.found.push(found.id);
                self.cache.put(key, place, &[found.id]);
            }
            None => self.merged(tokenizer, piece, key, place),
        }
    }

    /// Appends the ids that merging gives for a short piece or segment, and remembers them.
    fn merged(&mut self, tokenizer: &Tokenizer, piece: &[u8], key: [u64; 2], place: u32) {
        let from = self.found.len();
        tokenizer.merging.merge(piece, &mut self.heap, &mut self.found);
        self.cache.put(key, place, &self.found[from..]);
    }

    /// Finds the ids of a long piece.
    #[inline(never)]
    fn long(&mut self, tokenizer: &Tokenizer, piece: &[u8]) {
        let remembered = piece.len() <= LONGEST;
        let hash = if remembered { key::hash_bytes(piece) } else { 0 };
        if remembered && let Some(ids) = self.cache.get_long(piece, hash) {
            return self.found.extend_from_slice(ids);
        }
        if let Some(found) = tokenizer.vocab.get(piece, &tokenizer.parts.tokens) {
            self.found.push(found.id);
            if found.by_name_only {
                return; // as a segment of a longer piece these bytes have other ids
            }
        } else if self.segments(tokenizer, piece) && piece.len() > 3 * SHORT {
            return; // a sentence: its segments are remembered
        }
        if remembered {
            self.cache.put_long(piece, hash, &self.found);
        }
    }

    /// Cuts a piece where no token can cross and merges the segments. Was there a place to cut?
    fn segments(&mut self, tokenizer: &Tokenizer, piece: &[u8]) -> bool {
        let (mut at, mut segment, mut before) = (0, 0, 0);
        while at < piece.len() {
            let (c, len) = joints::char_at(piece, at);
            if at > 0 && (c > 0x7f || before > 0x7f) && !tokenizer.joints.can_cross(before, c) {
                self.segment(tokenizer, piece, segment, at);
                segment = at;
            }
            before = c;
            at += len;
        }
        self.segment(tokenizer, piece, segment, piece.len());
        segment > 0
    }

    fn segment(&mut self, tokenizer: &Tokenizer, piece: &[u8], start: usize, end: usize) {
        let bytes = &piece[start..end];
        let Some(key) = key::short(piece, start, end) else {
            let hash = key::hash_bytes(bytes);
            if let Some(ids) = self.cache.get_long(bytes, hash) {
                return self.found.extend_from_slice(ids);
            }
            let from = self.found.len();
            tokenizer.merging.merge(bytes, &mut self.heap, &mut self.found);
            // As a whole piece a token by name only has its own id.
            if tokenizer.vocab.get(bytes, &tokenizer.parts.tokens).is_none_or(|found| !found.by_name_only) {
                self.cache.put_long(bytes, hash, &self.found[from..]);
            }
            return;
        };
        let place = cache::place(key);
        if self.cache.find(key, place, &mut self.found) {
            return;
        }
        match tokenizer.vocab.get(bytes, &tokenizer.parts.tokens) {
            Some(found) if !found.by_name_only => {
                self.found.push(found.id);
                self.cache.put(key, place, &[found.id]);
            }
            // As a whole piece these bytes have another id.
            Some(_) => tokenizer.merging.merge(bytes, &mut self.heap, &mut self.found),
            None => self.merged(tokenizer, bytes, key, place),
        }
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
            "漢字かな交じり文漢字漢字漢字かな交じり文の漢字かな交じり文",
        ] {
            let cold = tokenizer.clone().encode(text);
            assert_eq!(tokenizer.decode(&cold), text);
            assert_eq!(tokenizer.encode(text), cold);
            assert_eq!(tokenizer.encode(text), cold);
            let mut narrow: Vec<u16> = vec![7];
            tokenizer.encoder().encode_to(text, &mut narrow);
            assert_eq!(narrow[1..].iter().map(|&id| u32::from(id)).collect::<Vec<_>>(), cold);
        }
    }

    #[test]
    fn any_text_comes_back_and_equals_the_merging_of_its_whole_pieces() {
        let tokenizer = tokenizer("o200k");
        let alphabet: Vec<char> = "aab tThe.,'s\n-0漢字かな字かчаю\u{301}é😀\u{a0}".chars().collect();
        let mut state = 3_u64;
        for round in 0..2000 {
            let text: String = (0..round % 120)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(9);
                    alphabet[(state >> 40) as usize % alphabet.len()]
                })
                .collect();
            let (mut whole, mut heap) = (Vec::new(), Heap::default());
            tokenizer.splitter().pieces(&text, &mut |piece| {
                tokenizer.merging.merge(piece.as_bytes(), &mut heap, &mut whole);
            });
            assert_eq!(tokenizer.encode(&text), whole, "{text:?}");
            assert_eq!(tokenizer.decode(&whole), text);
        }
    }

    #[test]
    fn any_bytes_come_back() {
        let tokenizer = tokenizer("cl100k");
        let (mut encoder, mut state) = (tokenizer.encoder(), 11_u64);
        for round in 0..3000 {
            let bytes: Vec<u8> = (0..round % 200)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let any = (state >> 40) as u8;
                    if round % 2 == 0 {
                        any
                    } else {
                        b"a \n'\xe6\xbc\xa2\xf0\x9f\x98\x80\xc5\xbf1"[usize::from(any) % 14]
                    }
                })
                .collect();
            let mut ids: Vec<u32> = Vec::new();
            encoder.encode_bytes(&bytes, &mut ids);
            assert_eq!(tokenizer.decode_bytes(&ids), bytes);
            if let Ok(text) = str::from_utf8(&bytes) {
                assert_eq!(ids, tokenizer.encode(text));
            }
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
    fn a_mebibyte_in_one_piece_comes_back() {
        for split in ["gpt2", "cl100k", "o200k"] {
            let tokenizer = tokenizer(split);
            for unit in ["a", "-", " ", "ab", "漢", "zq", "\n", "字か"] {
                let text = unit.repeat((1 << 20) / unit.len());
                assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), text);
            }
        }
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn a_vocabulary_that_is_too_large_for_the_buffer_is_our_mistake() {
        let config = TokenizerConfig { vocab_size: 300, ..TokenizerConfig::default() };
        let mut tokenizer = train(&WordCounts::new(), &config).unwrap();
        tokenizer.parts.tokens.resize(70_000, Vec::new());
        tokenizer.encoder().encode_to::<u16>("a", &mut Vec::new());
    }
}
