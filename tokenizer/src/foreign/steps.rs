//! The steps before the model: normalisers and pre-tokenizers of `tokenizer.json`, those that Unigram and WordPiece files use.
//!
//! In: a text. Out: the normalised text; the pieces that the model sees, without what a pre-tokenizer removes.

use std::borrow::Cow;

use fancy_regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::{UnicodeNormalization, char::is_combining_mark};

use super::unsupported;
use crate::{TokenizerError, added::Form};

/// A normaliser.
pub(super) enum Normalizer {
    Sequence(Vec<Normalizer>),
    Form(Form),
    Lowercase,
    StripAccents,
    Strip { left: bool, right: bool },
    Replace { pattern: Regex, content: String },
    Prepend(String),
    Bert { clean: bool, ideographs: bool, strip_accents: bool, lowercase: bool },
}

/// The pattern of `Replace` and `Split`.
fn read_pattern(pattern: &Value) -> Option<Regex> {
    match (pattern["String"].as_str(), pattern["Regex"].as_str()) {
        (Some(text), _) => Regex::new(&fancy_regex::escape(text)).ok(),
        (None, Some(regex)) => Regex::new(regex).ok(),
        _ => None,
    }
}

impl Normalizer {
    pub(super) fn read(step: &Value) -> Result<Self, TokenizerError> {
        let refuse = || {
            let expected =
                "NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Replace, Prepend, BertNormalizer or a Sequence";
            unsupported("normalizer", step, expected)
        };
        let flag = |name: &str| step[name].as_bool();
        if step.is_null() {
            return Ok(Self::Sequence(Vec::new()));
        }
        Ok(match step["type"].as_str().ok_or_else(refuse)? {
            "Sequence" => {
                let steps = step["normalizers"].as_array().ok_or_else(refuse)?;
                Self::Sequence(steps.iter().map(Self::read).collect::<Result<_, _>>()?)
            }
            "Lowercase" => Self::Lowercase,
            "StripAccents" => Self::StripAccents,
            "Strip" => Self::Strip {
                left: flag("strip_left").ok_or_else(refuse)?,
                right: flag("strip_right").ok_or_else(refuse)?,
            },
            "Replace" => Self::Replace {
                pattern: read_pattern(&step["pattern"]).ok_or_else(refuse)?,
                content: step["content"].as_str().ok_or_else(refuse)?.to_owned(),
            },
            "Prepend" => Self::Prepend(step["prepend"].as_str().ok_or_else(refuse)?.to_owned()),
            "BertNormalizer" => {
                let lowercase = flag("lowercase").unwrap_or(true);
                Self::Bert {
                    clean: flag("clean_text").unwrap_or(true),
                    ideographs: flag("handle_chinese_chars").unwrap_or(true),
                    strip_accents: flag("strip_accents").unwrap_or(lowercase),
                    lowercase,
                }
            }
            _ => Self::Form(Form::deserialize(step).map_err(|_| refuse())?),
        })
    }

    pub(super) fn apply(&self, text: &str) -> String {
        match self {
            Self::Sequence(steps) => steps.iter().fold(text.to_owned(), |text, step| step.apply(&text)),
            Self::Form(form) => form.apply(text).into_owned(),
            Self::Lowercase => text.chars().flat_map(char::to_lowercase).collect(),
            Self::StripAccents => text.chars().filter(|&c| !is_combining_mark(c)).collect(),
            Self::Strip { left, right } => {
                let text = if *left { text.trim_start() } else { text };
                (if *right { text.trim_end() } else { text }).to_owned()
            }
            Self::Replace { pattern, content } => {
                pattern.replace_all(text, fancy_regex::NoExpand(content)).into_owned()
            }
            Self::Prepend(_) if text.is_empty() => String::new(),
            Self::Prepend(prefix) => format!("{prefix}{text}"),
            Self::Bert { clean, ideographs, strip_accents, lowercase } => {
                let mut text = Cow::Borrowed(text);
                if *clean {
                    let keep = |&c: &char| !matches!(c, '\0' | '\u{fffd}') && (is_blank(c) || !c.is_other());
                    let space = |c: char| if is_blank(c) || c.is_whitespace() { ' ' } else { c };
                    text = text.chars().filter(keep).map(space).collect::<String>().into();
                }
                if *ideographs {
                    let mut spaced = String::with_capacity(text.len());
                    for c in text.chars() {
                        if is_ideograph(c) {
                            spaced.extend([' ', c, ' ']);
                        } else {
                            spaced.push(c);
                        }
                    }
                    text = spaced.into();
                }
                if *strip_accents {
                    let kept = text.nfd().map(|(c, _)| c).filter(|c| !c.is_mark_nonspacing());
                    text = kept.collect::<String>().into();
                }
                if *lowercase {
                    text = text.chars().flat_map(char::to_lowercase).collect::<String>().into();
                }
                text.into_owned()
            }
        }
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r')
}

/// The blocks of Han characters, as BERT lists them.
fn is_ideograph(c: char) -> bool {
    matches!(u32::from(c),
        0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x2_0000..=0x2_a6df | 0x2_a700..=0x2_b73f | 0x2_b740..=0x2_b81f
        | 0x2_b920..=0x2_ceaf | 0xf900..=0xfaff | 0x2_f800..=0x2_fa1f)
}

/// A pre-tokenizer.
pub(super) enum PreTokenizer {
    Sequence(Vec<PreTokenizer>),
    /// Words and runs of symbols.
    Whitespace(Regex),
    /// What stands between white space.
    WhitespaceSplit,
    /// The same, and each punctuation mark alone.
    Bert,
    /// White space becomes a visible mark at the front of words.
    Metaspace {
        mark: char,
        prepend: Prepend,
        split: bool,
    },
}

/// Where `Metaspace` puts a mark that no space stands for.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Prepend {
    First,
    Never,
    Always,
}

