//! Exact substrings: every stretch of at least so many bytes, or so many words, that occurs earlier in the corpus.
//!
//! In: texts in survivor order, as symbols: bytes, or words by their hashes (`words.rs`). Out: spans to remove from each. Left to
//! others: applying them (an edit), side files.
//! A window is `size` symbols. A window is removed iff its symbols occur in an earlier document, or earlier in the same one
//! without overlap; the first occurrence stays. Spans are unions of such windows; of bytes, moved inwards to whole characters. This
//! is what a suffix array would find (Lee et al. 2022), with memory for one part of the corpus at a time.
//!
//! Winnowing (Schleimer, Wilkerson & Aiken 2003): of the hashes of all stretches of [`seed_len`] in a window the least is
//! its anchor. Equal windows have equal anchors at the same place, so only places of equal anchors are compared, and those
//! symbol by symbol: anchors nominate, they never decide. The steps:
//! 1. [`anchors`] per text, into side files partitioned by key: about `4 / size` anchors of 16 bytes for each symbol;
//! 2. [`nominate`] per partition drops anchors that occur once, which are most;
//! 3. what surrounds each nominated anchor ([`surroundings`]) is fetched, and [`SpanVerifier`] compares it;
//! 4. [`merge_spans`] per text. [`repeated_spans`] is all of them in memory.

use crate::ConfigError;
use crate::config::faults;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// Shortest window, in symbols: shorter stretches repeat in every language.
pub const LEAST_SPAN: usize = 8;

/// What a stretch is made of.
pub trait Symbol: Copy + Eq {
    /// A number for rolling hashes; different symbols have different ones.
    fn value(self) -> u64;
    /// A hash of a window.
    fn hash(window: &[Self]) -> u64;
}

/// Bytes of UTF-8.
impl Symbol for u8 {
    fn value(self) -> u64 {
        u64::from(self) + 1
    }

    fn hash(window: &[Self]) -> u64 {
        xxh3_64(window)
    }
}

/// Words by their hashes.
impl Symbol for u64 {
    fn value(self) -> u64 {
        self
    }

    fn hash(window: &[Self]) -> u64 {
        window.iter().fold(0, |hash: u64, word| (hash ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(32))
    }
}

/// Removes stretches of text that occur earlier in the corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpanConfig {
    /// Least length of a stretch, in bytes of UTF-8; 8 or more.
    pub min_bytes: usize,
    /// Least length in words in place of bytes; 8 or more.
    pub min_words: Option<usize>,
}

impl Default for SpanConfig {
    /// About the 50 tokens of Lee et al. 2022, §4.1, at four bytes a token.
    fn default() -> Self {
        Self { min_bytes: 200, min_words: None }
    }
}

impl SpanConfig {
    /// Checks every range; returns all faults.
    pub fn check(&self) -> Result<(), Vec<ConfigError>> {
        let field = if self.min_words.is_some() { "min_words" } else { "min_bytes" };
        let sound = (LEAST_SPAN..1 << 20).contains(&self.size());
        faults(&[(field, self.size().to_string(), sound, "8 to 1048575")])
    }

    /// Least length in symbols: words if `min_words` is given, else bytes.
    pub fn size(&self) -> usize {
        self.min_words.unwrap_or(self.min_bytes)
    }
}

/// A place whose seed is the least of some window, in 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Anchor {
    /// Hash of the seed.
    pub key: u64,
    /// The document, numbered in survivor order.
    pub document: u32,
    /// Where the seed starts, in symbols.
    pub position: u32,
}

/// A stretch that occurs earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repeat {
    /// The document, numbered in survivor order.
    pub document: u32,
    /// Where the stretch starts, in symbols.
    pub start: u32,
    /// Where it ends.
    pub end: u32,
}

/// Windows whose hashes are held at a time, so that a long text takes no more memory than a short one.
const CHUNK_WINDOWS: usize = 1 << 14;

/// Length of the stretches that anchors are chosen from, half a window: what repeats in shorter stretches is not looked at.
pub fn seed_len(size: usize) -> usize {
    size / 2
}

