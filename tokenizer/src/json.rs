//! `tokenizer.json` (Hugging Face, schema 1.0): reading and writing, and the two small files that stand beside it.
//!
//! In: bytes of a file, or a tokenizer. Out: a tokenizer, or the same bytes for the same tokenizer. Reads byte-level BPE of
//! others too (GPT-2, Llama 3, Qwen, DeepSeek and the like, and the two files of GPT-2); what this crate does not do is
//! refused by name. A post-processor (BOS added by a template) is not applied: who wants such tokens writes them. Leaves
//! writing files durably to `pipeline`.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::Value;

use crate::{
    Parts, Special, Tokenizer, TokenizerError,
    added::{Added, AddedToken, Form},
    bytes, chat,
    ranks::Ranks,
    split::{Split, Splitter},
};

/// An entry of `added_tokens`.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

impl Entry {
    fn of(token: &AddedToken, with_id: bool) -> Self {
        let AddedToken { ref text, id, single_word, lstrip, rstrip, normalized, special } = *token;
        let id = with_id.then_some(id);
        Self { id, content: text.clone(), single_word, lstrip, rstrip, normalized, special }
    }
}

/// A JSON object whose keys keep their order.
struct Ordered<K, V>(Vec<(K, V)>);

impl<K: Serialize, V: Serialize> Serialize for Ordered<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        self.0.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
        map.end()
    }
}

#[derive(Serialize)]
struct File {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<Entry>,
    normalizer: Option<Form>,
    pre_tokenizer: PreTokenizer,
    post_processor: Option<()>,
    decoder: PreTokenizer,
    model: Model,
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum PreTokenizer {
    Sequence { pretokenizers: Vec<PreTokenizer> },
    Split { pattern: Pattern, behavior: &'static str, invert: bool },
    ByteLevel { add_prefix_space: bool, trim_offsets: bool, use_regex: bool },
}

#[derive(Serialize)]
enum Pattern {
    Regex(String),
}

#[derive(Serialize)]
struct Model {
    r#type: &'static str,
    dropout: Option<()>,
    unk_token: Option<()>,
    continuing_subword_prefix: Option<()>,
    end_of_word_suffix: Option<()>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Ordered<String, u32>,
    merges: Vec<[String; 2]>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let path = path.as_ref();
        let bytes =
            std::fs::read(path).map_err(|source| TokenizerError::Read { path: path.display().to_string(), source })?;
        Self::from_json(&bytes)
    }

    /// Reads the bytes of a `tokenizer.json`.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let file: Value = serde_json::from_slice(bytes)?;
        let model = &file["model"];
        refuse_unless("model.type", &model["type"], &["null", "\"BPE\""])?;
        refuse_unless("model.dropout", &model["dropout"], &["null", "0.0"])?;
        refuse_unless("model.continuing_subword_prefix", &model["continuing_subword_prefix"], &["null", "\"\""])?;
        refuse_unless("model.end_of_word_suffix", &model["end_of_word_suffix"], &["null", "\"\""])?;
        refuse_unless("model.byte_fallback", &model["byte_fallback"], &["null", "false"])?;
        let form = read_normalizer(&file["normalizer"])?;
        let added: Vec<Entry> = match &file["added_tokens"] {
            Value::Null => Vec::new(),
            list => Vec::deserialize(list)?,
        };
        let added = added.into_iter().map(read_added).collect::<Result<Vec<_>, _>>()?;
        let (tokens, ids) = read_vocab(&model["vocab"], &added)?;
        let parts = Parts {
            splitter: read_splitter(&file["pre_tokenizer"])?,
            merges: read_merges(&model["merges"], &ids)?,
            tokens,
            specials: added.iter().map(|token| Special { text: token.text.clone(), id: token.id }).collect(),
            ignore_merges: model["ignore_merges"].as_bool().unwrap_or(false),
        };
        let ranks = Ranks::new(parts.merges.iter().map(|&(left, right, _)| (left, right)));
        Self::assemble(parts, ranks, Added::new(added, form))
    }

