//! fastText's file format, `.bin` and `.ftz`.
//!
//! In: the bytes of a supervised model, format version 11 or 12. Out: `ModelFile`, checked so that scoring cannot reach outside of
//! it: every length is compared with the bytes left before anything is allocated. Leaves scoring to `classifier.rs`.
//! Format: fastText 0.9.2. The crate `fasttext` 0.8, which trains our models, aborts on a header that lies about its sizes.

use super::LanguageError;
use super::ngrams::MAX_N;

const MAGIC: i32 = 793_712_314;
/// Codes per sub-quantizer: one byte each.
const CENTROIDS: usize = 256;
/// Buckets beyond this would need more than 16 MiB for the marks of a pruned model. lid.176 and GlotLID have 1 to 2 million.
const MAX_BUCKETS: usize = 1 << 26;
/// Columns per code beyond this would let a small file grow more than 64-fold in memory. fastText's default is 2.
const MAX_PART: usize = 16;
/// Longest word n-gram: time grows with it.
const MAX_WORD_NGRAMS: usize = 32;

/// How scores become probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Loss {
    /// One logistic unit per inner node of a Huffman tree over the labels.
    HierarchicalSoftmax,
    /// Negative sampling and one-vs-all: an independent logistic unit per label.
    Logistic,
    /// One distribution over all labels.
    Softmax,
}

/// A model file taken apart. Quantised matrices are expanded to f32.
pub(super) struct ModelFile<'a> {
    pub header: Header,
    pub dictionary: Dictionary<'a>,
    /// The buckets that have a row, ascending, each once; `None` for a model that was not pruned: all have.
    pub kept_buckets: Option<Vec<u32>>,
    /// [rows, dim]: words, then buckets (those that are kept, in the order of `kept_buckets`). Finite.
    pub input: Vec<f32>,
    /// [labels, dim] (hierarchical softmax: inner nodes of the tree).
    pub output: Vec<f32>,
}

impl<'a> ModelFile<'a> {
    /// Reads a model file's bytes; what follows the model is ignored.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, LanguageError> {
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
        if outputs != dictionary.label_names.len() {
            return Err(LanguageError::Damaged { what: "output matrix: rows differ from the number of labels" });
        }
        if !input.iter().chain(&output).all(|value| value.is_finite()) {
            return Err(LanguageError::Damaged { what: "matrix: a value is not finite" });
        }
        let (kept_buckets, input) = dictionary.in_bucket_order(&header, rows, input)?;
        Ok(Self { header, dictionary, kept_buckets, input, output })
    }
}

/// The settings that scoring needs.
pub(super) struct Header {
    pub dim: usize,
    pub word_ngrams: usize,
    pub loss: Loss,
    pub buckets: usize,
    pub min_n: usize,
    /// 0: no character n-grams.
    pub max_n: usize,
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
        let in_range = header.dim > 0
            && header.buckets <= MAX_BUCKETS
            && header.max_n <= MAX_N
            && header.word_ngrams <= MAX_WORD_NGRAMS;
        if !in_range {
            return Err(LanguageError::Damaged { what: "settings: a size out of range" });
        }
        Ok(header)
    }
}

/// Words and labels in the file's order.
pub(super) struct Dictionary<'a> {
    pub words: Vec<&'a [u8]>,
    /// At least one.
    pub label_names: Vec<&'a [u8]>,
    /// How often each label occurred in training, in descending order if fastText wrote the file.
    pub label_counts: Vec<i64>,
    /// (bucket, row after the words' rows) in the file's order; `None` for a model that was not pruned.
    pruned: Option<Vec<(u32, u32)>>,
}

