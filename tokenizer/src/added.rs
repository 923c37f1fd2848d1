//! What stands around the merging: normalisation, and the added tokens of a file.
//!
//! In: a text. Out: the text in the normal form that the tokenizer asks for, and, for text that the program itself wrote, the added
//! tokens in it with the text between them. Follows `tokenizers`: tokens that are not `normalized` are searched in the text
//! as it is, the longest at the leftmost place; then the others in the normalised text between those. Leaves ids of ordinary
//! text to `encode`.

use std::{borrow::Cow, cmp::Reverse, ops::Range};

use serde::{Deserialize, Serialize};
use unicode_normalization_alignments::{
    IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfd_quick, is_nfkc_quick, is_nfkd_quick,
};

use crate::Tokenizer;

/// A normal form of Unicode (UAX 15), by its name in `tokenizer.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "UPPERCASE")]
pub(crate) enum Form {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
}

impl Form {
    pub(crate) fn apply<'t>(self, text: &'t str) -> Cow<'t, str> {
        let chars = || text.chars();
        let known = text.is_ascii()
            || IsNormalized::Yes
                == match self {
                    Self::Nfc => is_nfc_quick(chars()),
                    Self::Nfd => is_nfd_quick(chars()),
                    Self::Nfkc => is_nfkc_quick(chars()),
                    Self::Nfkd => is_nfkd_quick(chars()),
                };
        if known {
            return Cow::Borrowed(text);
        }
        Cow::Owned(match self {
            Self::Nfc => text.nfc().map(|(c, _)| c).collect(),
            Self::Nfd => text.nfd().map(|(c, _)| c).collect(),
            Self::Nfkc => text.nfkc().map(|(c, _)| c).collect(),
            Self::Nfkd => text.nfkd().map(|(c, _)| c).collect(),
        })
    }
}

/// An added token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddedToken {
    pub(crate) text: String,
    pub(crate) id: u32,
    /// Only where no word character stands beside it.
    pub(crate) single_word: bool,
    /// Takes the white space before it.
    pub(crate) lstrip: bool,
    /// Takes the white space after it.
    pub(crate) rstrip: bool,
    /// Is searched in the normalised text.
    pub(crate) normalized: bool,
    /// Is left out by `decode_text`.
    pub(crate) special: bool,
}

/// All added tokens and the normaliser.
#[derive(Clone, Debug, Default)]
pub(crate) struct Added {
    pub(crate) form: Option<Form>,
    pub(crate) tokens: Vec<AddedToken>,
    /// What is searched for each of `tokens`: its text, normalised if it is `normalized`.
    searched: Vec<String>,
    /// Numbers of `tokens` by their first byte, the longest text first: those searched in the text as it is, and those
    /// searched in the normalised text.
    by_byte: [Vec<Vec<u32>>; 2],
}

impl Added {
    /// Tables for these tokens.
    pub(crate) fn new(tokens: Vec<AddedToken>, form: Option<Form>) -> Self {
        let normalize = |text: &str| form.map_or_else(|| text.to_owned(), |form| form.apply(text).into_owned());
        Self { form, ..Self::searching(tokens, normalize) }
    }

    /// Tables for these tokens with any normaliser.
    pub(crate) fn searching(tokens: Vec<AddedToken>, normalize: impl Fn(&str) -> String) -> Self {
        let mut by_byte = [vec![Vec::new(); 256], vec![Vec::new(); 256]];
        let text = |token: &AddedToken| match token.normalized {
            true => normalize(&token.text),
            false => token.text.clone(),
        };
        let searched: Vec<String> = tokens.iter().map(text).collect();
        for ((token, searched), i) in tokens.iter().zip(&searched).zip(0_u32..) {
            if let Some(&byte) = searched.as_bytes().first() {
                by_byte[usize::from(token.normalized)][usize::from(byte)].push(i);
            }
        }
        for list in by_byte.iter_mut().flatten() {
            list.sort_by_key(|&i| Reverse(searched[i as usize].len()));
        }
        Self { form: None, tokens, searched, by_byte }
    }

