//! A fastText classifier at rest: reads `.bin` and `.ftz` files and scores texts.
//!
//! In: the bytes of a supervised fastText model (format version 11 or 12), then texts. Out: the best label and its probability.
//! Leaves to `mod.rs` what the labels mean and to `train.rs` how a model is made.
//! Format and arithmetic: fastText 0.9.2 (Bojanowski et al. 2017, Joulin et al. 2016), with all four losses; the crate `fasttext`
//! 0.8, which trains our models, scores quantised hierarchical-softmax models (lid.176.ftz is one) as if they were plain softmax
//! and aborts on a header that lies about its sizes, so reading is done here: every length is checked against the bytes left.

use super::LanguageError;

const MAGIC: i32 = 793_712_314;
const END_OF_SENTENCE: &[u8] = b"</s>";
const LABEL_PREFIX: &[u8] = b"__label__";
/// Codes per sub-quantizer: one byte each.
const CENTROIDS: usize = 256;
/// Buckets beyond this would need more than 256 MiB for the table of a pruned model. lid.176 and GlotLID have 1 to 2 million.
const MAX_BUCKETS: usize = 1 << 26;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    HierarchicalSoftmax,
    /// Negative sampling and one-vs-all: an independent logistic unit per label.
    Logistic,
    Softmax,
}

/// A node of the Huffman tree over labels; `left`/`right` index nodes, leaves are the first `n_labels` nodes.
#[derive(Clone, Copy, Debug)]
struct Node {
    left: usize,
    right: usize,
}

/// A loaded model. Quantised matrices are expanded to f32 once, so that a text costs one row addition per n-gram.
#[derive(Debug)]
pub(super) struct Classifier {
    dim: usize,
    min_n: usize,
    max_n: usize,
    word_ngrams: usize,
    buckets: u32,
    loss: Loss,
    words: WordTable,
    labels: Vec<String>,
    /// Row of each bucket, `u32::MAX` where the row was pruned; `None` for a model that was not pruned.
    pruned_rows: Option<Vec<u32>>,
    /// [rows, dim]: words, then buckets.
    input: Vec<f32>,
    /// [labels, dim] (hierarchical softmax: inner nodes of the tree).
    output: Vec<f32>,
    tree: Vec<Node>,
}

