//! Edits of lines: what C4, RefinedWeb and FineWeb2 take out of a text.
//!
//! In: a text. Out: changes in order. Which lines and marks go is decided where the rules of the same name measure (`rules::c4`,
//! `rules::refinedweb`).

use std::borrow::Cow;

use super::Change;
use crate::rules::{c4 as c4_rules, refinedweb as refinedweb_rules};
use crate::text::{is_space, tokenize};

/// C4 in the mode of FineWeb: dropped lines with their line breaks, citation marks, white space at both ends of lines; all breaks
/// between the lines that are left become line feeds. Followed by `trim` it gives datatrove's text.
pub(super) fn c4(text: &str) -> Vec<Change> {
    let tokens = tokenize(text);
    let mut dropped = c4_rules::dropped_rows(text, &tokens).into_iter().peekable();
    let mut changes = Vec::new();
    let rows = tokens.rows();
    let mut kept_any = false;
    for (at, row) in rows.iter().enumerate() {
        let next = rows.get(at + 1).map_or(text.len(), |next| next.start);
        if let Some((_, rule)) = dropped.next_if(|(line, _)| line.start == row.start) {
            changes.push(Change::remove(row.start..next, rule.name()));
            continue;
        }
        let line = row.of(text);
        let body = line.trim_matches(is_space);
        let start = row.start + line.len() - line.trim_start_matches(is_space).len();
        let end = start + body.len();
        push(&mut changes, Change::remove(row.start..start, "c4.space"));
        for mark in c4_rules::citations(body) {
            changes.push(Change::remove(start + mark.start..start + mark.end, "c4.citation"));
        }
        if &text[end..next] != "\n" {
            let with = if next > row.end { Cow::Borrowed("\n") } else { Cow::Borrowed("") };
            push(&mut changes, Change { range: end..next, rule: "c4.space", with });
        }
        kept_any = true;
    }
    debug_assert!(kept_any || changes.len() == rows.len(), "a text without lines to keep has only removals");
    changes
}

/// White space at both ends of the text.
pub(super) fn trim(text: &str) -> Vec<Change> {
    let body = text.trim_matches(is_space);
    let start = text.len() - text.trim_start_matches(is_space).len();
    let mut changes = Vec::new();
    if body.is_empty() {
        push(&mut changes, Change::remove(0..text.len(), "c4.space"));
        return changes;
    }
    push(&mut changes, Change::remove(0..start, "c4.space"));
    push(&mut changes, Change::remove(start + body.len()..text.len(), "c4.space"));
    changes
}

/// Lines and phrases that are no prose; a line goes with its line feed.
pub(super) fn refinedweb(text: &str) -> Vec<Change> {
    let cuts = refinedweb_rules::cuts(text, &tokenize(text));
    let change = |cut: refinedweb_rules::Cut| {
        let after = &text[cut.range.end..];
        let line_feed = ["\r\n", "\n"].into_iter().find(|feed| after.starts_with(feed)).map_or(0, str::len);
        let end = cut.range.end + if cut.whole { line_feed } else { 0 };
        Change::remove(cut.range.start..end, cut.rule)
    };
    cuts.into_iter().map(change).collect()
}

/// Citation marks anywhere.
pub(super) fn citations(text: &str) -> Vec<Change> {
    c4_rules::citations(text).into_iter().map(|mark| Change::remove(mark, "citation")).collect()
}

/// Runs of lines with nothing but `|` and spaces become one empty paragraph (FineWeb2's `SymbolLinesFormatter`).
pub(super) fn pipes(text: &str) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let end = start + line.len();
        let body = line.trim_end_matches(['\n', '\r']);
        if body.contains('|') && body.chars().all(|c| c == '|' || c == ' ') {
            let goes_on = changes.last().is_some_and(|change| change.range.end == start);
            if goes_on {
                if let Some(change) = changes.last_mut() {
                    change.range.end = end;
                }
            } else {
                changes.push(Change { range: start..end, rule: "pipes", with: Cow::Borrowed("\n\n") });
            }
        }
        start = end;
    }
    changes
}

fn push(changes: &mut Vec<Change>, change: Change) {
    if !change.range.is_empty() || !change.with.is_empty() {
        changes.push(change);
    }
}

#[cfg(test)]
mod tests {
    use crate::edit::{EditConfig, Step, edit, rebuild};

    fn after(step: Step, text: &str) -> String {
        let edited = edit(text, &EditConfig { steps: vec![step], pii: None });
        assert_eq!(rebuild(&edited.text, &edited.edits), text);
        edited.text
    }

    #[test]
    fn c4_keeps_whole_lines_without_marks_and_spaces() {
        for (text, expected) in [
            ("", ""),
            ("word", ""),
            ("One two three.", "One two three."),
            (
                "  A fact.[1] Another one. \r\nshort\nWe use cookies here.\n\nLast line is kept [2]\n",
                "A fact. Another one.\nLast line is kept",
            ),
            ("मुझे यह पसंद है।\nनहीं", "मुझे यह पसंद है।"),
        ] {
            assert_eq!(after(Step::C4Lines, text), expected, "{text:?}");
        }
    }

    #[test]
    fn refinedweb_takes_lines_with_their_feed_and_phrases_without() {
        let text = "A line of prose.\nLOGIN\n\nand more of it Read more...\n12 likes";
        assert_eq!(after(Step::RefinedwebLines, text), "A line of prose.\n\nand more of it\n");
        assert_eq!(after(Step::RefinedwebLines, ""), "");
    }

    #[test]
    fn pipes_become_an_empty_paragraph() {
        assert_eq!(after(Step::PipeLines, "a\n|\n| |\nb\n||"), "a\n\n\nb\n\n\n");
        assert_eq!(after(Step::PipeLines, "a | b\n  \n"), "a | b\n  \n");
    }

    #[test]
    fn citations_go_and_other_brackets_stay() {
        assert_eq!(after(Step::Citations, "a[1] [x] b[edit]"), "a [x] b");
    }
}
