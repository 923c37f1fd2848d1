//! Pre-tokenisation: cut a text into the pieces inside which BPE merges.
//!
//! In: a text. Out: its pieces in order; together they are the text. `Split` is the manifest's word for it, `Splitter` the
//! compiled form. The four named splits are hand-written (`window`, `scan`); any other regex runs on fancy-regex. Leaves ids
//! to `encode`. What `tokenizer.json` shows is the pattern returned by [`Splitter::pattern`].

use std::{borrow::Cow, fmt, str::FromStr};

use fancy_regex::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{
    planes::Level,
    scan::Rule,
    window::{self, MOST},
};

/// The pattern of GPT-2, as built into Hugging Face's `ByteLevel`.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// The pattern of cl100k as published with Llama 3 and most Hugging Face files.
const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The pattern of o200k.
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The pattern of GPT-2 as tiktoken writes it (r50k, p50k). It cuts alike.
const GPT2_TIKTOKEN: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s";
/// The pattern of cl100k as tiktoken writes it since 0.8. White space at the very end of a text is one piece there, even if it
/// holds a newline.
const CL100K_TIKTOKEN: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s";
/// The same in words that mean the same to Oniguruma, where `{1,3}+` and `$` do not.
const CL100K_TAIL: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+\z|\s*[\r\n]+|\s+(?!\S)|\s+";

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
    /// The hand-written form; `None` for a user's regex.
    rule: Option<Rule>,
    regex: Option<Regex>,
    level: Level,
    /// What cuts each piece further. Only in files of others.
    then: Option<Box<Splitter>>,
}

impl Splitter {
    /// Compiles a split. With `single_digits` every number character is a piece of its own (only for named splits).
    pub fn new(split: &Split, single_digits: bool) -> Result<Self, SplitError> {
        let most = if single_digits { 1 } else { 3 };
        let (pattern, rule) = match split {
            Split::Regex(_) if single_digits => return Err(SplitError::DigitsOfRegex),
            Split::Regex(pattern) => (Cow::Owned(pattern.clone()), None),
            Split::Gpt2 => (digits(GPT2, r" ?\p{N}+", single_digits), Some(Rule::Gpt2 { single_digits })),
            Split::Cl100k | Split::Llama3 => {
                (digits(CL100K, r"\p{N}{1,3}", single_digits), Some(Rule::Cl100k { digits: most, whole_tail: false }))
            }
            Split::O200k => (digits(O200K, r"\p{N}{1,3}", single_digits), Some(Rule::O200k { digits: most })),
        };
        let regex = if rule.is_none() { Some(compile(&pattern)?) } else { None };
        Ok(Self { split: split.clone(), single_digits, pattern, rule, regex, level: Level::detect(), then: None })
    }

    /// The named splitter whose pattern this is, or the pattern as a regex. For reading `tokenizer.json`. Knows the patterns
    /// of tiktoken too.
    pub fn from_pattern(pattern: &str) -> Result<Self, SplitError> {
        for split in [Split::Gpt2, Split::Cl100k, Split::O200k] {
            for single_digits in [false, true] {
                let named = Self::new(&split, single_digits)?;
                if named.pattern == pattern {
                    return Ok(named);
                }
            }
        }
        match pattern {
            GPT2_TIKTOKEN => Self::new(&Split::Gpt2, false),
            CL100K_TIKTOKEN | CL100K_TAIL => Ok(Self {
                pattern: CL100K_TAIL.into(),
                rule: Some(Rule::Cl100k { digits: 3, whole_tail: true }),
                ..Self::new(&Split::Cl100k, false)?
            }),
            _ => Self::new(&Split::Regex(pattern.to_owned()), false),
        }
    }

    /// The splitter of a rank file of tiktoken by the encoding's name there: `gpt2`, `r50k_base`, `p50k_base`, `cl100k_base`,
    /// `o200k_base`, `o200k_harmony`.
    pub fn tiktoken(encoding: &str) -> Result<Self, SplitError> {
        Self::from_pattern(match encoding {
            "gpt2" | "r50k_base" | "p50k_base" | "p50k_edit" => GPT2_TIKTOKEN,
            "cl100k_base" => CL100K_TIKTOKEN,
            "o200k_base" | "o200k_harmony" => O200K,
            _ => return Err(SplitError::Unknown { name: encoding.to_owned() }),
        })
    }

    /// Cuts each piece further, as a sequence of pre-tokenizers does.
    pub(crate) fn then(mut self, next: Self) -> Self {
        self.then = Some(Box::new(match self.then.take() {
            Some(then) => then.then(next),
            None => next,
        }));
        self
    }

    /// This splitter and those that cut further, in order.
    pub(crate) fn steps(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |splitter| splitter.then.as_deref())
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
        let mut ends = [0; 4 * MOST];
        let mut start = 0;
        while let Some(n) = self.fill(text, start, &mut ends) {
            if n == 0 {
                return;
            }
            for &end in &ends[..n] {
                each(start, end);
                start = end;
            }
        }
        self.spans_by_steps(text, 0, each);
    }

    /// Ends of the pieces from `start`, where a piece starts: as many as fit into `ends` ([`MOST`] places or more), none at
    /// the end of the text. `None` if only `spans` can cut.
    #[inline]
    pub(crate) fn fill(&self, text: &str, start: usize, ends: &mut [usize]) -> Option<usize> {
        match (self.rule, &self.then) {
            (Some(rule), None) => Some(window::fill(self.level, rule, text, start, ends)),
            _ => None,
        }
    }

    fn spans_by_steps(&self, text: &str, offset: usize, each: &mut dyn FnMut(usize, usize)) {
        let mut further = |start: usize, end: usize| match &self.then {
            Some(then) => then.spans_by_steps(&text[start..end], offset + start, each),
            None => each(offset + start, offset + end),
        };
        match &self.regex {
            Some(regex) => regex_spans(regex, text, &mut further),
            None => {
                let mut ends = [0; MOST];
                let mut start = 0;
                while start < text.len() {
                    let rule = self.rule.expect("a splitter without a regex has a rule");
                    let n = window::fill(self.level, rule, text, start, &mut ends);
                    for &end in &ends[..n] {
                        further(start, end);
                        start = end;
                    }
                }
            }
        }
    }
}