impl Classifier {
    /// Reads a model file's bytes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, LanguageError> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.i32("magic number")? != MAGIC {
            return Err(LanguageError::NotAModel);
        }
        let version = reader.i32("version")?;
        if !(11..=12).contains(&version) {
            return Err(LanguageError::Version { version });
        }
        let header = Header::read(&mut reader, version)?;
        let dictionary = Dictionary::read(&mut reader, &header)?;
        let quantised = reader.u8("input flag")? != 0;
        let (rows, input) = reader.matrix(quantised, header.dim, "input matrix")?;
        let quantised_output = reader.u8("output flag")? != 0;
        let (outputs, output) = reader.matrix(quantised && quantised_output, header.dim, "output matrix")?;
        dictionary.check_rows(&header, rows)?;
        if outputs != dictionary.labels.len() {
            return Err(LanguageError::Damaged { what: "output matrix: rows differ from the number of labels" });
        }
        let tree = match header.loss {
            Loss::HierarchicalSoftmax => huffman(&dictionary.label_counts),
            _ => Vec::new(),
        };
        Ok(Self {
            dim: header.dim,
            min_n: header.min_n,
            max_n: header.max_n,
            word_ngrams: header.word_ngrams,
            buckets: header.buckets as u32,
            loss: header.loss,
            words: dictionary.words,
            labels: dictionary.labels,
            pruned_rows: dictionary.pruned_rows,
            input,
            output,
            tree,
        })
    }

    /// Labels in the model's own order, as the file spells them.
    pub(super) fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Index of the best label and its probability, 0..1; `None` if the text has no token; of equal ones the first. fastText prints
    /// every probability 1e-5 too high.
    pub(super) fn best(&self, text: &str) -> Option<(usize, f32)> {
        let hidden = self.hidden(text.as_bytes())?;
        let scores = self.probabilities(&hidden);
        let mut best = (0, scores[0]);
        for (label, &score) in scores.iter().enumerate().skip(1) {
            if score > best.1 {
                best = (label, score);
            }
        }
        Some((best.0, best.1.min(1.0)))
    }

    /// Mean of the rows of all words and n-grams of the text: [dim]. `None` without a token.
    fn hidden(&self, text: &[u8]) -> Option<Vec<f32>> {
        let mut sum = Sum { total: vec![0.0; self.dim], rows: 0 };
        let mut hashes = Vec::new();
        let mut marked = Vec::new();
        for token in text.split(|&byte| is_space(byte)).filter(|token| !token.is_empty()) {
            let hash = fnv(token);
            let word = self.words.find(token, hash);
            if word.is_none() && token.starts_with(LABEL_PREFIX) {
                continue;
            }
            if let Some(word) = word {
                sum.add(&self.input, word);
            }
            if token == END_OF_SENTENCE {
                break;
            }
            if self.max_n > 0 && self.buckets > 0 {
                marked.clear();
                marked.push(b'<');
                marked.extend_from_slice(token);
                marked.push(b'>');
                self.add_ngrams(&marked, &mut sum);
            }
            if self.word_ngrams > 1 {
                hashes.push(hash);
            }
        }
        self.add_word_ngrams(&hashes, &mut sum);
        if sum.rows == 0 {
            return None;
        }
        if let Some(end) = self.words.find(END_OF_SENTENCE, fnv(END_OF_SENTENCE)) {
            sum.add(&self.input, end);
        }
        let scale = 1.0 / sum.rows as f32;
        sum.total.iter_mut().for_each(|value| *value *= scale);
        Some(sum.total)
    }

    /// Adds the rows of all character n-grams of `<token>`; the markers alone are no 1-gram.
    fn add_ngrams(&self, marked: &[u8], sum: &mut Sum) {
        let is_start = |at: usize| marked[at] & 0xC0 != 0x80;
        for start in (0..marked.len()).filter(|&at| is_start(at)) {
            let (mut hash, mut end) = (FNV_OFFSET, start);
            for n in 1..=self.max_n {
                if end == marked.len() {
                    break;
                }
                hash = fnv_step(hash, marked[end]);
                end += 1;
                while end < marked.len() && !is_start(end) {
                    hash = fnv_step(hash, marked[end]);
                    end += 1;
                }
                let marker_alone = n == 1 && (start == 0 || end == marked.len());
                if n >= self.min_n && !marker_alone {
                    self.add_bucket(hash % self.buckets, sum);
                }
            }
        }
    }

    fn add_word_ngrams(&self, hashes: &[u32], sum: &mut Sum) {
        if self.word_ngrams < 2 || self.buckets == 0 {
            return;
        }
        let widen = |hash: u32| i64::from(hash as i32) as u64; // fastText keeps word hashes as i32
        for first in 0..hashes.len() {
            let mut hash = widen(hashes[first]);
            for &next in &hashes[first + 1..hashes.len().min(first + self.word_ngrams)] {
                hash = hash.wrapping_mul(116_049_371).wrapping_add(widen(next));
                self.add_bucket((hash % u64::from(self.buckets)) as u32, sum);
            }
        }
    }

    fn add_bucket(&self, bucket: u32, sum: &mut Sum) {
        let row = match &self.pruned_rows {
            None => bucket,
            Some(rows) => match rows[bucket as usize] {
                u32::MAX => return,
                row => row,
            },
        };
        sum.add(&self.input, self.words.len() + row as usize);
    }

    /// hidden: [dim] -> probability of each label: [labels].
    fn probabilities(&self, hidden: &[f32]) -> Vec<f32> {
        let mut scores: Vec<f32> =
            self.output.chunks_exact(self.dim).map(|row| row.iter().zip(hidden).map(|(a, b)| a * b).sum()).collect();
        match self.loss {
            Loss::Softmax => {
                let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let mut total = 0.0;
                for score in &mut scores {
                    *score = (*score - highest).exp();
                    total += *score;
                }
                scores.iter_mut().for_each(|score| *score /= total);
            }
            Loss::Logistic => scores.iter_mut().for_each(|score| *score = tabulated_sigmoid(*score)),
            Loss::HierarchicalSoftmax => return self.tree_probabilities(&scores),
        }
        scores
    }

    /// Walks the Huffman tree; `inner[i]` is the score of inner node i. Adds 1e-5 inside the logarithm as fastText does.
    fn tree_probabilities(&self, inner: &[f32]) -> Vec<f32> {
        let n_labels = self.labels.len();
        let mut found = vec![0.0; n_labels];
        let mut pending = vec![(self.tree.len() - 1, 0.0_f32)];
        while let Some((node, log_probability)) = pending.pop() {
            if node < n_labels {
                found[node] = log_probability.exp();
                continue;
            }
            let right = 1.0 / (1.0 + (-inner[node - n_labels]).exp());
            pending.push((self.tree[node].left, log_probability + (1.0 - right + 1e-5).ln()));
            pending.push((self.tree[node].right, log_probability + (right + 1e-5).ln()));
        }
        found
    }
}

