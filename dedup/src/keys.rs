//! Exact duplicates: by which key documents are the same, and which of the same come first.
//!
//! In: a text and a URL; then the keys of all documents, numbered in survivor order, one key partition at a time. Out: for
//! each document the first with its key. Left to others: the survivor order, and side files partitioned by key.
//! Memory: [`KeyEntry`] is 24 bytes, for the documents of one partition; the result is 4 bytes for every document.

use crate::url::canonical_url;
use crate::{exact_key, normalise, text_hash};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// When two documents are exact duplicates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExactBy {
    /// Their texts are equal byte for byte.
    Bytes,
    /// Their texts are equal apart from white space and Unicode form.
    #[default]
    Text,
    /// Their texts are equal in lower case, without accents and punctuation, each number as `0`.
    Normalised,
    /// Their URLs have one canonical form, tracking parameters dropped.
    Url,
}

/// 128-bit key that exact duplicates share; None if the document has nothing to compare: no URL with a host, or no word.
pub fn key_by(by: ExactBy, text: &str, url: Option<&str>) -> Option<u128> {
    match by {
        ExactBy::Bytes => Some(text_hash(text)),
        ExactBy::Text => Some(exact_key(text)),
        ExactBy::Normalised => {
            Some(normalise(text)).filter(|text| !text.is_empty()).map(|text| xxh3_128(text.as_bytes()))
        }
        ExactBy::Url => canonical_url(url?, true).map(|url| xxh3_128(url.as_bytes())),
    }
}

/// Why a document was removed, as it stands in the column `method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchedBy {
    /// Equal texts.
    Exact,
    /// Equal normalised texts.
    Normalised,
    /// Equal canonical URLs.
    Url,
    /// Fewer words than a shingle has, and the same words; see [`Signed::short`](crate::Signed::short).
    Short,
    /// Similar sets of shingles.
    Minhash,
}

impl MatchedBy {
    /// Its name in a column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Normalised => "normalised",
            Self::Url => "url",
            Self::Short => "short",
            Self::Minhash => "minhash",
        }
    }
}

impl From<ExactBy> for MatchedBy {
    fn from(by: ExactBy) -> Self {
        match by {
            ExactBy::Bytes | ExactBy::Text => Self::Exact,
            ExactBy::Normalised => Self::Normalised,
            ExactBy::Url => Self::Url,
        }
    }
}

/// A document's key, in 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyEntry {
    /// Upper and lower half.
    key: [u64; 2],
    /// Its number in survivor order.
    document: u32,
}

impl KeyEntry {
    /// Of a key and a document's number in survivor order.
    pub fn new(key: u128, document: u32) -> Self {
        Self { key: [(key >> 64) as u64, key as u64], document }
    }

    /// The key.
    pub fn key(&self) -> u128 {
        u128::from(self.key[0]) << 64 | u128::from(self.key[1])
    }

    /// The document's number in survivor order.
    pub fn document(&self) -> u32 {
        self.document
    }
}

/// Writes into `first`, for each document of one partition of the keys, the first document with its key (possibly itself).
/// Entries are sorted; `first` has a place for every document of the corpus.
pub fn mark_equal(entries: &mut [KeyEntry], first: &mut [u32]) {
    entries.sort_unstable();
    for group in entries.chunk_by(|x, y| x.key == y.key) {
        group.iter().for_each(|entry| first[entry.document as usize] = group[0].document);
    }
}

/// `first` before any partition is marked: every document is its own.
pub fn unmarked(documents: usize) -> Vec<u32> {
    (0..documents as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collapse;

    #[test]
    fn each_key_sees_through_its_own_differences() {
        let page = ("Hello,  World 12", Some("http://example.org:80/a#x"));
        let rows = [
            (("Hello,  World 12", Some("http://example.org/b")), [true, true, true, false]),
            (("Hello, World 12", Some("http://EXAMPLE.org/a?utm_source=y")), [false, true, true, true]),
            (("hello world 999", None), [false, false, true, false]),
            (("Hello, Moon 12", Some("no url")), [false, false, false, false]),
        ];
        for (other, wanted) in rows {
            let same = [ExactBy::Bytes, ExactBy::Text, ExactBy::Normalised, ExactBy::Url].map(|by| {
                let keys = [page, other].map(|(text, url)| key_by(by, text, url));
                keys[0].is_some() && keys[0] == keys[1]
            });
            assert_eq!(same, wanted, "{other:?}");
        }
        assert_eq!(key_by(ExactBy::Normalised, "?! …", None), None);
        assert!(key_by(ExactBy::Normalised, "世界", None).is_some());
        assert_eq!(MatchedBy::from(ExactBy::Url).name(), "url");
    }

    #[test]
    fn partitions_in_any_order_give_what_collapse_gives() {
        let keys: Vec<u128> = (0..500_u128).map(|n| (n * n * 7 % 41) << 64 | 5).collect();
        let order: Vec<u32> = (0..500).collect();
        let mut first = unmarked(500);
        for partition in (0..3).rev() {
            let mut entries: Vec<KeyEntry> = order
                .iter()
                .rev()
                .map(|&document| KeyEntry::new(keys[document as usize], document))
                .filter(|entry| entry.key[0] % 3 == partition)
                .collect();
            mark_equal(&mut entries, &mut first);
        }
        assert_eq!(first, collapse(&order, &keys));
        assert_eq!(size_of::<KeyEntry>(), 24);
        mark_equal(&mut [], &mut []);
    }
}
