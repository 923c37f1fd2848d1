//! Edits: text to text, with all that is needed to go back.
//!
//! In: a text and the steps of an `EditConfig`. Out: the new text and its `Edit`s, from which `rebuild` makes the old text again, byte
//! for byte. Rules find what to change and never change anything themselves; this file applies, composes and undoes.
//! Steps: `unicode` (`unicode.rs`), `pii` (`pii.rs`), the others in `lines.rs`.

mod lines;
mod pii;
mod unicode;

use std::borrow::Cow;
use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use pii::{Pii, PiiKind, find_pii};

/// One place where the new text differs from the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// First byte in the NEW text.
    pub start: usize,
    /// One past the last byte in the new text; `start` if something was only taken out.
    pub end: usize,
    /// Step and rule, as in `pii.email`; several joined by `+` where edits met.
    pub rule: Cow<'static, str>,
    /// What stood there in the old text; empty if something was only put in.
    pub removed: String,
}

/// A new text and its way back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edited {
    /// The new text.
    pub text: String,
    /// In order; two that begin at the same place stand in the order of the old text.
    pub edits: Vec<Edit>,
}

/// A change that a step asks for: a range of the text it looks at, and what comes there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub range: Range<usize>,
    pub rule: &'static str,
    pub with: Cow<'static, str>,
}

impl Change {
    pub(crate) fn remove(range: Range<usize>, rule: &'static str) -> Self {
        Self { range, rule, with: Cow::Borrowed("") }
    }
}

/// What an edit stage does, in this order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EditConfig {
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// What the step `pii` looks for (default: all kinds).
    pub pii: Option<Vec<PiiKind>>,
}

/// A step of an edit stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Repairs text that was decoded wrongly (UTF-8 read as Windows-1252 or Latin-1), takes out control characters, byte order marks
    /// and zero-width spaces, makes line feeds of all line breaks, composes to NFC.
    Unicode,
    /// Takes out the lines that C4 drops, citation marks and white space around lines, as FineWeb does.
    C4Lines,
    /// Takes out lines and phrases as RefinedWeb and DCLM do.
    RefinedwebLines,
    /// Takes out citation marks: `[12]`, `[edit]`, `[citation needed]`.
    Citations,
    /// Replaces e-mail addresses, public IP addresses, international phone numbers and IBANs.
    Pii,
    /// Makes an empty paragraph of lines that have only `|` in them: what extractors leave of tables.
    PipeLines,
}

/// Applies all steps.
pub fn edit(text: &str, config: &EditConfig) -> Edited {
    let mut edited = Edited { text: text.to_owned(), edits: Vec::new() };
    for step in &config.steps {
        edited = then(edited, |text| match step {
            Step::Unicode => vec![unicode::repair(text)],
            Step::C4Lines => vec![lines::c4(text)],
            Step::RefinedwebLines => vec![lines::refinedweb(text)],
            Step::Citations => vec![lines::citations(text)],
            Step::Pii => vec![pii::changes(text, config.pii.as_deref().unwrap_or(&PiiKind::ALL))],
            Step::PipeLines => vec![lines::pipes(text)],
        });
        edited = match step {
            Step::Unicode => then(edited, |text| vec![unicode::compose(text)]),
            Step::C4Lines => then(edited, |text| vec![lines::trim(text)]),
            _ => edited,
        };
    }
    edited
}

/// The old text.
pub fn rebuild(text: &str, edits: &[Edit]) -> String {
    let mut old = String::with_capacity(text.len());
    let mut from = 0;
    for edit in edits {
        old.push_str(&text[from..edit.start]);
        old.push_str(&edit.removed);
        from = edit.end;
    }
    old.push_str(&text[from..]);
    old
}

/// Goes one or more steps on from an edited text.
fn then(mut edited: Edited, changes: impl Fn(&str) -> Vec<Vec<Change>>) -> Edited {
    for changes in changes(&edited.text) {
        if !changes.is_empty() {
            let next = apply(&edited.text, &changes);
            edited = Edited { edits: composed(&edited, &next), text: next.text };
        }
    }
    edited
}

