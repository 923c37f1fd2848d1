//! A loaded fastText classifier: text in, best label out.
//!
//! In: a `ModelFile`, then texts, whole or by paragraph. Out: the index of the best label and its probability. Immutable, for any number of
//! threads; what they need while they work is kept in a pool, so that a cache once warm stays warm.
//! Leaves to `format.rs` the file, to `hidden.rs` and `output.rs` the arithmetic, to `mod.rs` what labels mean, to `train.rs` how a model is
//! made. Bojanowski et al. 2017, Joulin et al. 2016, fastText 0.9.2. The crate `fasttext` 0.8, which trains our models, scores quantised
//! hierarchical-softmax models as if they were plain softmax and sums in an order that depends on the processor.

use std::sync::Mutex;

use super::LanguageError;
use super::format::ModelFile;
use super::hidden::{Hidden, Scratch, Total, is_blank};
use super::ngrams::{Buckets, CharNgrams};
use super::output::Output;

/// The label's index and its probability, 0..1.
pub(super) type Best = (usize, f32);

#[derive(Debug)]
pub(super) struct Classifier {
    dim: usize,
    labels: Vec<String>,
    hidden: Hidden,
    output: Output,
    /// As many as there have been threads at once, 3 to 5 MB each.
    pool: Mutex<Vec<Workspace>>,
}

#[derive(Debug)]
struct Workspace {
    scratch: Scratch,
    total: Total,
    /// [dim]
    mean: Vec<f32>,
    /// [labels]
    scores: Vec<f32>,
}