    /// Reads the two files of GPT-2: `encoder.json` (or `vocab.json`: token names to ids) and `vocab.bpe` (or `merges.txt`: a
    /// line of version, then one merge a line). `specials` are texts of tokens that never merge; those that the vocabulary lacks get the ids after it.
    pub fn from_vocab_and_merges(
        vocab: &[u8],
        merges: &str,
        splitter: Splitter,
        specials: &[&str],
    ) -> Result<Self, TokenizerError> {
        let vocab: Value = serde_json::from_slice(vocab)?;
        let mut new = vocab.as_object().map_or(0, serde_json::Map::len) as u32..;
        let added: Vec<AddedToken> = specials
            .iter()
            .map(|text| {
                let known = vocab[*text].as_u64().and_then(|id| u32::try_from(id).ok());
                let id = known.or_else(|| new.next()).expect("fewer than 2^32 ids because each has a line in a file");
                AddedToken { text: (*text).to_owned(), id, special: true, ..AddedToken::default() }
            })
            .collect();
        let (tokens, ids) = read_vocab(&vocab, &added)?;
        let lines = merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
        let merges = read_merges(&lines.map(Value::from).collect(), &ids)?;
        let specials = added.into_iter().map(|token| Special { text: token.text, id: token.id }).collect();
        Self::from_parts(Parts { splitter, tokens, specials, merges, ignore_merges: false })
    }

    /// The bytes of a `tokenizer.json` that gives the same ids in `tokenizers`.
    pub fn to_json(&self) -> Vec<u8> {
        let table = bytes::stand_ins();
        let names: Vec<String> = (0..self.vocab_size() as u32)
            .map(|id| match self.is_special(id) {
                true => String::from_utf8_lossy(self.token_bytes(id)).into_owned(),
                false => bytes::to_stand_ins(self.token_bytes(id), &table),
            })
            .collect();
        let name = |id: u32| names[id as usize].clone();
        let byte_level = |use_regex| PreTokenizer::ByteLevel { add_prefix_space: false, trim_offsets: true, use_regex };
        let gpt2 = |splitter: &Splitter| *splitter.split() == Split::Gpt2 && !splitter.single_digits();
        let pre_tokenizer = if gpt2(self.splitter()) && self.splitter().steps().count() == 1 {
            byte_level(true)
        } else {
            let split = |splitter: &Splitter| {
                let pattern = Pattern::Regex(splitter.pattern().to_owned());
                PreTokenizer::Split { pattern, behavior: "Isolated", invert: false }
            };
            let mut pretokenizers: Vec<PreTokenizer> = self.splitter().steps().map(split).collect();
            pretokenizers.push(byte_level(false));
            PreTokenizer::Sequence { pretokenizers }
        };
        let file = File {
            version: "1.0",
            truncation: None,
            padding: None,
            added_tokens: self.added.tokens.iter().map(|token| Entry::of(token, true)).collect(),
            normalizer: self.added.form,
            pre_tokenizer,
            post_processor: None,
            decoder: byte_level(true),
            model: Model {
                r#type: "BPE",
                dropout: None,
                unk_token: None,
                continuing_subword_prefix: None,
                end_of_word_suffix: None,
                fuse_unk: false,
                byte_fallback: false,
                ignore_merges: self.parts.ignore_merges,
                vocab: Ordered(names.iter().cloned().zip(0..).filter(|(name, _)| !name.is_empty()).collect()),
                merges: self.parts.merges.iter().map(|&(left, right, _)| [name(left), name(right)]).collect(),
            },
        };
        json_bytes(&file)
    }