/// Makes changes, which are in order and do not overlap.
fn apply(text: &str, changes: &[Change]) -> Edited {
    let mut edited = Edited { text: String::with_capacity(text.len()), edits: Vec::with_capacity(changes.len()) };
    let mut from = 0;
    for change in changes {
        edited.text.push_str(&text[from..change.range.start]);
        let start = edited.text.len();
        edited.text.push_str(&change.with);
        from = change.range.end;
        edited.edits.push(Edit {
            start,
            end: edited.text.len(),
            rule: Cow::Borrowed(change.rule),
            removed: text[change.range.clone()].to_owned(),
        });
    }
    edited.text.push_str(&text[from..]);
    edited
}

/// Edits from the oldest text to the newest, given those to a text between them and from there on.
///
/// Every edit is seen as a range of the text between. An earlier and a later one that overlap or meet become one.
fn composed(first: &Edited, second: &Edited) -> Vec<Edit> {
    let between = &first.text;
    let (mut earlier, mut later) = (first.edits.iter().peekable(), second.edits.iter().peekable());
    let mut composed = Vec::new();
    // How far the newest text is ahead of the text between, up to the edits taken so far.
    let mut grown = 0_isize;
    let width = |edit: &Edit| edit.removed.len() as isize - (edit.end - edit.start) as isize;
    let range_of_later = |edit: &Edit, grown: isize| {
        let start = (edit.start as isize - grown) as usize;
        start..start + edit.removed.len()
    };
    loop {
        // The group begins with whichever comes first, and takes in all that touches it.
        let next_later = later.peek().map(|edit| range_of_later(edit, grown));
        let next_earlier = earlier.peek().map(|edit| edit.start..edit.end);
        let Some(mut group) = (match (&next_earlier, &next_later) {
            (Some(a), Some(b)) => Some(if a.start <= b.start { a.clone() } else { b.clone() }),
            (a, b) => a.clone().or_else(|| b.clone()),
        }) else {
            return composed;
        };
        let start = (group.start as isize + grown) as usize;
        let (mut old, mut at, mut rules) = (String::new(), group.start, Vec::<&str>::new());
        let (mut earlier_end, mut later_end): (Option<usize>, Option<usize>) = (None, None);
        loop {
            let is_first = earlier_end.is_none() && later_end.is_none();
            let touches = |start: usize, other: Option<usize>| {
                if is_first { start == group.start } else { other.is_some_and(|end| start <= end) }
            };
            if let Some(edit) = earlier.next_if(|edit| touches(edit.start, later_end)) {
                old.push_str(&between[at..edit.start]);
                old.push_str(&edit.removed);
                at = edit.end;
                earlier_end = Some(edit.end);
                rules.push(&edit.rule);
            } else if let Some(edit) = later.next_if(|edit| touches(range_of_later(edit, grown).start, earlier_end)) {
                later_end = Some(range_of_later(edit, grown).end);
                grown -= width(edit);
                rules.push(&edit.rule);
            } else {
                break;
            }
            group.end = earlier_end.max(later_end).unwrap_or(group.end);
        }
        old.push_str(&between[at..group.end]);
        let end = (group.end as isize + grown) as usize;
        let mut seen = Vec::new();
        rules.retain(|rule| {
            let new = !seen.contains(rule);
            seen.push(rule);
            new
        });
        let rule = if rules.len() == 1 { rules[0].to_owned() } else { rules.join("+") };
        if old != second.text[start..end] {
            composed.push(Edit { start, end, rule: Cow::Owned(rule), removed: old });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_steps() -> EditConfig {
        let steps =
            vec![Step::Unicode, Step::Citations, Step::Pii, Step::RefinedwebLines, Step::C4Lines, Step::PipeLines];
        EditConfig { steps, pii: None }
    }

    #[test]
    fn nothing_changes_where_nothing_is_wrong() {
        for text in ["", "Ein Satz mit drei Wörtern.", "我们都在 这里 呢。"] {
            assert_eq!(edit(text, &all_steps()), Edited { text: text.to_owned(), edits: Vec::new() });
        }
    }

    #[test]
    fn edits_say_where_what_and_why() {
        let config = EditConfig { steps: vec![Step::Citations, Step::Pii], pii: Some(vec![PiiKind::Email]) };
        let edited = edit("See [1] or write to jane@uni.edu.", &config);
        assert_eq!(edited.text, "See  or write to email@example.com.");
        let rows: Vec<(usize, usize, &str, &str)> =
            edited.edits.iter().map(|edit| (edit.start, edit.end, &*edit.rule, &*edit.removed)).collect();
        assert_eq!(rows, [(4, 4, "citation", "[1]"), (17, 34, "pii.email", "jane@uni.edu")]);
    }

    #[test]
    fn neighbours_of_one_step_stay_apart_and_those_of_two_steps_that_meet_become_one() {
        let config = EditConfig { steps: vec![Step::RefinedwebLines, Step::PipeLines], pii: None };
        let edited = edit("A line of prose.\nword\n12 likes\nAnother line of it.", &config);
        let rules: Vec<&str> = edited.edits.iter().map(|edit| &*edit.rule).collect();
        assert_eq!(rules, ["refinedweb.one_word", "refinedweb.counter"]);
        let edited = edit("a b\nword\n | |\nc d", &config);
        assert_eq!((edited.text.as_str(), edited.edits.len()), ("a b\n\n\nc d", 1));
        assert_eq!(edited.edits[0].rule, "refinedweb.one_word+pipes");
    }

    #[test]
    fn the_old_text_comes_back_from_random_texts_and_steps() {
        let parts = [
            "a",
            "b.",
            " ",
            "\n",
            "\r\n",
            "[1]",
            "[edit]",
            "{",
            "javascript",
            "use cookies",
            "é",
            "e\u{301}",
            "Ã©",
            "â€™",
            "ðŸ˜€",
            "\u{FEFF}",
            "\u{7}",
            "\u{85}",
            "jane@uni.edu",
            "8.8.8.8",
            "+49 30 1234567",
            "DE89 3704 0044 0532 0130 00",
            "|",
            " | ",
            "LOGIN",
            "3 likes",
            "read more...",
            "我",
            "。",
            "The cat sat on the mat. ",
            "\u{1b}[31m",
            "\u{2028}",
            "Ð¿Ñ€",
            "2001:4860:4860::8888",
        ];
        let steps = all_steps().steps;
        let mut state = 11_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let mut changed = 0;
        for _ in 0..4000 {
            let text: String = (0..random(25)).map(|_| parts[random(parts.len())]).collect();
            let chosen: Vec<Step> = (0..random(6) + 1).map(|_| steps[random(steps.len())]).collect();
            let config = EditConfig { steps: chosen.clone(), pii: None };
            let edited = edit(&text, &config);
            assert_eq!(rebuild(&edited.text, &edited.edits), text, "{chosen:?}");
            let ordered = edited.edits.windows(2).all(|pair| pair[0].end <= pair[1].start);
            assert!(ordered, "{:?}", edited.edits);
            changed += usize::from(!edited.edits.is_empty());
        }
        assert!(changed > 2000, "{changed}");
    }

    #[test]
    fn configs_are_written_in_words() {
        let config: EditConfig =
            serde_json::from_str(r#"{"steps": ["unicode", "c4_lines"], "pii": ["email"]}"#).expect("right");
        assert_eq!(config.steps, [Step::Unicode, Step::C4Lines]);
        assert!(serde_json::from_str::<EditConfig>(r#"{"steps": ["magic"]}"#).is_err());
    }
}
