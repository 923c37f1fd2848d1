//! Tokenizers of others that are not byte-level BPE: Unigram and WordPiece models in `tokenizer.json`.
//!
//! In: the bytes of a `tokenizer.json`, then texts. Out: ids equal to those of Hugging Face `tokenizers` without the special
//! tokens that its post-processor adds. For scoring and distilling from models of others; gristmill trains byte-level BPE
//! alone. Steps that are not known are refused by name, among them SentencePiece's precompiled normaliser. Unigram: Kudo 2018;
//! WordPiece: Schuster and Nakajima 2012, as in BERT (Devlin et al. 2019).

mod steps;
mod unigram;
mod wordpiece;

use serde::Deserialize;
use serde_json::Value;

use crate::{
    TokenizerError,
    added::Added,
    json::{Entry, read_added},
};
use steps::{Normalizer, PreTokenizer};
use unigram::Unigram;
use wordpiece::WordPiece;

/// A loaded tokenizer.
pub struct Foreign {
    normalizer: Normalizer,
    pre_tokenizer: PreTokenizer,
    model: Model,
    added: Added,
}

enum Model {
    Unigram(Unigram),
    WordPiece(WordPiece),
}

fn unsupported(field: &'static str, found: &Value, expected: &'static str) -> TokenizerError {
    TokenizerError::Unsupported { field, found: found.to_string(), expected }
}

fn inconsistent(what: impl Into<String>) -> TokenizerError {
    TokenizerError::Inconsistent { what: what.into() }
}