    /// The text as the merging sees it.
    pub(crate) fn normalized<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.form.map_or(Cow::Borrowed(text), |form| form.apply(text))
    }

    /// Added tokens in `text` and what stands between them, in order; `normalized` chooses which tokens.
    pub(crate) fn find<'a>(&'a self, text: &str, normalized: bool) -> Vec<(Range<usize>, Option<&'a AddedToken>)> {
        let lists = &self.by_byte[usize::from(normalized)];
        let (mut out, mut done, mut at) = (Vec::new(), 0, 0);
        while at < text.len() {
            let rest = &text.as_bytes()[at..];
            let list = &lists[usize::from(rest[0])];
            let found = list.iter().find(|&&i| rest.starts_with(self.searched[i as usize].as_bytes()));
            let Some(&i) = found else {
                at += 1;
                continue;
            };
            let token = &self.tokens[i as usize];
            let (mut start, mut end) = (at, at + self.searched[i as usize].len());
            at = end;
            let (before, after) = (&text[..start], &text[end..]);
            if token.single_word && (before.ends_with(is_word) || after.starts_with(is_word)) {
                continue;
            }
            if token.lstrip {
                start = before.trim_end().len().max(done);
            }
            if token.rstrip {
                end += after.len() - after.trim_start().len();
            }
            if done < start {
                out.push((done..start, None));
            }
            out.push((start..end, Some(token)));
            done = end;
        }
        if done < text.len() {
            out.push((done..text.len(), None));
        }
        out
    }
}

/// `\w`.
fn is_word(c: char) -> bool {
    use crate::unicode::{Classes, LETTER, MARK};
    let connector = matches!(c, '_' | '\u{203f}' | '\u{2040}' | '\u{2054}' | '\u{fe33}' | '\u{fe34}')
        || matches!(c, '\u{fe4d}'..='\u{fe4f}' | '\u{ff3f}' | '\u{200c}' | '\u{200d}');
    c.is_alphanumeric() && !matches!(c, '\u{b2}' | '\u{b3}' | '\u{b9}')
        || Classes::get().of(u32::from(c)) & (LETTER | MARK) != 0
        || connector
}

impl Tokenizer {
    /// Ids of a text in which the texts of added tokens are those tokens, as `tokenizers` encodes. Only for text that the
    /// program itself wrote.
    pub fn encode_with_specials(&self, text: &str) -> Vec<u32> {
        let (mut out, mut encoder) = (Vec::new(), self.encoder());
        for (range, token) in self.added.find(text, false) {
            if let Some(token) = token {
                out.push(token.id);
                continue;
            }
            let part = self.added.normalized(&text[range]);
            for (range, token) in self.added.find(&part, true) {
                match token {
                    Some(token) => out.push(token.id),
                    None => encoder.encode_normalized(&part[range], &mut out),
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TokenizerConfig, WordCounts, train};

    #[test]
    fn special_texts_are_specials_only_when_asked_for() {
        let tokenizer = train(&WordCounts::new(), &TokenizerConfig { vocab_size: 261, ..Default::default() }).unwrap();
        let text = "a<|end|>b<|endoftext|><|en";
        assert!(tokenizer.encode(text).iter().all(|&id| !tokenizer.is_special(id)));
        let ids = tokenizer.encode_with_specials(text);
        assert_eq!(ids.iter().copied().filter(|&id| tokenizer.is_special(id)).collect::<Vec<_>>(), [4, 0]);
        assert_eq!(tokenizer.decode(&ids), text);
        assert!(tokenizer.encode_with_specials("").is_empty());
    }

    #[test]
    fn flags_take_white_space_and_refuse_words_beside_them() {
        let token = |text: &str| AddedToken { text: text.to_owned(), ..AddedToken::default() };
        let added = Added::new(
            vec![
                AddedToken { lstrip: true, ..token("<l>") },
                AddedToken { rstrip: true, ..token("<r>") },
                AddedToken { single_word: true, ..token("word") },
                token("<l>x"),
            ],
            None,
        );
        let cut = |text: &str| -> Vec<String> {
            added
                .find(text, false)
                .iter()
                .map(|(range, t)| format!("{}{}", &text[range.clone()], t.map_or("", |_| "!")))
                .collect()
        };
        assert_eq!(cut("a  <l> b"), ["a", "  <l>!", " b"]);
        assert_eq!(cut("a  <r> \n b"), ["a  ", "<r> \n !", "b"]);
        assert_eq!(cut("<r>  <l><l>x"), ["<r>  !", "<l>!", "<l>x!"]);
        assert_eq!(cut("a word, words word"), ["a ", "word!", ", words ", "word!"]);
        assert!(cut("").is_empty());
    }

    #[test]
    fn a_normal_form_is_applied_only_where_it_changes_something() {
        let added = Added::new(Vec::new(), Some(Form::Nfc));
        assert!(matches!(added.normalized("plain é 漢"), Cow::Borrowed(_)));
        assert_eq!(added.normalized("e\u{301}\u{212b}ﬁ"), "\u{e9}\u{c5}ﬁ");
        for (form, text) in [(Form::Nfd, "e\u{301}ﬁ"), (Form::Nfkc, "\u{e9}fi"), (Form::Nfkd, "e\u{301}fi")] {
            assert_eq!(form.apply("\u{e9}ﬁ"), text);
        }
    }
}