struct Sum {
    total: Vec<f32>,
    rows: usize,
}

impl Sum {
    fn add(&mut self, matrix: &[f32], row: usize) {
        let dim = self.total.len();
        for (total, value) in self.total.iter_mut().zip(&matrix[row * dim..(row + 1) * dim]) {
            *total += value;
        }
        self.rows += 1;
    }
}

/// fastText splits on these seven bytes and on nothing else: a no-break space is part of a word.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | 0x0B | 0x0C | 0)
}

const FNV_OFFSET: u32 = 2_166_136_261;

/// fastText's FNV-1a over *signed* bytes.
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(FNV_OFFSET, |hash, &byte| fnv_step(hash, byte))
}

fn fnv_step(hash: u32, byte: u8) -> u32 {
    (hash ^ i32::from(byte as i8) as u32).wrapping_mul(16_777_619)
}

/// fastText's logistic function: a table of 512 steps over -8..8.
fn tabulated_sigmoid(x: f32) -> f32 {
    if x < -8.0 {
        0.0
    } else if x > 8.0 {
        1.0
    } else {
        let step = ((x + 8.0) * 512.0 / 8.0 / 2.0) as i32;
        1.0 / (1.0 + (-(step as f32 * 2.0 * 8.0 / 512.0 - 8.0)).exp())
    }
}

/// The Huffman tree over label counts in descending order, by two queues, in fastText's node order.
fn huffman(counts: &[i64]) -> Vec<Node> {
    const UNSET: i64 = 1_000_000_000_000_000;
    let n_labels = counts.len();
    let nodes = 2 * n_labels - 1;
    let mut tree = vec![Node { left: 0, right: 0 }; nodes];
    let mut weights: Vec<i64> = counts.iter().map(|&count| count.clamp(0, UNSET - 1)).collect();
    weights.resize(nodes + 1, UNSET);
    let (mut leaf, mut node) = (n_labels, n_labels);
    for inner in n_labels..nodes {
        let mut next = || {
            if leaf > 0 && weights[leaf - 1] < weights[node] {
                leaf -= 1;
                leaf
            } else {
                node += 1;
                node - 1
            }
        };
        let (left, right) = (next(), next());
        tree[inner] = Node { left, right };
        weights[inner] = weights[left].saturating_add(weights[right]);
    }
    tree
}

struct Header {
    dim: usize,
    word_ngrams: usize,
    loss: Loss,
    buckets: usize,
    min_n: usize,
    max_n: usize,
}

impl Header {
    fn read(reader: &mut Reader, version: i32) -> Result<Self, LanguageError> {
        let mut fields = [0_i32; 12];
        for field in &mut fields {
            *field = reader.i32("settings")?;
        }
        reader.take(8, "settings")?; // the sampling threshold, a double
        let [dim, _, _, _, _, word_ngrams, loss, model, buckets, min_n, max_n, _] = fields;
        if model != 3 {
            return Err(LanguageError::NotAClassifier);
        }
        let loss = match loss {
            1 => Loss::HierarchicalSoftmax,
            2 | 4 => Loss::Logistic,
            3 => Loss::Softmax,
            _ => return Err(LanguageError::Damaged { what: "settings: unknown loss" }),
        };
        let count =
            |value: i32| usize::try_from(value).map_err(|_| LanguageError::Damaged { what: "settings: negative size" });
        let header = Self {
            dim: count(dim)?,
            word_ngrams: count(word_ngrams)?,
            loss,
            buckets: count(buckets)?,
            min_n: count(min_n)?,
            max_n: if version == 11 { 0 } else { count(max_n)? }, // as fastText: version 11 had no character n-grams here
        };
        if header.dim == 0 || header.buckets > MAX_BUCKETS || header.max_n > 100 {
            return Err(LanguageError::Damaged { what: "settings: a size out of range" });
        }
        Ok(header)
    }
}

