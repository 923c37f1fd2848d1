//! Pre-tokenisation: cut a text into the pieces inside which BPE merges.
//!
//! In: a text. Out: its pieces in order; together they are the text. `Split` is the manifest's word for it, `Splitter` the
//! compiled form. The four named splits are hand-written (`scan`); any other regex runs on fancy-regex. Leaves ids to
//! `encode`. What `tokenizer.json` shows is the pattern returned by [`Splitter::pattern`].

use std::{borrow::Cow, fmt, str::FromStr};

use fancy_regex::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::scan::Text;

/// The pattern of GPT-2, as built into Hugging Face's `ByteLevel`.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// The pattern of cl100k as published with Llama 3 and most Hugging Face files. Newer tiktoken adds `\s++$`, which differs
/// only for white space at the very end of a text that holds a newline.
const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The pattern of o200k.
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a text is cut before merging: `"gpt2"`, `"cl100k"`, `"o200k"`, `"llama3"`, or any regex.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Split {
    /// Words with their leading space, numbers of any length (Radford et al. 2019).
    Gpt2,
    /// Words with one leading non-letter, numbers of at most three digits, newlines kept with symbols.
    #[default]
    Cl100k,
    /// Like `cl100k`, and words also end where lower case turns into upper case.
    O200k,
    /// The pattern of Llama 3, which is that of `cl100k`.
    Llama3,
    /// Any regex in the syntax of fancy-regex (look-around allowed). What it does not match becomes a piece of its own.
    Regex(String),
}

/// Why a split cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// A plain word that is no known name, and that would be pointless as a regex.
    #[error("unknown split `{name}` (known: gpt2, cl100k, o200k, llama3, or a regex)")]
    Unknown {
        /// The word that was given.
        name: String,
    },
    /// The regex does not compile.
    #[error("split is not a valid regex: {message}")]
    Regex {
        /// What the regex engine says.
        message: String,
    },
    /// `single_digits` changes a named pattern; in a regex the user writes it.
    #[error(
        "`single_digits` needs a named split (gpt2, cl100k, o200k, llama3); in a regex write `\\p{{N}}` for numbers"
    )]
    DigitsOfRegex,
}

impl FromStr for Split {
    type Err = SplitError;

    fn from_str(name: &str) -> Result<Self, SplitError> {
        match name {
            "gpt2" => Ok(Self::Gpt2),
            "cl100k" => Ok(Self::Cl100k),
            "o200k" => Ok(Self::O200k),
            "llama3" => Ok(Self::Llama3),
            _ if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') => {
                Err(SplitError::Unknown { name: name.to_owned() })
            }
            _ => compile(name).map(|_| Self::Regex(name.to_owned())),
        }
    }
}

impl TryFrom<String> for Split {
    type Error = SplitError;

    fn try_from(name: String) -> Result<Self, SplitError> {
        name.parse()
    }
}

impl From<Split> for String {
    fn from(split: Split) -> Self {
        split.to_string()
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gpt2 => "gpt2",
            Self::Cl100k => "cl100k",
            Self::O200k => "o200k",
            Self::Llama3 => "llama3",
            Self::Regex(pattern) => pattern,
        })
    }
}

impl JsonSchema for Split {
    fn schema_name() -> Cow<'static, str> {
        "Split".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "\"gpt2\", \"cl100k\", \"o200k\", \"llama3\", or any regex (fancy-regex syntax)",
            "examples": ["gpt2", "cl100k", "o200k", "llama3"],
        })
    }
}

fn compile(pattern: &str) -> Result<Regex, SplitError> {
    Regex::new(pattern).map_err(|error| SplitError::Regex { message: error.to_string() })
}

/// A compiled `Split`.
#[derive(Clone, Debug)]
pub struct Splitter {
    split: Split,
    single_digits: bool,
    pattern: Cow<'static, str>,
    regex: Option<Regex>,
}

impl Splitter {
    /// Compiles a split. With `single_digits` every number character is a piece of its own (only for named splits).
    pub fn new(split: &Split, single_digits: bool) -> Result<Self, SplitError> {
        let (pattern, regex) = match split {
            Split::Regex(_) if single_digits => return Err(SplitError::DigitsOfRegex),
            Split::Regex(pattern) => (Cow::Owned(pattern.clone()), Some(compile(pattern)?)),
            Split::Gpt2 => (digits(GPT2, r" ?\p{N}+", single_digits), None),
            Split::Cl100k | Split::Llama3 => (digits(CL100K, r"\p{N}{1,3}", single_digits), None),
            Split::O200k => (digits(O200K, r"\p{N}{1,3}", single_digits), None),
        };
        Ok(Self { split: split.clone(), single_digits, pattern, regex })
    }

    /// The named splitter whose pattern this is, or the pattern as a regex. For reading `tokenizer.json`.
    pub fn from_pattern(pattern: &str) -> Result<Self, SplitError> {
        for split in [Split::Gpt2, Split::Cl100k, Split::O200k] {
            for single_digits in [false, true] {
                let named = Self::new(&split, single_digits)?;
                if named.pattern == pattern {
                    return Ok(named);
                }
            }
        }
        Self::new(&Split::Regex(pattern.to_owned()), false)
    }

    /// The regex that cuts the same way, as `tokenizer.json` shows it.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// What this was compiled from.
    pub fn split(&self) -> &Split {
        &self.split
    }