/// Appends the anchors of a text, ascending by position; none if it is shorter than `size`. A run of one symbol has
/// an anchor at every place.
pub fn anchors<S: Symbol>(text: &[S], document: u32, size: usize, into: &mut Vec<Anchor>) {
    assert!(size >= LEAST_SPAN, "windows have at least {LEAST_SPAN} symbols");
    assert!(text.len() < 1 << 31, "a text of {} symbols is not one document", text.len());
    let seed = seed_len(size);
    if text.len() < size {
        return;
    }
    let places = size - seed + 1;
    let (mut last, mut hashes) = (None, Vec::with_capacity(CHUNK_WINDOWS + places));
    for start in (0..=text.len() - size).step_by(CHUNK_WINDOWS) {
        hashes.clear();
        hashes.extend(rolling(&text[start..], seed).take(CHUNK_WINDOWS + places - 1));
        // Of equal hashes the first counts, so that equal windows have equal anchors.
        let mut least = 0;
        for (window, end) in (places - 1..hashes.len()).enumerate() {
            if window == 0 || least < window {
                let smallest = hashes[window..=end].iter().min().expect("a window has places");
                least =
                    window + hashes[window..=end].iter().position(|hash| hash == smallest).expect("it is among them");
            } else if hashes[end] < hashes[least] {
                least = end;
            }
            let position = (start + least) as u32;
            if last != Some(position) {
                into.push(Anchor { key: hashes[least], document, position });
                last = Some(position);
            }
        }
    }
}

/// Hash of every stretch of `seed` symbols: a polynomial modulo 2^64, mixed because its low bits are weak.
fn rolling<S: Symbol>(text: &[S], seed: usize) -> impl Iterator<Item = u64> {
    const BASE: u64 = 0x9e37_79b9_7f4a_7c15;
    let leaving = (0..seed).fold(1_u64, |power, _| power.wrapping_mul(BASE));
    let first = text[..seed].iter().fold(0_u64, |hash, symbol| hash.wrapping_mul(BASE).wrapping_add(symbol.value()));
    let rest = text[seed..].iter().zip(text).scan(first, move |hash, (entering, left)| {
        let moved = hash.wrapping_mul(BASE).wrapping_add(entering.value());
        *hash = moved.wrapping_sub(left.value().wrapping_mul(leaving));
        Some(*hash)
    });
    std::iter::once(first).chain(rest).map(|hash| {
        let mixed = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed ^ (mixed >> 32)
    })
}

/// Sorts the anchors of one key partition and drops those whose key occurs once.
pub fn nominate(anchors: &mut Vec<Anchor>) {
    anchors.sort_unstable();
    anchors.dedup();
    let mut held = 0;
    let mut start = 0;
    while start < anchors.len() {
        let run = anchors[start..].iter().take_while(|anchor| anchor.key == anchors[start].key).count();
        if run > 1 {
            anchors.copy_within(start..start + run, held);
            held += run;
        }
        start += run;
    }
    anchors.truncate(held);
}

/// What has to be fetched around an anchor: every window that holds its seed.
pub fn surroundings(position: u32, text_len: usize, size: usize) -> Range<usize> {
    let reach = size - seed_len(size);
    let position = position as usize;
    position.saturating_sub(reach)..(position + size).min(text_len)
}

/// Compares what surrounds the anchors of one key after the other.
#[derive(Clone, Debug)]
pub struct SpanVerifier<S> {
    size: usize,
    last: Option<Anchor>,
    /// Surroundings of the current key in which a window occurred first.
    held: Vec<Surroundings<S>>,
    /// First occurrence of each window: which of `held`, and where in it. Keyed by hash, and by how many other windows of
    /// that hash came before.
    windows: HashMap<(u64, u32), (u32, u32), BuildHasherDefault<Hashed>>,
    /// Which of `held` are there whole, by hash, in the same way.
    wholes: HashMap<(u64, u32), u32, BuildHasherDefault<Hashed>>,
}

