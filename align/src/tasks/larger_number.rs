//! The larger of two numbers: `Larger of 47 and 82` → `82`.
//!
//! In: a stream. Out: one item with two different numbers of 0..=99. The subject is the unordered pair, so a held-out
//! pair is held out in both orders. The distractor is the smaller number.

use super::Item;
use crate::rng::Stream;

pub(super) fn draw(stream: &mut Stream) -> Item {
    let a = stream.below(100);
    let b = (a + 1 + stream.below(99)) % 100;
    Item {
        prompt: format!("Larger of {a} and {b}"),
        answer: a.max(b).to_string(),
        distractors: vec![a.min(b).to_string()],
        subject: format!("{} {}", a.min(b), a.max(b)),
        parent_id: None,
        span: None,
    }
}