    /// Is every number character a piece of its own?
    pub fn single_digits(&self) -> bool {
        self.single_digits
    }

    /// Calls `each` with every piece of `text`, in order; the pieces are never empty and together are `text`.
    ///
    /// A user's regex that exceeds the engine's backtracking limit makes the rest of that text one piece.
    pub fn pieces<'t>(&self, text: &'t str, each: &mut impl FnMut(&'t str)) {
        self.spans(text, &mut |start, end| each(&text[start..end]));
    }

    /// `pieces` as byte ranges.
    #[inline]
    pub(crate) fn spans(&self, text: &str, each: &mut impl FnMut(usize, usize)) {
        let scanner = Text::new(text);
        let limit = if self.single_digits { 1 } else { 3 };
        match (&self.split, &self.regex) {
            (Split::Gpt2, _) if self.single_digits => walk(text, each, |i| scanner.gpt2(i, true)),
            (Split::Gpt2, _) => walk(text, each, |i| scanner.gpt2(i, false)),
            (Split::Cl100k | Split::Llama3, _) => walk(text, each, |i| scanner.cl100k(i, limit)),
            (Split::O200k, _) => walk(text, each, |i| scanner.o200k(i, limit)),
            (Split::Regex(_), regex) => {
                let regex = regex.as_ref().expect("`new` compiles the regex of `Split::Regex`");
                regex_spans(regex, text, each);
            }
        }
    }
}

/// The pattern with its numbers alternative replaced by a single `\p{N}`.
fn digits(pattern: &'static str, numbers: &str, single: bool) -> Cow<'static, str> {
    if single { pattern.replace(numbers, r"\p{N}").into() } else { pattern.into() }
}

#[inline(always)]
fn walk(text: &str, each: &mut impl FnMut(usize, usize), next: impl Fn(usize) -> usize) {
    let mut start = 0;
    while start < text.len() {
        let end = next(start);
        each(start, end);
        start = end;
    }
}

/// Matches and the gaps between them, as Hugging Face's `Split` with behaviour "Isolated".
fn regex_spans(regex: &Regex, text: &str, each: &mut impl FnMut(usize, usize)) {
    let mut done = 0;
    for found in regex.find_iter(text) {
        let Ok(found) = found else { break };
        if found.start() > done {
            each(done, found.start());
        }
        if found.end() > found.start() {
            each(found.start(), found.end());
        }
        done = found.end().max(done);
    }
    if done < text.len() {
        each(done, text.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces<'t>(splitter: &Splitter, text: &'t str) -> Vec<&'t str> {
        let mut out = Vec::new();
        splitter.pieces(text, &mut |piece| out.push(piece));
        out
    }

    /// Every hand-written splitter beside a splitter that runs its published pattern.
    fn pairs() -> Vec<(Splitter, Splitter)> {
        let mut out = Vec::new();
        for split in [Split::Gpt2, Split::Cl100k, Split::O200k, Split::Llama3] {
            for single_digits in [false, true] {
                let ours = Splitter::new(&split, single_digits).unwrap();
                let regex = Splitter::new(&Split::Regex(ours.pattern().to_owned()), false).unwrap();
                out.push((ours, regex));
            }
        }
        out
    }

    /// A small generator (xorshift) so that tests need no dependency.
    fn noise(state: &mut u64) -> usize {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 33) as usize
    }

    #[test]
    fn hand_written_splits_equal_their_regex_on_random_mixtures() {
        let alphabet: Vec<char> =
            "aZſK'stRElLvVdDmM 0½٣\t\n\r\u{a0}\u{3000}.-/!_ǅʰ漢ßÉ\u{301}ா😀\u{200b}\u{200d}ªк".chars().collect();
        let mut state = 17;
        for (ours, regex) in pairs() {
            for round in 0..2000 {
                let len = noise(&mut state) % 24;
                let text: String = (0..len).map(|_| alphabet[noise(&mut state) % alphabet.len()]).collect();
                assert_eq!(pieces(&ours, &text), pieces(&regex, &text), "{ours:?} round {round} {text:?}");
            }
        }
    }

    #[test]
    fn a_user_regex_keeps_the_gaps_between_its_matches() {
        let splitter = Splitter::new(&r"\d+".parse().unwrap(), false).unwrap();
        assert_eq!(pieces(&splitter, "ab12 c3"), ["ab", "12", " c", "3"]);
        assert_eq!(pieces(&splitter, ""), Vec::<&str>::new());
        let empty_matches = Splitter::new(&"x*".parse().unwrap(), false).unwrap();
        assert_eq!(pieces(&empty_matches, "axxb").concat(), "axxb");
    }

    #[test]
    fn names_patterns_and_errors_round_trip() {
        for name in ["gpt2", "cl100k", "o200k", "llama3", r"\w+|\s"] {
            assert_eq!(name.parse::<Split>().unwrap().to_string(), name);
        }
        assert!("cl10k".parse::<Split>().unwrap_err().to_string().contains("known: gpt2, cl100k"));
        assert!("(".parse::<Split>().is_err());
        assert!(Splitter::new(&r"\w+".parse().unwrap(), true).is_err());
        for (ours, _) in pairs() {
            let found = Splitter::from_pattern(ours.pattern()).unwrap();
            assert_eq!((found.pattern(), found.single_digits()), (ours.pattern(), ours.single_digits()));
            assert!(found.regex.is_none());
        }
    }
}
