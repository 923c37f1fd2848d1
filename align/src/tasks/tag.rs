//! The answer inside a required tag: `Tag the last of: file page list` → `<answer> list</answer>`.
//!
//! In: the words, a stream. Out: one item, and the tagged form of an answer. A distractor is another of the three words.

use super::Item;
use super::words::distinct;
use crate::rng::Stream;

pub(super) fn draw(words: &[String], stream: &mut Stream) -> Item {
    let three = distinct(words, 3, stream);
    let last = stream.chance(0.5);
    let (place, at) = if last { ("last", 2) } else { ("first", 0) };
    let subject = three.join(" ");
    Item {
        prompt: format!("Tag the {place} of: {subject}"),
        answer: three[at].to_owned(),
        distractors: three.iter().enumerate().filter(|&(i, _)| i != at).map(|(_, &w)| w.to_owned()).collect(),
        subject,
        parent_id: None,
        span: None,
    }
}

/// The space keeps the word's token the one of the prompt.
pub(super) fn wrap(answer: &str) -> String {
    format!("<answer> {answer}</answer>")
}