impl Classifier {
    /// Reads a model file's bytes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, LanguageError> {
        let ModelFile { header, dictionary, kept_buckets, input, output } = ModelFile::read(bytes)?;
        let buckets = Buckets::new(header.buckets as u32, dictionary.words.len() as u32, kept_buckets.as_deref());
        let ngrams = CharNgrams { min_n: header.min_n, max_n: header.max_n, buckets };
        let entries: Vec<&[u8]> = dictionary.words.iter().chain(&dictionary.label_names).copied().collect();
        let n_words = dictionary.words.len();
        let hidden = Hidden::new(input, header.dim, header.word_ngrams, entries.into_iter(), n_words, ngrams);
        let output = Output::new(header.loss, &output, header.dim, &dictionary.label_counts);
        let labels = dictionary.label_names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        Ok(Self { dim: header.dim, labels, hidden, output, pool: Mutex::default() })
    }

    /// Labels in the model's own order, as the file spells them.
    pub(super) fn labels(&self) -> &[String] {
        &self.labels
    }

    #[cfg(test)]
    pub(super) fn narrow(self) -> Self {
        Self { hidden: self.hidden.narrow(), output: self.output.narrow(), ..self }
    }

    /// The best label of a text as fastText reports it for a line; `None` if the text has no token, or a model without a row for the
    /// end of a line has no row for any of it.
    pub(super) fn best(&self, text: &str) -> Option<Best> {
        self.with_workspace(|work| {
            work.total.clear();
            self.hidden.add(text, &mut work.scratch, &mut work.total);
            self.finish_total(is_blank(text), work)
        })
    }

    /// The best label of all parts joined by a space, and of each part; a part whose `wanted` is false counts only for the whole.
    pub(super) fn best_of_parts<'t>(
        &self,
        parts: impl Iterator<Item = (&'t str, bool)> + Clone,
    ) -> (Option<Best>, Vec<Option<Best>>) {
        let mut whole = Total::new(self.dim);
        let mut found = Vec::new();
        let (mut blank, mut ended) = (true, false);
        for (part, wanted) in parts.clone() {
            self.with_workspace(|work| {
                work.total.clear();
                let read = self.hidden.add(part, &mut work.scratch, &mut work.total);
                if !ended {
                    whole.add_total(&work.total);
                }
                ended |= read < part.len();
                blank &= is_blank(part);
                found.push(self.finish_total(!wanted || is_blank(part), work));
            });
        }
        if self.hidden.joins_words() {
            // Word n-grams reach from part to part, so such a model reads the text a second time for the whole.
            let joined: Vec<&str> = parts.map(|(part, _)| part).collect();
            return (self.best(&joined.join(" ")), found);
        }
        let best = self.with_workspace(|work| {
            std::mem::swap(&mut work.total, &mut whole);
            self.finish_total(blank, work)
        });
        (best, found)
    }

    /// Adds what the end of a text adds to `work.total` and scores it, unless the text is blank.
    fn finish_total(&self, blank: bool, work: &mut Workspace) -> Option<Best> {
        self.hidden.finish(&mut work.scratch, &mut work.total);
        if blank {
            return None;
        }
        self.hidden.mean(&work.total, &mut work.mean)?;
        Some(self.output.best(&work.mean, &mut work.scores))
    }

    fn with_workspace<R>(&self, body: impl FnOnce(&mut Workspace) -> R) -> R {
        let pooled = || self.pool.lock().expect("no thread panics while it holds the pool");
        let taken = pooled().pop();
        let mut work = taken.unwrap_or_else(|| Workspace {
            scratch: self.hidden.scratch(),
            total: Total::new(self.dim),
            mean: Vec::new(),
            scores: Vec::new(),
        });
        let result = body(&mut work);
        pooled().push(work);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::super::BUILTIN;
    use super::*;
    use fasttext::FastText;
    use fasttext::args::{Args, LossName};

    fn trained(loss: LossName, dim: i32, word_ngrams: i32) -> FastText {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        for i in 0..300 {
            let (label, word) = [("de", "haus"), ("fr", "maison"), ("es", "casa"), ("ru", "дом")][(i % 7) % 4];
            std::io::Write::write_all(&mut file, format!("__label__{label} {word} {word}{}\n", i % 9).as_bytes())
                .expect("a line is written");
        }
        let mut args = Args::new();
        args.apply_supervised_defaults();
        (args.input, args.loss, args.thread, args.dim) = (file.path().to_owned(), loss, 1, dim);
        (args.minn, args.maxn, args.bucket, args.epoch, args.verbose) = (2, 3, 1000, 3, 0);
        args.word_ngrams = word_ngrams;
        FastText::train(args).expect("the rows train")
    }

    fn bytes_of(model: &FastText) -> Vec<u8> {
        let mut bytes = Vec::new();
        model.save(&mut bytes).expect("a vector takes every byte");
        bytes
    }

    #[test]
    fn softmax_and_the_huffman_tree_agree_with_the_library_on_dense_models() {
        for (loss, dim) in [(LossName::Softmax, 8), (LossName::HierarchicalSoftmax, 8), (LossName::Softmax, 33)] {
            let theirs = trained(loss, dim, 1);
            let ours = Classifier::from_bytes(&bytes_of(&theirs)).expect("its own bytes can be read");
            for text in ["haus", "la casa", "дом maison haus", "unbekannt"] {
                let expected = &theirs.predict(text, 1, 0.0)[0];
                let (label, score) = ours.best(text).expect("the text has words");
                assert_eq!(ours.labels()[label], expected.label, "{text} {loss:?}");
                assert!((score - expected.prob.min(1.0)).abs() < 1e-5, "{text} {loss:?} {score} {}", expected.prob);
            }
        }
    }

    /// Sentences of several scripts, joined to texts of every length.
    fn texts() -> Vec<String> {
        let words = "The server writes каждый запрос в журнал サーバーは応答する前に、すべての要求を haus \
            Ο διακομιστής γράφει सर्वर उत्तर देने से पहले हर अनुरोध को एक लॉग फ़ाइल में Rindfleischetikettierungsüberwachung";
        let words: Vec<&str> = words.split(' ').collect();
        (0..400)
            .map(|i| (0..=i % 37).map(|j| words[(i * 7 + j * j) % words.len()]).collect::<Vec<_>>().join(" "))
            .collect()
    }

    fn same_bits(one: Option<Best>, other: Option<Best>) -> bool {
        one.map(|best| (best.0, best.1.to_bits())) == other.map(|best| (best.0, best.1.to_bits()))
    }

    #[test]
    fn the_avx2_build_and_the_plain_one_give_the_same_bits() {
        let mut models = vec![BUILTIN.to_vec()];
        for (loss, dim) in [(LossName::HierarchicalSoftmax, 16), (LossName::OneVsAll, 10), (LossName::Softmax, 33)] {
            models.push(bytes_of(&trained(loss, dim, 2)));
        }
        for bytes in models {
            let wide = Classifier::from_bytes(&bytes).expect("the model can be read");
            let narrow = Classifier::from_bytes(&bytes).expect("the model can be read").narrow();
            for text in texts() {
                assert!(same_bits(wide.best(&text), narrow.best(&text)), "{text}");
            }
        }
    }

    #[test]
    fn what_was_read_before_does_not_change_a_bit() {
        let warm = Classifier::from_bytes(BUILTIN).expect("the model can be read");
        let texts = texts();
        for text in texts.iter().chain(texts.iter().rev()) {
            warm.best(text);
        }
        for text in texts.iter().step_by(29) {
            let cold = Classifier::from_bytes(BUILTIN).expect("the model can be read");
            assert!(same_bits(warm.best(text), cold.best(text)), "{text}");
        }
    }

    #[test]
    fn parts_and_whole_agree_with_reading_each_alone() {
        for bytes in [BUILTIN.to_vec(), bytes_of(&trained(LossName::Softmax, 8, 3))] {
            let model = Classifier::from_bytes(&bytes).expect("the model can be read");
            for parts in [vec!["haus maison", " ", "la casa"], vec!["ein </s> wort", "дом"], vec![], vec!["\t"]] {
                let (whole, found) = model.best_of_parts(parts.iter().map(|part| (*part, true)));
                assert!(same_bits(whole, model.best(&parts.join(" "))), "{parts:?}");
                for (part, best) in parts.iter().zip(found) {
                    assert!(same_bits(best, model.best(part)), "{part}");
                }
            }
        }
    }
}