impl Foreign {
    /// Reads the bytes of a `tokenizer.json`.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let file: Value = serde_json::from_slice(bytes)?;
        let normalizer = Normalizer::read(&file["normalizer"])?;
        let model = &file["model"];
        let model = match model["type"].as_str() {
            Some("Unigram") => Model::Unigram(Unigram::read(model)?),
            Some("WordPiece") => Model::WordPiece(WordPiece::read(model)?),
            _ => return Err(unsupported("model.type", &model["type"], "Unigram or WordPiece (`Tokenizer` reads BPE)")),
        };
        let added: Vec<Entry> = match &file["added_tokens"] {
            Value::Null => Vec::new(),
            list => Vec::deserialize(list)?,
        };
        let added = added.into_iter().map(read_added).collect::<Result<Vec<_>, _>>()?;
        let added = Added::searching(added, |text| normalizer.apply(text));
        Ok(Self { pre_tokenizer: PreTokenizer::read(&file["pre_tokenizer"])?, normalizer, model, added })
    }

    /// Ids of a text in which the texts of added tokens are these tokens.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut out = Vec::new();
        for (range, token) in self.added.find(text, false) {
            if let Some(token) = token {
                out.push(token.id);
                continue;
            }
            let first = range.start == 0;
            let part = self.normalizer.apply(&text[range]);
            for (range, token) in self.added.find(&part, true) {
                match token {
                    Some(token) => out.push(token.id),
                    None => {
                        let first = first && range.start == 0;
                        for piece in self.pre_tokenizer.pieces(&part[range], first) {
                            self.encode_piece(&piece, &mut out);
                        }
                    }
                }
            }
        }
        out
    }

    fn encode_piece(&self, piece: &str, out: &mut Vec<u32>) {
        match &self.model {
            Model::Unigram(model) => model.encode(piece, out),
            Model::WordPiece(model) => model.encode(piece, out),
        }
    }

    /// A token as the file writes it, or `None` for an id that does not exist.
    pub fn token(&self, id: u32) -> Option<&str> {
        let added = self.added.tokens.iter().find(|token| token.id == id).map(|token| token.text.as_str());
        added.or_else(|| match &self.model {
            Model::Unigram(model) => model.token(id),
            Model::WordPiece(model) => model.token(id),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::{
        AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
        Tokenizer as Theirs, TokenizerImpl,
        models::{
            unigram::{Unigram, UnigramTrainerBuilder},
            wordpiece::{WordPiece, WordPieceTrainerBuilder},
        },
        normalizers::{BertNormalizer, Lowercase, NFKC, Replace, Sequence, Strip, StripAccents},
        pre_tokenizers::{
            bert::BertPreTokenizer,
            metaspace::{Metaspace, PrependScheme},
            whitespace::{Whitespace, WhitespaceSplit},
        },
    };

    use super::*;

    type Trainable =
        TokenizerImpl<ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

    const TEXTS: [&str; 3] = [
        include_str!("../fixtures/shakespeare.txt"),
        include_str!("../fixtures/multilingual.txt"),
        include_str!("../fixtures/peps.txt"),
    ];

    fn beginning(text: &str) -> &str {
        text.char_indices().nth(15_000).map_or(text, |(end, _)| &text[..end])
    }

    fn assert_equal(file: &str) {
        let (ours, theirs) = (Foreign::from_json(file.as_bytes()).unwrap(), Theirs::from_bytes(file).unwrap());
        let their_ids = |text: &str| theirs.encode_fast(text, false).unwrap().get_ids().to_vec();
        for text in TEXTS {
            for line in text.lines() {
                assert_eq!(ours.encode(line), their_ids(line), "{line:?}");
            }
        }
        let uniform = |code: u32| matches!(code, 0x3400..=0x9fff | 0xac00..=0xd7a3 | 0xe000..=0xf8ff | 0x1_7000..=0x1_8cff | 0x2_0000..);
        let scalars: Vec<char> =
            (0..=0x10_ffff).filter(|&c| !uniform(c) || c.is_multiple_of(97)).filter_map(char::from_u32).collect();
        for group in scalars.chunks(64) {
            let text: String = group.iter().map(|c| format!("{c}a {c}{c} the{c}Is {c}\n")).collect();
            assert_eq!(ours.encode(&text), their_ids(&text), "{text:?}");
        }
        for text in ["", " ", "  a  b ", "[MASK]x [MASK] [CLS]", "▁a▁▁b", "<unk>the<unk>", "\u{1e}"] {
            assert_eq!(ours.encode(text), their_ids(text), "{text:?}");
        }
        assert_eq!(ours.token(u32::MAX), None);
        let id = ours.encode("the")[0];
        assert_eq!(ours.token(id).map(str::to_owned), theirs.id_to_token(id));
    }

    #[test]
    fn unigram_ids_equal_hugging_face_on_real_text_and_around_scalars() {
        for (scheme, split) in [(PrependScheme::Always, true), (PrependScheme::First, false)] {
            let mut tokenizer = Trainable::new(ModelWrapper::Unigram(Unigram::default()));
            tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::from(Metaspace::new('▁', scheme, split))));
            let spaces = Replace::new(tokenizers::normalizers::replace::ReplacePattern::Regex(" {2,}".into()), " ");
            let steps: Vec<NormalizerWrapper> =
                vec![NFKC.into(), Strip::new(false, true).into(), spaces.unwrap().into()];
            tokenizer.with_normalizer(Some(NormalizerWrapper::from(Sequence::new(steps)))).unwrap();
            let trainer = UnigramTrainerBuilder::default()
                .vocab_size(2000)
                .show_progress(false)
                .unk_token(Some("<unk>".to_owned()))
                .special_tokens(vec![AddedToken::from("<unk>", true)])
                .build()
                .unwrap();
            tokenizer
                .train(&mut tokenizers::models::TrainerWrapper::from(trainer), TEXTS.map(beginning).iter())
                .unwrap();
            assert_equal(&tokenizer.to_string(false).unwrap());
        }
    }

    #[test]
    fn word_piece_ids_equal_hugging_face_on_real_text_and_around_scalars() {
        let steps: Vec<NormalizerWrapper> =
            vec![tokenizers::normalizers::NFD.into(), StripAccents.into(), Lowercase.into()];
        let normalizers: [NormalizerWrapper; 3] = [
            BertNormalizer::default().into(),
            BertNormalizer::new(true, false, Some(false), false).into(),
            Sequence::new(steps).into(),
        ];
        let pre_tokenizers: [PreTokenizerWrapper; 3] =
            [BertPreTokenizer.into(), Whitespace {}.into(), WhitespaceSplit.into()];
        for (normalizer, pre_tokenizer) in normalizers.into_iter().zip(pre_tokenizers) {
            let mut tokenizer = Trainable::new(ModelWrapper::WordPiece(WordPiece::default()));
            tokenizer.with_normalizer(Some(normalizer)).unwrap();
            tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
            let specials = ["[UNK]", "[CLS]", "[MASK]"].map(|text| AddedToken::from(text, true)).to_vec();
            let trainer = WordPieceTrainerBuilder::default()
                .vocab_size(2500)
                .show_progress(false)
                .special_tokens(specials)
                .build();
            tokenizer
                .train(&mut tokenizers::models::TrainerWrapper::from(trainer), TEXTS.map(beginning).iter())
                .unwrap();
            assert_equal(&tokenizer.to_string(false).unwrap());
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let file = |model: &str, normalizer: &str, pre: &str| {
            format!(r#"{{"model": {model}, "normalizer": {normalizer}, "pre_tokenizer": {pre}, "added_tokens": []}}"#)
        };
        let unigram = r#"{"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}"#;
        let words = r###"{"type": "WordPiece", "unk_token": "u", "vocab": {"u": 0, "a": 1, "##b": 2}}"###;
        for (text, expected) in [
            (file(r#"{"type": "BPE"}"#, "null", "null"), "model.type"),
            (file(unigram, r#"{"type": "Precompiled", "precompiled_charsmap": ""}"#, "null"), "normalizer"),
            (file(unigram, "null", r#"{"type": "UnicodeScripts"}"#), "pre_tokenizer"),
            (file(r#"{"type": "Unigram", "unk_id": 7, "vocab": [["a", 0.0]]}"#, "null", "null"), "unk_id"),
            (file(r#"{"type": "Unigram", "vocab": [["a"]]}"#, "null", "null"), "vocab"),
            (file(r#"{"type": "WordPiece", "unk_token": "u", "vocab": {"a": 1}}"#, "null", "null"), "unk_token"),
        ] {
            let fault = Foreign::from_json(text.as_bytes()).err().expect(&text).to_string();
            assert!(fault.contains(expected), "{fault}");
        }
        let ours = Foreign::from_json(file(words, "null", "null").as_bytes()).unwrap();
        assert_eq!((ours.encode("ab"), ours.encode("abab"), ours.encode("")), (vec![1, 2], vec![0], vec![]));
        assert_eq!(ours.token(2), Some("##b"));
    }
}