    /// The files that `transformers` reads beside `tokenizer.json`: `tokenizer_config.json` with the chat template, and
    /// `special_tokens_map.json`.
    pub fn hf_config_files(&self) -> Vec<(String, Vec<u8>)> {
        #[derive(Serialize)]
        struct Config<'a> {
            added_tokens_decoder: Ordered<String, Entry>,
            additional_special_tokens: Vec<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            chat_template: Option<&'static str>,
            clean_up_tokenization_spaces: bool,
            eos_token: &'a str,
            pad_token: &'a str,
            tokenizer_class: &'static str,
        }
        #[derive(Serialize)]
        struct Map<'a> {
            additional_special_tokens: Vec<&'a str>,
            eos_token: &'a str,
            pad_token: &'a str,
        }
        let text = |id: u32| self.special_tokens().find(|(_, other)| *other == id).map_or("", |(text, _)| text);
        let eos = text(self.eot_id());
        let others: Vec<&str> =
            self.special_tokens().filter(|(_, id)| *id != self.eot_id()).map(|(text, _)| text).collect();
        let config = Config {
            added_tokens_decoder: Ordered(
                self.added.tokens.iter().map(|token| (token.id.to_string(), Entry::of(token, false))).collect(),
            ),
            additional_special_tokens: others.clone(),
            chat_template: chat::is_supported(self).then(chat::template),
            clean_up_tokenization_spaces: false,
            eos_token: eos,
            pad_token: eos,
            tokenizer_class: "PreTrainedTokenizerFast",
        };
        let map = Map { additional_special_tokens: others, eos_token: eos, pad_token: eos };
        vec![
            ("tokenizer_config.json".to_owned(), json_bytes(&config)),
            ("special_tokens_map.json".to_owned(), json_bytes(&map)),
        ]
    }
}

fn json_bytes(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("strings, numbers and string keys always serialise");
    bytes.push(b'\n');
    bytes
}

fn refuse_unless(field: &'static str, value: &Value, accepted: &[&'static str]) -> Result<(), TokenizerError> {
    let found = value.to_string();
    if accepted.contains(&found.as_str()) {
        return Ok(());
    }
    let expected = accepted.last().expect("every call names what it accepts");
    Err(TokenizerError::Unsupported { field, found, expected })
}

fn inconsistent(what: impl Into<String>) -> TokenizerError {
    TokenizerError::Inconsistent { what: what.into() }
}

/// `null`, a normal form, or a sequence of one of these.
fn read_normalizer(normalizer: &Value) -> Result<Option<Form>, TokenizerError> {
    let steps = match normalizer["type"].as_str() {
        Some("Sequence") => normalizer["normalizers"].as_array().map_or(&[][..], Vec::as_slice),
        _ => std::slice::from_ref(normalizer),
    };
    match steps {
        [] => Ok(None),
        [step] if step.is_null() => Ok(None),
        [step] if let Ok(form) = Form::deserialize(step) => Ok(Some(form)),
        _ => {
            let found = normalizer.to_string();
            Err(TokenizerError::Unsupported { field: "normalizer", found, expected: "none, NFC, NFD, NFKC or NFKD" })
        }
    }
}

pub(crate) fn read_added(entry: Entry) -> Result<AddedToken, TokenizerError> {
    let Entry { id, content: text, single_word, lstrip, rstrip, normalized, special } = entry;
    let id = id.ok_or_else(|| inconsistent(format!("added token `{text}` has no id")))?;
    if text.is_empty() {
        return Err(inconsistent(format!("added token {id} has no text")));
    }
    Ok(AddedToken { text, id, single_word, lstrip, rstrip, normalized, special })
}

type Vocab<'v> = (Vec<Vec<u8>>, HashMap<&'v str, u32>);