/// The pattern with its numbers alternative replaced by a single `\p{N}`.
fn digits(pattern: &'static str, numbers: &str, single: bool) -> Cow<'static, str> {
    if single { pattern.replace(numbers, r"\p{N}").into() } else { pattern.into() }
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

    /// Every hand-written splitter at every level beside a splitter that runs its published pattern.
    fn groups() -> Vec<(Vec<Splitter>, Splitter)> {
        let mut named = vec![Splitter::tiktoken("cl100k_base").unwrap()];
        for split in [Split::Gpt2, Split::Cl100k, Split::O200k] {
            named.extend([false, true].map(|single_digits| Splitter::new(&split, single_digits).unwrap()));
        }
        let group = |named: Splitter| {
            let regex = Splitter::new(&Split::Regex(named.pattern().to_owned()), false).unwrap();
            (Level::all().into_iter().map(|level| Splitter { level, ..named.clone() }).collect(), regex)
        };
        named.into_iter().map(group).collect()
    }

    /// A small generator (xorshift) so that tests need no dependency.
    fn noise(state: &mut u64) -> usize {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 33) as usize
    }

    /// Compares on one text, and says around which place they differ.
    fn assert_alike(ours: &[Splitter], regex: &Splitter, text: &str) {
        let b = pieces(regex, text);
        for ours in ours {
            let a = pieces(ours, text);
            if let Some(i) = (0..a.len().max(b.len())).find(|&i| a.get(i) != b.get(i)) {
                let near = |pieces: &[&str]| format!("{:?}", &pieces[i.saturating_sub(2)..pieces.len().min(i + 3)]);
                panic!("{:?} {:?}: ours {} regex {}", ours.pattern(), ours.level, near(&a), near(&b));
            }
        }
    }

    #[test]
    fn hand_written_splits_equal_their_regex_on_random_mixtures() {
        let alphabet: Vec<char> =
            "aZſK'stRElLvVdDmM 0½٣\t\n\r\u{a0}\u{3000}.-/!_ǅʰ漢ßÉ\u{301}ா😀\u{200b}\u{200d}ªк".chars().collect();
        let plain: Vec<char> = "abcdeeestSTDD   019''.,-/\n\n\t漢é\u{301}“Я".chars().collect();
        let mut state = 17;
        let noisy = |alphabet: &[char], most: usize, state: &mut u64| -> String {
            let len = noise(state) % most;
            (0..len).map(|_| alphabet[noise(state) % alphabet.len()]).collect()
        };
        let mut texts: Vec<String> = (0..1500).map(|_| noisy(&alphabet, 24, &mut state)).collect();
        // Longer than a window, and runs that cross its end.
        texts.extend((0..400).map(|_| noisy(&alphabet, 300, &mut state)));
        texts.extend((0..1200).map(|_| noisy(&plain, 300, &mut state)));
        texts.extend((0..600).map(|round| {
            let mut text = String::new();
            while text.len() < 300 {
                let c = plain[noise(&mut state) % plain.len()];
                (0..1 + noise(&mut state) % (1 + round / 10)).for_each(|_| text.push(c));
            }
            text
        }));
        for (ours, regex) in groups() {
            texts.iter().for_each(|text| assert_alike(&ours, &regex, text));
        }
    }

    #[test]
    fn hand_written_splits_equal_their_regex_on_real_text() {
        let texts = [
            include_str!("../fixtures/shakespeare.txt"),
            include_str!("../fixtures/multilingual.txt"),
            include_str!("../fixtures/peps.txt"),
            include_str!("window.rs"),
        ];
        for (ours, regex) in groups() {
            texts.iter().for_each(|text| assert_alike(&ours, &regex, text));
        }
    }

    #[test]
    fn hand_written_splits_equal_their_regex_around_every_scalar() {
        // What is uniform for `unicode` is sampled; every class is checked there for every scalar.
        let uniform = |code: u32| {
            matches!(code, 0x3400..=0x9fff | 0xac00..=0xd7a3 | 0xe000..=0xf8ff | 0x1_7000..=0x1_8cff | 0x2_0000..)
                && !code.is_multiple_of(61)
        };
        let scalars: Vec<char> = (0..=0x10_ffff).filter(|&code| !uniform(code)).filter_map(char::from_u32).collect();
        let around = |c: &char| format!("{c}\n{c}{c} {c}7{c}'{c}'s{c}B \n{c} {c}b. a{c}z");
        let texts: Vec<String> = scalars.chunks(64).map(|group| group.iter().map(around).collect()).collect();
        for (ours, regex) in groups() {
            texts.iter().for_each(|text| assert_alike(&ours, &regex, text));
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
        assert!(Splitter::tiktoken("x200k").is_err());
        for ours in groups().into_iter().flat_map(|(ours, _)| ours) {
            let found = Splitter::from_pattern(ours.pattern()).unwrap();
            assert_eq!((found.pattern(), found.single_digits()), (ours.pattern(), ours.single_digits()));
            assert!(found.regex.is_none());
        }
    }
}