#[derive(Clone, Debug)]
struct Surroundings<S> {
    symbols: Vec<S>,
    document: u32,
    /// Where they start in their document.
    start: u32,
    /// How far into them the anchor is.
    lead: u32,
}

impl<S: Symbol> SpanVerifier<S> {
    /// For windows of `size` symbols.
    pub fn new(size: usize) -> Self {
        Self { size, last: None, held: Vec::new(), windows: HashMap::default(), wholes: HashMap::default() }
    }

    /// Takes the next nominated anchor, in the order of [`nominate`], and the text at its [`surroundings`]; appends what
    /// occurs earlier. Memory: the different surroundings of one key.
    pub fn push(&mut self, anchor: Anchor, around: &[S], into: &mut Vec<Repeat>) {
        assert!(self.last.is_none_or(|last| last < anchor), "anchors come in ascending order");
        if self.last.is_none_or(|last| last.key != anchor.key) {
            self.held.clear();
            self.windows.clear();
            self.wholes.clear();
        }
        self.last = Some(anchor);
        let (document, size) = (anchor.document, self.size as u32);
        let lead = anchor.position.min(size - seed_len(self.size) as u32);
        let start = anchor.position - lead;
        let is_earlier = |other: &Surroundings<S>, offset: u32, here: u32| {
            other.document < document || other.start + offset + size <= here
        };
        if around.len() < self.size {
            return;
        }
        let whole = self.same_whole(around, lead).map(|index| &self.held[index as usize]);
        if whole.is_some_and(|other| is_earlier(other, 0, start)) {
            // Every window of these surroundings occurs there, as far away as the first.
            into.push(Repeat { document, start, end: start + around.len() as u32 });
            return;
        }
        let index = self.held.len() as u32;
        self.held.push(Surroundings { symbols: around.to_vec(), document, start, lead });
        let mut is_new = false;
        for (at, window) in (0..).zip(around.windows(self.size)) {
            let (first, offset) = self.first_of(window, (index, at));
            is_new |= (first, offset) == (index, at);
            if is_earlier(&self.held[first as usize], offset, start + at) {
                add(into, Repeat { document, start: start + at, end: start + at + size });
            }
        }
        if is_new {
            self.wholes.insert(self.slot_of_whole(around), index);
        } else {
            self.held.pop();
        }
    }

    /// The first occurrence of a window, which is `place` if there was none before.
    fn first_of(&mut self, window: &[S], place: (u32, u32)) -> (u32, u32) {
        let mut slot = (S::hash(window), 0);
        loop {
            let &mut (index, offset) = self.windows.entry(slot).or_insert(place);
            if self.held[index as usize].symbols[offset as usize..].starts_with(window) {
                return (index, offset);
            }
            slot.1 += 1;
        }
    }

    fn same_whole(&self, around: &[S], lead: u32) -> Option<u32> {
        let hash = S::hash(around);
        let same = |other: &Surroundings<S>| other.lead == lead && other.symbols == around;
        (0..).map_while(|n| self.wholes.get(&(hash, n)).copied()).find(|&index| same(&self.held[index as usize]))
    }

    fn slot_of_whole(&self, around: &[S]) -> (u64, u32) {
        let hash = S::hash(around);
        (hash, (0..).take_while(|n| self.wholes.contains_key(&(hash, *n))).count() as u32)
    }
}

/// Takes a key that is a hash already as it is.
#[derive(Clone, Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 ^= xxh3_64(bytes);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 ^= hash;
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = self.0.wrapping_add(u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
}

/// Appends a repeat, or lets the last one grow if it lies on it.
fn add(into: &mut Vec<Repeat>, repeat: Repeat) {
    match into.last_mut() {
        Some(last) if last.document == repeat.document && (last.start..=last.end).contains(&repeat.start) => {
            last.end = last.end.max(repeat.end);
        }
        _ => into.push(repeat),
    }
}