impl<'a> Dictionary<'a> {
    fn read(reader: &mut Reader<'a>, header: &Header) -> Result<Self, LanguageError> {
        let size = reader.i32("dictionary")?;
        let n_words = reader.i32("dictionary")?;
        let n_labels = reader.i32("dictionary")?;
        reader.take(8, "dictionary")?; // tokens seen in training
        let pruned = reader.i64("dictionary")?;
        if n_words < 0 || n_labels < 1 || i64::from(size) != i64::from(n_words) + i64::from(n_labels) {
            return Err(LanguageError::Damaged { what: "dictionary: sizes do not add up" });
        }
        let (mut words, mut label_names, mut label_counts) = (Vec::new(), Vec::new(), Vec::new());
        for entry in 0..size {
            let word = reader.until_nul()?;
            let count = reader.i64("dictionary")?;
            let is_label = reader.u8("dictionary")? != 0;
            if is_label != (entry >= n_words) {
                return Err(LanguageError::Damaged { what: "dictionary: labels do not follow words" });
            }
            if is_label {
                label_names.push(word);
                label_counts.push(count);
            } else {
                words.push(word);
            }
        }
        let pruned = read_pruning(reader, pruned, header.buckets)?;
        Ok(Self { words, label_names, label_counts, pruned })
    }

    /// Lays the rows of kept buckets in the order of the buckets, so that counting marks finds a row. Every row that a text can
    /// reach must exist.
    fn in_bucket_order(
        &self,
        header: &Header,
        rows: usize,
        input: Vec<f32>,
    ) -> Result<(Option<Vec<u32>>, Vec<f32>), LanguageError> {
        let too_few = LanguageError::Damaged { what: "input matrix: fewer rows than words and buckets" };
        let Some(after_words) = rows.checked_sub(self.words.len()) else { return Err(too_few) };
        let Some(pruned) = &self.pruned else {
            let reads_buckets = header.max_n > 0 || header.word_ngrams > 1;
            return if reads_buckets && after_words < header.buckets { Err(too_few) } else { Ok((None, input)) };
        };
        let mut kept: Vec<(u32, usize, u32)> =
            pruned.iter().enumerate().map(|(at, &(bucket, row))| (bucket, at, row)).collect();
        kept.sort_unstable();
        // Of several entries for a bucket the last counts, as in fastText.
        let last = |pair: &[(u32, usize, u32)]| pair.len() == 1 || pair[0].0 != pair[1].0;
        let kept: Vec<(u32, u32)> = (0..kept.len())
            .filter(|&i| last(&kept[i..kept.len().min(i + 2)]))
            .map(|i| (kept[i].0, kept[i].2))
            .collect();
        if kept.len() > after_words || kept.iter().any(|&(_, row)| row as usize >= after_words) {
            return Err(too_few);
        }
        let words = self.words.len() * header.dim;
        let mut ordered = Vec::with_capacity(words + kept.len() * header.dim);
        ordered.extend_from_slice(&input[..words]);
        for &(_, row) in &kept {
            ordered.extend_from_slice(&input[words + row as usize * header.dim..][..header.dim]);
        }
        Ok((Some(kept.into_iter().map(|(bucket, _)| bucket).collect()), ordered))
    }
}

/// The map from buckets to rows that are left. -1: not pruned; 0: no bucket is left.
fn read_pruning(reader: &mut Reader, pairs: i64, buckets: usize) -> Result<Option<Vec<(u32, u32)>>, LanguageError> {
    if pairs < 0 {
        return Ok(None);
    }
    let mut rows = Vec::new();
    for _ in 0..pairs {
        let bucket = reader.i32("pruning table")?;
        let row = reader.i32("pruning table")?;
        match (usize::try_from(bucket), u32::try_from(row)) {
            (Ok(bucket), Ok(row)) if bucket < buckets => rows.push((bucket as u32, row)),
            _ => return Err(LanguageError::Damaged { what: "pruning table: an entry out of range" }),
        }
    }
    Ok(Some(rows))
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
        if usize::try_from(stored) != Ok(dim)
            || !(1..=MAX_PART).contains(&part)
            || usize::try_from(parts) != Ok(dim.div_ceil(part))
        {
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