/// Bytes by id, and ids by written name.
fn read_vocab<'v>(vocab: &'v Value, added: &[AddedToken]) -> Result<Vocab<'v>, TokenizerError> {
    let byte_of = bytes::byte_of();
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    let mut place = |id: u64, bytes: Vec<u8>| {
        let at = usize::try_from(id).ok().filter(|&at| at < crate::MAX_VOCAB);
        let at = at.ok_or_else(|| inconsistent(format!("id {id} is above {}", crate::MAX_VOCAB)))?;
        if tokens.len() <= at {
            tokens.resize(at + 1, Vec::new());
        }
        match tokens[at].is_empty() || tokens[at] == bytes {
            true => tokens[at] = bytes,
            false => return Err(inconsistent(format!("two tokens have the id {id}"))),
        }
        Ok(())
    };
    for token in added {
        place(u64::from(token.id), token.text.clone().into_bytes())?;
    }
    let added_ids: HashSet<&str> = added.iter().map(|token| token.text.as_str()).collect();
    let rows = vocab.as_object().ok_or_else(|| inconsistent("model.vocab is not an object"))?;
    if let Some(token) = added.iter().find(|t| vocab[&t.text].as_u64().is_some_and(|id| id != u64::from(t.id))) {
        let what =
            format!("added token `{}` has the id {}, in model.vocab {}", token.text, token.id, vocab[&token.text]);
        return Err(inconsistent(what));
    }
    let mut ids = HashMap::new();
    for (name, id) in rows {
        let id = id.as_u64().ok_or_else(|| inconsistent(format!("the id of {name:?} is not a number")))?;
        if !added_ids.contains(name.as_str()) {
            let spelled: Option<Vec<u8>> = name.chars().map(|c| byte_of.get(&c).copied()).collect();
            place(
                id,
                spelled
                    .ok_or_else(|| inconsistent(format!("token {name:?} is not written in byte-level characters")))?,
            )?;
        }
        ids.insert(name.as_str(), id as u32);
    }
    Ok((tokens, ids))
}

/// Merges as `["a", "b"]` or `"a b"`.
fn read_merges(merges: &Value, ids: &HashMap<&str, u32>) -> Result<Vec<(u32, u32, u32)>, TokenizerError> {
    let rows = merges.as_array().ok_or_else(|| inconsistent("model.merges is not a list"))?;
    let read = |(rank, row): (usize, &Value)| {
        let halves = match row {
            Value::String(text) => text.split_once(' '),
            Value::Array(pair) if pair.len() == 2 => pair[0].as_str().zip(pair[1].as_str()),
            _ => None,
        };
        let (left, right) = halves.ok_or_else(|| inconsistent(format!("merge {rank} is not a pair")))?;
        let id = |name: &str| {
            ids.get(name)
                .copied()
                .ok_or_else(|| inconsistent(format!("merge {rank} names {name:?}, which is no token")))
        };
        Ok((id(left)?, id(right)?, id(&format!("{left}{right}"))?))
    };
    rows.iter().enumerate().map(read).collect()
}

/// `ByteLevel` alone (GPT-2), or a sequence of `Split` and `Digits` that ends with a `ByteLevel`.
fn read_splitter(pre: &Value) -> Result<Splitter, TokenizerError> {
    let unsupported = || TokenizerError::Unsupported {
        field: "pre_tokenizer",
        found: pre.to_string(),
        expected: "ByteLevel without add_prefix_space, or a Sequence of Split and Digits that ends with it",
    };
    let steps = match pre["type"].as_str() {
        Some("Sequence") => pre["pretokenizers"].as_array().map_or(&[][..], Vec::as_slice),
        _ => std::slice::from_ref(pre),
    };
    let (last, first) = steps.split_last().ok_or_else(unsupported)?;
    if last["type"] != "ByteLevel" || last["add_prefix_space"].as_bool().unwrap_or(true) {
        return Err(unsupported());
    }
    let mut splitters = first.iter().map(read_step).collect::<Result<Option<Vec<_>>, _>>()?.ok_or_else(unsupported)?;
    if last["use_regex"].as_bool().unwrap_or(true) {
        splitters.push(Splitter::new(&Split::Gpt2, false)?);
    }
    splitters.into_iter().reduce(Splitter::then).ok_or_else(unsupported)
}

