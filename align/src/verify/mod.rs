//! Verifiers: does a completion answer its task?
//!
//! In: a spec string, the completion's text without special tokens, the gold answer. Out: pass, fail or unknown, with
//! the reason. Unknown means that the row cannot be judged (a broken gold answer); it is never a reward of 0.
//! All are pure, linear in the completion and without a clock. Left to others: code and maths (later rooms).

pub mod number;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Version of the verifiers; goes into fingerprints and beside each verdict.
pub const VERSION: u32 = 1;

/// How a completion is judged. Its string form is the `verifier` column of a task row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verifier {
    /// `exact`: equal to the answer, both trimmed of white space.
    Exact,
    /// `tag:NAME`: the answer between `<NAME>` and `</NAME>`, exactly one of each and in order; trimmed. Text around
    /// the pair is free.
    Tag(String),
    /// `last_number`: the last number of the completion equals the answer as an exact rational (see [`number`]).
    LastNumber,
    /// `one_of`: equal to one of the answers, which are separated by `|`; trimmed.
    OneOf,
}

/// What a verifier found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The completion answers the task.
    Pass,
    /// It does not.
    Fail,
    /// The row cannot be judged: its gold answer does not fit the verifier.
    Unknown,
}

impl Status {
    /// `pass`, `fail` or `unknown`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pass => "pass",
            Status::Fail => "fail",
            Status::Unknown => "unknown",
        }
    }

    /// True, false, or `None` if unknown: the input of [`crate::control::reward`].
    pub fn passed(self) -> Option<bool> {
        match self {
            Status::Pass => Some(true),
            Status::Fail => Some(false),
            Status::Unknown => None,
        }
    }
}

/// A verifier's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Pass, fail or unknown.
    pub status: Status,
    /// Why, in a few words; empty for a pass.
    pub detail: String,
}

/// A spec that names no verifier.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("unknown verifier `{spec}` (known: exact, tag:NAME, last_number, one_of)")]
pub struct VerifyError {
    /// What was given.
    pub spec: String,
}

impl Verifier {
    /// The verifier of this spec.
    pub fn parse(spec: &str) -> Result<Self, VerifyError> {
        let unknown = || VerifyError { spec: spec.to_owned() };
        match spec {
            "exact" => Ok(Self::Exact),
            "last_number" => Ok(Self::LastNumber),
            "one_of" => Ok(Self::OneOf),
            _ => {
                let name = spec.strip_prefix("tag:").ok_or_else(unknown)?;
                let letters = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                let fine = name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(letters);
                if fine { Ok(Self::Tag(name.to_owned())) } else { Err(unknown()) }
            }
        }
    }

    /// The spec of this verifier.
    pub fn spec(&self) -> String {
        match self {
            Self::Exact => "exact".to_owned(),
            Self::Tag(name) => format!("tag:{name}"),
            Self::LastNumber => "last_number".to_owned(),
            Self::OneOf => "one_of".to_owned(),
        }
    }

    /// Judges one completion.
    pub fn verify(&self, completion: &str, answer: &str) -> Verdict {
        let gold = answer.trim();
        if gold.is_empty() {
            return verdict(Status::Unknown, "the gold answer is empty");
        }
        match self {
            Self::Exact => compare(completion.trim(), gold),
            Self::Tag(name) => match inside_tag(completion, name) {
                Ok(inside) => compare(inside.trim(), gold),
                Err(fault) => verdict(Status::Fail, fault),
            },
            Self::LastNumber => last_number(completion, gold),
            Self::OneOf => {
                let given = completion.trim();
                let mut golds = gold.split('|').map(str::trim).filter(|g| !g.is_empty()).peekable();
                if golds.peek().is_none() {
                    return verdict(Status::Unknown, "the gold answer lists nothing");
                }
                if golds.any(|g| g == given) { pass() } else { verdict(Status::Fail, format!("got {}", short(given))) }
            }
        }
    }
}

/// Judges one completion by a spec string.
pub fn verify(spec: &str, completion: &str, answer: &str) -> Result<Verdict, VerifyError> {
    Ok(Verifier::parse(spec)?.verify(completion, answer))
}

fn pass() -> Verdict {
    verdict(Status::Pass, "")
}

fn verdict(status: Status, detail: impl Into<String>) -> Verdict {
    Verdict { status, detail: detail.into() }
}

fn compare(given: &str, gold: &str) -> Verdict {
    if given == gold { pass() } else { verdict(Status::Fail, format!("got {}", short(given))) }
}

/// At most 40 characters, quoted.
fn short(text: &str) -> String {
    let cut: String = text.chars().take(40).collect();
    if cut.len() < text.len() { format!("`{cut}…`") } else { format!("`{cut}`") }
}

