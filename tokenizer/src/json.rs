//! `tokenizer.json` (Hugging Face, schema 1.0): reading and writing, and the two small files that stand beside it.
//!
//! In: bytes of a file, or a tokenizer. Out: a tokenizer, or the same bytes for the same tokenizer. Reads byte-level BPE of
//! others too (GPT-2, Llama 3 and the like); what this crate does not do is refused by name. A post-processor (BOS added by
//! a template) is not applied: who wants such tokens writes them. Leaves writing files durably to `pipeline`.

use std::{collections::HashMap, path::Path};

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::Value;

use crate::{
    Parts, Special, Tokenizer, TokenizerError, bytes, chat,
    split::{Split, Splitter},
};

/// An entry of `added_tokens`.
#[derive(Clone, Serialize, Deserialize)]
struct AddedToken {
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

impl AddedToken {
    fn special(id: Option<u32>, content: &str) -> Self {
        let content = content.to_owned();
        Self { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
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
    added_tokens: Vec<AddedToken>,
    normalizer: Option<()>,
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
        refuse_unless("normalizer", &file["normalizer"], &["null"])?;
        let added: Vec<AddedToken> = match &file["added_tokens"] {
            Value::Null => Vec::new(),
            list => Vec::deserialize(list)?,
        };
        let (tokens, specials, ids) = read_vocab(&model["vocab"], added)?;
        Self::from_parts(Parts {
            splitter: read_splitter(&file["pre_tokenizer"])?,
            merges: read_merges(&model["merges"], &ids)?,
            tokens,
            specials,
            ignore_merges: model["ignore_merges"].as_bool().unwrap_or(false),
        })
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
        let splitter = self.splitter();
        let pre_tokenizer = if *splitter.split() == Split::Gpt2 && !splitter.single_digits() {
            byte_level(true)
        } else {
            let pattern = Pattern::Regex(splitter.pattern().to_owned());
            let split = PreTokenizer::Split { pattern, behavior: "Isolated", invert: false };
            PreTokenizer::Sequence { pretokenizers: vec![split, byte_level(false)] }
        };
        let file = File {
            version: "1.0",
            truncation: None,
            padding: None,
            added_tokens: self.special_tokens().map(|(text, id)| AddedToken::special(Some(id), text)).collect(),
            normalizer: None,
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
            added_tokens_decoder: Ordered<String, AddedToken>,
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
                self.special_tokens().map(|(text, id)| (id.to_string(), AddedToken::special(None, text))).collect(),
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

type Vocab<'v> = (Vec<Vec<u8>>, Vec<Special>, HashMap<&'v str, u32>);

/// Bytes by id, the added tokens, and ids by written name.
fn read_vocab(vocab: &Value, added: Vec<AddedToken>) -> Result<Vocab<'_>, TokenizerError> {
    let byte_of = bytes::byte_of();
    let mut specials = Vec::new();
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
        let id = token.id.ok_or_else(|| inconsistent(format!("added token `{}` has no id", token.content)))?;
        if token.single_word || token.lstrip || token.rstrip || token.content.is_empty() {
            let found = format!("{:?} with single_word, lstrip or rstrip", token.content);
            return Err(TokenizerError::Unsupported { field: "added_tokens", found, expected: "plain added tokens" });
        }
        place(u64::from(id), token.content.clone().into_bytes())?;
        specials.push(Special { text: token.content, id });
    }
    let special_ids: HashMap<&str, u32> = specials.iter().map(|special| (special.text.as_str(), special.id)).collect();
    let rows = vocab.as_object().ok_or_else(|| inconsistent("model.vocab is not an object"))?;
    let mut ids = HashMap::new();
    for (name, id) in rows {
        let id = id.as_u64().ok_or_else(|| inconsistent(format!("the id of {name:?} is not a number")))?;
        if special_ids.get(name.as_str()).is_none_or(|&special| u64::from(special) != id) {
            let spelled: Option<Vec<u8>> = name.chars().map(|c| byte_of.get(&c).copied()).collect();
            place(
                id,
                spelled
                    .ok_or_else(|| inconsistent(format!("token {name:?} is not written in byte-level characters")))?,
            )?;
        }
        ids.insert(name.as_str(), id as u32);
    }
    Ok((tokens, specials, ids))
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

/// `ByteLevel` alone (GPT-2), or a `Split` followed by a `ByteLevel` without its regex.
fn read_splitter(pre: &Value) -> Result<Splitter, TokenizerError> {
    let unsupported = || TokenizerError::Unsupported {
        field: "pre_tokenizer",
        found: pre.to_string(),
        expected: "ByteLevel, or a Sequence of one Split and ByteLevel",
    };
    let is_byte_level = |value: &Value, use_regex: bool| {
        value["type"] == "ByteLevel"
            && !value["add_prefix_space"].as_bool().unwrap_or(true)
            && value["use_regex"].as_bool().unwrap_or(true) == use_regex
    };
    if is_byte_level(pre, true) {
        return Ok(Splitter::new(&Split::Gpt2, false)?);
    }
    let steps = pre["pretokenizers"].as_array().map_or(&[][..], Vec::as_slice);
    let [split, byte_level] = steps else { return Err(unsupported()) };
    let pattern =
        split["pattern"]["Regex"].as_str().filter(|_| split["type"] == "Split" && is_byte_level(byte_level, false));
    let splitter = Splitter::from_pattern(pattern.ok_or_else(unsupported)?)?;
    // "Removed" with `invert` drops what the pattern does not match; the named patterns match everything.
    let named = !matches!(splitter.split(), Split::Regex(_));
    match (split["behavior"].as_str(), split["invert"].as_bool().unwrap_or(false)) {
        (Some("Isolated"), false) => Ok(splitter),
        (Some("Removed"), true) if named => Ok(splitter),
        _ => Err(unsupported()),
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
            ("\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}", "normalizer"),
            ("\"type\": \"BPE\"", "\"type\": \"Unigram\"", "model.type"),
            ("\"lstrip\": false", "\"lstrip\": true", "lstrip"),
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