/// One step before `ByteLevel`, or `None` if this crate does not know it.
fn read_step(step: &Value) -> Result<Option<Splitter>, TokenizerError> {
    match step["type"].as_str() {
        Some("Digits") => {
            let pattern = if step["individual_digits"].as_bool().unwrap_or(false) { r"\p{N}" } else { r"\p{N}+" };
            Ok(Some(Splitter::from_pattern(pattern)?))
        }
        Some("Split") => {
            let Some(pattern) = step["pattern"]["Regex"].as_str() else { return Ok(None) };
            let splitter = Splitter::from_pattern(pattern)?;
            // "Removed" with `invert` drops what the pattern does not match; the named patterns match everything.
            let named = !matches!(splitter.split(), Split::Regex(_));
            Ok(match (step["behavior"].as_str(), step["invert"].as_bool().unwrap_or(false)) {
                (Some("Isolated"), false) => Some(splitter),
                (Some("Removed"), true) if named => Some(splitter),
                _ => None,
            })
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TokenizerConfig, WordCounts, count, train};

    fn tokenizer(split: &str, single_digits: bool) -> Tokenizer {
        let config = TokenizerConfig {
            vocab_size: 320,
            split: split.parse().unwrap(),
            single_digits,
            ..TokenizerConfig::default()
        };
        let mut counts = WordCounts::new();
        count("low lower lowest 漢字 漢字 \"quoted\\\" 2048", &config.splitter().unwrap(), &mut counts);
        train(&counts, &config).unwrap()
    }

    #[test]
    fn a_file_comes_back_as_the_same_tokenizer_and_the_same_bytes() {
        for (split, digits) in [("gpt2", false), ("gpt2", true), ("cl100k", false), ("o200k", true), (r"\w+|\W", false)]
        {
            let ours = tokenizer(split, digits);
            let bytes = ours.to_json();
            let back = Tokenizer::from_json(&bytes).unwrap();
            assert_eq!(back.to_json(), bytes);
            assert_eq!(back.splitter().pattern(), ours.splitter().pattern());
            for text in ["", "lowest", "漢字 漢 2048 \"q\\\"", "чай"] {
                assert_eq!(back.encode(text), ours.encode(text));
            }
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let text = String::from_utf8(tokenizer("gpt2", false).to_json()).unwrap();
        for (from, to, expected) in [
            ("\"normalizer\": null", "\"normalizer\": {\"type\": \"Lowercase\"}", "normalizer"),
            ("\"type\": \"BPE\"", "\"type\": \"Unigram\"", "model.type"),
            ("\"byte_fallback\": false", "\"byte_fallback\": true", "byte_fallback"),
            ("\"add_prefix_space\": false", "\"add_prefix_space\": true", "pre_tokenizer"),
            ("\"!\": 5", "\"!\": 6", "two tokens"),
            ("\"!\": 5", "\"!!\": 5", "0x21"),
            ("\"l\",", "\"lq\",", "no token"),
            ("<|endoftext|>", "<|fin|>", "endoftext"),
        ] {
            assert!(text.contains(from), "{from}");
            let fault = Tokenizer::from_json(text.replace(from, to).as_bytes()).unwrap_err().to_string();
            assert!(fault.contains(expected), "{fault}");
        }
        assert!(Tokenizer::from_json(b"{").is_err());
        assert!(Tokenizer::load("/nonexistent/tokenizer.json").unwrap_err().to_string().contains("/nonexistent"));
    }

    #[test]
    fn the_config_files_name_the_end_token_and_the_template() {
        let files = tokenizer("gpt2", false).hf_config_files();
        let config: Value = serde_json::from_slice(&files[0].1).unwrap();
        assert_eq!(config["eos_token"], "<|endoftext|>");
        assert_eq!(config["chat_template"], chat::template());
        assert_eq!(config["added_tokens_decoder"]["4"]["content"], "<|end|>");
        assert_eq!(files[1].0, "special_tokens_map.json");
    }
}
