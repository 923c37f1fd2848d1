//! The k-th of five words: `Word 3 of: file page list name time` → `list`.
//!
//! In: the words, a stream. Out: one item. Learnable by looking k words on from a fixed place; a distractor is another of
//! the five.

use super::Item;
use super::words::distinct;
use crate::rng::Stream;

pub(super) fn draw(words: &[String], stream: &mut Stream) -> Item {
    let five = distinct(words, 5, stream);
    let k = stream.below(5);
    let subject = five.join(" ");
    Item {
        prompt: format!("Word {} of: {subject}", k + 1),
        answer: five[k].to_owned(),
        distractors: five.iter().enumerate().filter(|&(i, _)| i != k).map(|(_, &w)| w.to_owned()).collect(),
        subject,
        parent_id: None,
        span: None,
    }
}