struct Dictionary {
    words: WordTable,
    labels: Vec<String>,
    label_counts: Vec<i64>,
    pruned_rows: Option<Vec<u32>>,
    kept_buckets: usize,
}

impl Dictionary {
    fn read(reader: &mut Reader, header: &Header) -> Result<Self, LanguageError> {
        let size = reader.i32("dictionary")?;
        let n_words = reader.i32("dictionary")?;
        let n_labels = reader.i32("dictionary")?;
        reader.take(8, "dictionary")?; // tokens seen in training
        let pruned = reader.i64("dictionary")?;
        if n_words < 0 || n_labels < 1 || i64::from(size) != i64::from(n_words) + i64::from(n_labels) {
            return Err(LanguageError::Damaged { what: "dictionary: sizes do not add up" });
        }
        let mut words = Vec::new();
        let (mut labels, mut label_counts) = (Vec::new(), Vec::new());
        for entry in 0..size {
            let word = reader.until_nul()?;
            let count = reader.i64("dictionary")?;
            let is_label = reader.u8("dictionary")? != 0;
            if is_label != (entry >= n_words) {
                return Err(LanguageError::Damaged { what: "dictionary: labels do not follow words" });
            }
            if is_label {
                labels.push(String::from_utf8_lossy(word).into_owned());
                label_counts.push(count);
            } else {
                words.push(word);
            }
        }
        let (pruned_rows, kept_buckets) = read_pruning(reader, pruned, header.buckets)?;
        Ok(Self { words: WordTable::new(&words), labels, label_counts, pruned_rows, kept_buckets })
    }

    /// Every row that a text can reach must exist.
    fn check_rows(&self, header: &Header, rows: usize) -> Result<(), LanguageError> {
        let buckets = if self.pruned_rows.is_some() { self.kept_buckets } else { header.buckets };
        let reads_buckets = header.max_n > 0 || header.word_ngrams > 1;
        if rows < self.words.len() + if reads_buckets { buckets } else { 0 } {
            return Err(LanguageError::Damaged { what: "input matrix: fewer rows than words and buckets" });
        }
        Ok(())
    }
}

/// The map from buckets to rows that are left, and one more than the highest row. -1: not pruned; 0: no bucket is left.
fn read_pruning(reader: &mut Reader, pairs: i64, buckets: usize) -> Result<(Option<Vec<u32>>, usize), LanguageError> {
    if pairs < 0 {
        return Ok((None, 0));
    }
    let mut rows = vec![u32::MAX; buckets];
    let mut kept = 0;
    for _ in 0..pairs {
        let bucket = reader.i32("pruning table")?;
        let row = reader.i32("pruning table")?;
        let slot = usize::try_from(bucket).ok().and_then(|bucket| rows.get_mut(bucket));
        let (Some(slot), Ok(row)) = (slot, u32::try_from(row)) else {
            return Err(LanguageError::Damaged { what: "pruning table: an entry out of range" });
        };
        *slot = row;
        kept = kept.max(row as usize + 1);
    }
    Ok((Some(rows), kept))
}

/// Words by hash, open addressing over one block of text.
#[derive(Debug)]
struct WordTable {
    text: Vec<u8>,
    /// End of each word in `text`.
    ends: Vec<usize>,
    /// Word index + 1; 0 is an empty slot. Length is a power of two, at most half full.
    slots: Vec<u32>,
}