impl PreTokenizer {
    pub(super) fn read(step: &Value) -> Result<Self, TokenizerError> {
        let refuse = || {
            let expected = "Whitespace, WhitespaceSplit, BertPreTokenizer, Metaspace or a Sequence";
            unsupported("pre_tokenizer", step, expected)
        };
        if step.is_null() {
            return Ok(Self::Sequence(Vec::new()));
        }
        Ok(match step["type"].as_str().ok_or_else(refuse)? {
            "Sequence" => {
                let steps = step["pretokenizers"].as_array().ok_or_else(refuse)?;
                Self::Sequence(steps.iter().map(Self::read).collect::<Result<_, _>>()?)
            }
            "Whitespace" => Self::Whitespace(Regex::new(r"\w+|[^\w\s]+").expect("the pattern is valid")),
            "WhitespaceSplit" => Self::WhitespaceSplit,
            "BertPreTokenizer" => Self::Bert,
            "Metaspace" => {
                let mut mark = step["replacement"].as_str().ok_or_else(refuse)?.chars();
                let prepend = match (&step["prepend_scheme"], step["add_prefix_space"].as_bool()) {
                    (_, Some(false)) => Prepend::Never,
                    (Value::Null, _) => Prepend::Always,
                    (scheme, _) => Prepend::deserialize(scheme)?,
                };
                let split = step["split"].as_bool().unwrap_or(true);
                Self::Metaspace { mark: mark.next().ok_or_else(refuse)?, prepend, split }
            }
            _ => return Err(refuse()),
        })
    }

    /// Pieces of a text, none of them empty. `first`: nothing stands before it.
    pub(super) fn pieces<'t>(&self, text: &'t str, first: bool) -> Vec<Cow<'t, str>> {
        let borrowed = |pieces: &mut dyn Iterator<Item = &'t str>| -> Vec<Cow<'t, str>> {
            pieces.filter(|piece| !piece.is_empty()).map(Cow::Borrowed).collect()
        };
        match self {
            Self::Sequence(steps) => {
                let mut pieces = borrowed(&mut std::iter::once(text));
                for step in steps {
                    let mut next = Vec::new();
                    for (piece, i) in pieces.iter().zip(0..) {
                        next.extend(
                            step.pieces(piece, first && i == 0).into_iter().map(|p| Cow::Owned(p.into_owned())),
                        );
                    }
                    pieces = next;
                }
                pieces
            }
            Self::Whitespace(regex) => borrowed(&mut regex.find_iter(text).map_while(Result::ok).map(|m| m.as_str())),
            Self::WhitespaceSplit => borrowed(&mut text.split(char::is_whitespace)),
            Self::Bert => {
                let mark = |c: char| c.is_ascii_punctuation() || c.is_punctuation();
                let words = text.split(char::is_whitespace);
                borrowed(&mut words.flat_map(|word| word.split_inclusive(mark)).flat_map(|part| {
                    let last = part.char_indices().next_back().filter(|&(_, c)| mark(c)).map_or(part.len(), |(i, _)| i);
                    [&part[..last], &part[last..]]
                }))
            }
            Self::Metaspace { mark, prepend, split } => {
                let mut marked = text.replace(' ', mark.encode_utf8(&mut [0; 4]));
                let wanted = *prepend == Prepend::Always || *prepend == Prepend::First && first;
                if wanted && !marked.is_empty() && !marked.starts_with(*mark) {
                    marked.insert(0, *mark);
                }
                if !split {
                    return if marked.is_empty() { Vec::new() } else { vec![Cow::Owned(marked)] };
                }
                let mut starts: Vec<usize> = marked.match_indices(*mark).map(|(i, _)| i).filter(|&i| i > 0).collect();
                starts.push(marked.len());
                let mut from = 0;
                let mut cut = |to: usize| Cow::Owned(marked[std::mem::replace(&mut from, to)..to].to_owned());
                starts.iter().map(|&to| cut(to)).filter(|piece: &Cow<str>| !piece.is_empty()).collect()
            }
        }
    }
}