/// Repeats of one text, in any order, joined where they touch: ascending, apart from each other, in symbols.
pub(crate) fn join(repeats: &mut [Repeat]) -> Vec<Range<usize>> {
    repeats.sort_unstable();
    let mut spans: Vec<Range<usize>> = Vec::new();
    for repeat in repeats.iter() {
        let (start, end) = (repeat.start as usize, repeat.end as usize);
        match spans.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => spans.push(start..end),
        }
    }
    spans
}

/// The spans of one text out of its repeats in bytes, in any order: joined, and moved inwards to whole characters.
pub fn merge_spans(text: &str, repeats: &mut [Repeat]) -> Vec<Range<usize>> {
    let inwards = |span: Range<usize>| {
        let start = (span.start..).find(|&at| text.is_char_boundary(at)).expect("the end of a text is a boundary");
        let end =
            (0..=span.end).rev().find(|&at| text.is_char_boundary(at)).expect("the start of a text is a boundary");
        (start < end).then_some(start..end)
    };
    join(repeats).into_iter().filter_map(inwards).collect()
}

/// All steps in memory: the spans to remove from each text; texts come in survivor order.
pub fn repeated_spans(texts: &[&str], min_bytes: usize) -> Vec<Vec<Range<usize>>> {
    let bytes: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
    let mut repeats = repeats_of(&bytes, min_bytes);
    texts.iter().zip(&mut repeats).map(|(text, repeats)| merge_spans(text, repeats)).collect()
}