/// The text between the one opening and the one closing tag.
fn inside_tag<'a>(text: &'a str, name: &str) -> Result<&'a str, String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let (opened, closed) = (text.matches(&open).count(), text.matches(&close).count());
    // A half tag such as `<answer` or `</answer >` counts as a start that is not a whole tag.
    let starts = text.matches(&open[..open.len() - 1]).count() + text.matches(&close[..close.len() - 1]).count();
    if opened != 1 || closed != 1 || starts != 2 {
        return Err(format!("{opened} {open} and {closed} {close}, {} malformed", starts - opened - closed));
    }
    match (text.find(&open), text.find(&close)) {
        (Some(start), Some(end)) if start + open.len() <= end => Ok(&text[start + open.len()..end]),
        _ => Err(format!("{close} comes before {open}")),
    }
}

fn last_number(completion: &str, gold: &str) -> Verdict {
    let Some(expected) = number::whole(gold) else {
        return verdict(Status::Unknown, format!("the gold answer {} is not one number", short(gold)));
    };
    match number::last(completion) {
        None => verdict(Status::Fail, "no number"),
        Some((_, Some(found))) if found == expected => pass(),
        Some((text, _)) => verdict(Status::Fail, format!("got {}", short(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(spec: &str, completion: &str, answer: &str) -> Status {
        verify(spec, completion, answer).unwrap().status
    }

    #[test]
    fn exact_trims_and_nothing_else() {
        for (completion, answer, expected) in [
            (" pear", "pear", Status::Pass),
            ("pear\n", " pear ", Status::Pass),
            ("Pear", "pear", Status::Fail),
            ("pear lime", "pear", Status::Fail),
            ("", "pear", Status::Fail),
            ("Birne über", "Birne über", Status::Pass),
            ("梨", "梨", Status::Pass),
            ("pear", "", Status::Unknown),
        ] {
            assert_eq!(status("exact", completion, answer), expected, "{completion:?} {answer:?}");
        }
    }

    #[test]
    fn a_tag_must_be_there_exactly_once_and_whole() {
        for (completion, expected) in [
            ("<answer>pear</answer>", Status::Pass),
            (" so: <answer> pear </answer>.", Status::Pass),
            ("pear", Status::Fail),
            ("<answer>lime</answer>", Status::Fail),
            ("<answer>pear", Status::Fail),
            ("pear</answer>", Status::Fail),
            ("</answer>pear<answer>", Status::Fail),
            ("<answer>pear</answer><answer>pear</answer>", Status::Fail),
            ("<answer><answer>pear</answer>", Status::Fail),
            ("<answer>pear</answer> <answer", Status::Fail),
            ("<answer>pear</answer> </answer >", Status::Fail),
            ("<Answer>pear</Answer>", Status::Fail),
            ("", Status::Fail),
        ] {
            assert_eq!(status("tag:answer", completion, "pear"), expected, "{completion:?}");
        }
        assert_eq!(status("tag:a", "<a>梨</a>", "梨"), Status::Pass);
    }

    #[test]
    fn the_last_number_counts_and_a_broken_gold_is_unknown() {
        for (completion, answer, expected) in [
            ("47 is less than 82", "82", Status::Pass),
            ("82 then 47", "82", Status::Fail),
            ("it is 1,234.50.", "1234.5", Status::Pass),
            ("-7", "7", Status::Fail),
            ("50%", "1/2", Status::Pass),
            ("no digits", "7", Status::Fail),
            ("", "7", Status::Fail),
            ("７", "7", Status::Fail),
            ("7", "seven", Status::Unknown),
            ("7", "3 or 7", Status::Unknown),
        ] {
            assert_eq!(status("last_number", completion, answer), expected, "{completion:?} {answer:?}");
        }
    }

    #[test]
    fn one_of_takes_any_listed_answer() {
        assert_eq!(status("one_of", " b ", "a | b|c"), Status::Pass);
        assert_eq!(status("one_of", "a | b", "a | b|c"), Status::Fail);
        assert_eq!(status("one_of", "", "a||b"), Status::Fail);
        assert_eq!(status("one_of", "a", " | "), Status::Unknown);
    }

    #[test]
    fn specs_round_trip_and_unknown_ones_name_the_known() {
        for spec in ["exact", "last_number", "one_of", "tag:answer", "tag:final-2"] {
            assert_eq!(Verifier::parse(spec).unwrap().spec(), spec);
        }
        for spec in ["", "exakt", "tag:", "tag:a b", "tag:<a>", "tag:1a"] {
            assert!(Verifier::parse(spec).unwrap_err().to_string().contains("known: exact"), "{spec}");
        }
    }

    #[test]
    fn hostile_completions_take_linear_time() {
        for piece in ["<answer", "<answer>", "1,", "1,000,", "-", "1.", "9", "1/1/", "<"] {
            let text = piece.repeat(2_000_000 / piece.len());
            for spec in ["exact", "tag:answer", "last_number", "one_of"] {
                assert_eq!(status(spec, &text, "7"), Status::Fail, "{piece} {spec}");
            }
        }
    }
}