impl WordTable {
    fn new(words: &[&[u8]]) -> Self {
        let slots = vec![0; (2 * words.len() + 1).next_power_of_two()];
        let mut table = Self { text: words.concat(), ends: Vec::with_capacity(words.len()), slots };
        let mut end = 0;
        for (index, word) in words.iter().enumerate() {
            end += word.len();
            table.ends.push(end);
            let mut slot = fnv(word) as usize & (table.slots.len() - 1);
            while table.slots[slot] != 0 {
                slot = (slot + 1) & (table.slots.len() - 1);
            }
            table.slots[slot] = index as u32 + 1;
        }
        table
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn find(&self, word: &[u8], hash: u32) -> Option<usize> {
        let mut slot = hash as usize & (self.slots.len() - 1);
        loop {
            let index = (self.slots[slot] as usize).checked_sub(1)?;
            let start = if index == 0 { 0 } else { self.ends[index - 1] };
            if &self.text[start..self.ends[index]] == word {
                return Some(index);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }
}

/// A cursor that never reads past the end and never allocates what the file cannot hold.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], LanguageError> {
        let end =
            self.at.checked_add(count).filter(|&end| end <= self.bytes.len()).ok_or(LanguageError::Damaged { what })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], LanguageError> {
        Ok(self.take(N, what)?.try_into().expect("take returns the length it was asked for"))
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, LanguageError> {
        Ok(self.array::<1>(what)?[0])
    }

    fn i32(&mut self, what: &'static str) -> Result<i32, LanguageError> {
        Ok(i32::from_le_bytes(self.array(what)?))
    }

    fn i64(&mut self, what: &'static str) -> Result<i64, LanguageError> {
        Ok(i64::from_le_bytes(self.array(what)?))
    }

    fn size(&mut self, what: &'static str) -> Result<usize, LanguageError> {
        usize::try_from(self.i64(what)?).map_err(|_| LanguageError::Damaged { what })
    }

    fn floats(&mut self, count: usize, what: &'static str) -> Result<Vec<f32>, LanguageError> {
        let bytes = self.take(count.checked_mul(4).ok_or(LanguageError::Damaged { what })?, what)?;
        Ok(bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect())
    }

    fn until_nul(&mut self) -> Result<&'a [u8], LanguageError> {
        let what = "dictionary: a word without an end";
        let rest = &self.bytes[self.at..];
        let length = memchr::memchr(0, rest).ok_or(LanguageError::Damaged { what })?;
        self.at += length + 1;
        Ok(&rest[..length])
    }

    /// Rows and values of a dense or quantised matrix of `dim` columns.
    fn matrix(&mut self, quantised: bool, dim: usize, what: &'static str) -> Result<(usize, Vec<f32>), LanguageError> {
        let damaged = LanguageError::Damaged { what };
        let has_norms = quantised && self.u8(what)? != 0;
        let rows = self.size(what)?;
        if self.size(what)? != dim {
            return Err(damaged);
        }
        let values = rows.checked_mul(dim).ok_or(LanguageError::Damaged { what })?;
        if !quantised {
            return Ok((rows, self.floats(values, what)?));
        }
        let code_bytes = usize::try_from(self.i32(what)?).map_err(|_| LanguageError::Damaged { what })?;
        let codes = self.take(code_bytes, what)?;
        let quantizer = Quantizer::read(self, dim, what)?;
        if rows.checked_mul(quantizer.parts()) != Some(code_bytes) {
            return Err(damaged);
        }
        let mut matrix = quantizer.expand(codes);
        if has_norms {
            let norm_codes = self.take(rows, what)?;
            let norms = Quantizer::read(self, 1, what)?.expand(norm_codes);
            for (row, norm) in matrix.chunks_exact_mut(dim).zip(norms) {
                row.iter_mut().for_each(|value| *value *= norm);
            }
        }
        Ok((rows, matrix))
    }
}

/// A product quantizer: each run of `part` columns is one of 256 centroids (Jégou et al. 2011).
struct Quantizer {
    dim: usize,
    part: usize,
    centroids: Vec<f32>,
}

impl Quantizer {
    fn read(reader: &mut Reader, dim: usize, what: &'static str) -> Result<Self, LanguageError> {
        let stored = reader.i32(what)?;
        let parts = reader.i32(what)?;
        let part = usize::try_from(reader.i32(what)?).unwrap_or(0);
        reader.take(4, what)?; // width of the last part
        if usize::try_from(stored) != Ok(dim) || part == 0 || usize::try_from(parts) != Ok(dim.div_ceil(part)) {
            return Err(LanguageError::Damaged { what });
        }
        let centroids = reader.floats(dim.checked_mul(CENTROIDS).ok_or(LanguageError::Damaged { what })?, what)?;
        Ok(Self { dim, part, centroids })
    }

    fn parts(&self) -> usize {
        self.dim.div_ceil(self.part)
    }

    /// codes: [rows, parts] -> [rows, dim].
    fn expand(&self, codes: &[u8]) -> Vec<f32> {
        let mut matrix = Vec::with_capacity(codes.len() / self.parts() * self.dim);
        for row in codes.chunks_exact(self.parts()) {
            for (part, &code) in row.iter().enumerate() {
                let width = self.part.min(self.dim - part * self.part);
                let start = part * CENTROIDS * self.part + usize::from(code) * width;
                matrix.extend_from_slice(&self.centroids[start..start + width]);
            }
        }
        matrix
    }
}