/// The repeats of each text, given as symbols, in order.
pub(crate) fn repeats_of<S: Symbol>(texts: &[&[S]], size: usize) -> Vec<Vec<Repeat>> {
    let mut nominated = Vec::new();
    for (document, text) in texts.iter().enumerate() {
        anchors(text, document as u32, size, &mut nominated);
    }
    nominate(&mut nominated);
    let (mut verifier, mut found) = (SpanVerifier::new(size), Vec::new());
    for anchor in nominated {
        let text = texts[anchor.document as usize];
        verifier.push(anchor, &text[surroundings(anchor.position, text.len(), size)], &mut found);
    }
    let mut repeats = vec![Vec::new(); texts.len()];
    found.into_iter().for_each(|repeat| repeats[repeat.document as usize].push(repeat));
    repeats
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, window by window.
    fn brute_force(texts: &[&str], size: usize) -> Vec<Vec<Range<usize>>> {
        let occurs_earlier = |document: usize, window: &[u8], at: usize| {
            let before =
                texts[..document].iter().any(|text| text.as_bytes().windows(size).any(|other| other == window));
            let own = texts[document].as_bytes();
            before || (0..(at + 1).saturating_sub(size)).any(|start| &own[start..start + size] == window)
        };
        let spans = texts.iter().enumerate().map(|(document, text)| {
            let windows = text.as_bytes().windows(size).enumerate();
            let repeats = windows.filter(|(at, window)| occurs_earlier(document, window, *at));
            let repeat = |(at, _): (usize, &[u8])| Repeat { document: 0, start: at as u32, end: (at + size) as u32 };
            merge_spans(text, &mut repeats.map(repeat).collect::<Vec<_>>())
        });
        spans.collect()
    }

    #[test]
    fn a_repeated_stretch_is_found_where_it_stands() {
        let texts = ["once upon a time there was a mill", "a tale: once upon a time there was a king", "a mill"];
        let spans = repeated_spans(&texts, 12);
        assert_eq!(spans[0], []);
        assert_eq!(
            spans[1].iter().map(|span| &texts[1][span.clone()]).collect::<Vec<_>>(),
            ["once upon a time there was a "]
        );
        assert_eq!(spans[2], []);
        assert_eq!(repeated_spans(&[], 12), Vec::<Vec<_>>::new());
        assert_eq!(repeated_spans(&["", "", "x"], 12), [[], [], []]);
    }

    #[test]
    fn spans_hold_whole_characters() {
        let texts = ["世界你好吗", "間界你好吗朋友"];
        let spans = repeated_spans(&texts, 9);
        assert_eq!(&texts[1][spans[1][0].clone()], "界你好吗");
        // The characters before them end in different bytes but share others: windows cut through them.
        assert_eq!(spans, brute_force(&texts, 9));
    }

    #[test]
    fn the_first_of_a_run_stays() {
        let text = "a".repeat(100);
        let spans = repeated_spans(&[&text], 10);
        assert_eq!((spans[0].len(), spans[0][0].clone()), (1, 10..100));
        assert_eq!(repeated_spans(&[&text], 10), brute_force(&[&text], 10));
    }

    #[test]
    fn spans_are_those_of_brute_force_on_random_corpora() {
        let mut state = 17_u64;
        let mut random = |most: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % most
        };
        let mut removed = 0;
        for round in 0..150 {
            let letters: Vec<char> = ["ab", "abcdefgh", "aé世\u{1f600}"][round % 3].chars().collect();
            let mut texts: Vec<String> = Vec::new();
            for _ in 0..1 + random(8) {
                let mut text = String::new();
                for _ in 0..random(5) {
                    if texts.is_empty() || random(2) == 0 {
                        text.extend((0..random(40)).map(|_| letters[random(letters.len())]));
                    } else {
                        let other: Vec<char> = texts[random(texts.len())].chars().collect();
                        let start = random(other.len() + 1);
                        text.extend(&other[start..start + random(other.len() - start + 1)]);
                    }
                }
                texts.push(text);
            }
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let size = LEAST_SPAN + random(20);
            let found = repeated_spans(&texts, size);
            assert_eq!(found, brute_force(&texts, size), "{size} {texts:?}");
            removed += found.iter().flatten().map(Range::len).sum::<usize>();
        }
        assert!(removed > 5_000, "{removed}");
    }

    #[test]
    fn a_text_longer_than_a_chunk_has_the_anchors_of_its_windows() {
        let mut state = 2_u64;
        let mut letter = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            b'a' + ((state >> 33) % 3) as u8
        };
        let text: Vec<u8> = (0..CHUNK_WINDOWS * 2 + 77).map(|_| letter()).collect();
        let (size, mut found) = (20, Vec::new());
        anchors(&text, 0, size, &mut found);
        let hashes: Vec<u64> = rolling(&text, seed_len(size)).collect();
        let places = size - seed_len(size) + 1;
        let least = |at: usize| (at..at + places).min_by_key(|&at| hashes[at]).unwrap() as u32;
        let mut wanted: Vec<u32> = (0..=text.len() - size).map(least).collect();
        wanted.dedup();
        assert_eq!(found.iter().map(|anchor| anchor.position).collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn key_partitions_in_any_order_give_the_same_spans() {
        let texts: Vec<String> =
            (0..30).map(|n| format!("{n} {} {n}", "the miller's tale ".repeat(1 + n % 3))).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (mut all, mut repeats) = (Vec::new(), vec![Vec::new(); texts.len()]);
        texts.iter().enumerate().for_each(|(n, text)| anchors(text.as_bytes(), n as u32, 16, &mut all));
        for partition in (0..5).rev() {
            let mut part: Vec<Anchor> = all.iter().copied().filter(|anchor| anchor.key % 5 == partition).collect();
            nominate(&mut part);
            let (mut verifier, mut found) = (SpanVerifier::new(16), Vec::new());
            for anchor in part {
                let text = texts[anchor.document as usize].as_bytes();
                verifier.push(anchor, &text[surroundings(anchor.position, text.len(), 16)], &mut found);
            }
            found.into_iter().for_each(|repeat| repeats[repeat.document as usize].push(repeat));
        }
        let spans: Vec<_> = texts.iter().zip(&mut repeats).map(|(text, repeats)| merge_spans(text, repeats)).collect();
        assert_eq!(spans, repeated_spans(&texts, 16));
        assert_eq!(size_of::<Anchor>(), 16);
        assert_eq!(SpanConfig::default().check(), Ok(()));
        assert!(SpanConfig { min_bytes: 7, min_words: None }.check().is_err());
    }
}
