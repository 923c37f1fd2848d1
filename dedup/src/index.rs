//! What an earlier run kept, for runs over later crawls.
//!
//! In: the kept documents of a run; later, the documents of another. Out: bytes; then for each document the indexed one that
//! it repeats. Left to others: files, and how many documents one index holds. Indexes of any number of parts are asked
//! together, so that each can be built in bounded memory, and they are read in place (from a memory map, for instance).
//!
//! Indexed documents count as first in survivor order: a document that repeats one is removed for it, the others are then
//! compared among themselves. With verification the same documents stay as if both runs had been one.
//! Size: for each document 16 bytes of id, 20 of its exact key, 20 of a short document's key or 12 for each band, and 8 + 8
//! for each shingle. While it is built, 16 for each band. Numbers are little-endian; the last 16 bytes are xxh3-128 of all
//! before them.

use crate::{DedupConfig, Family, KeyEntry, MatchedBy, Method, Overflow, SignatureConfig, Signed, jaccard};
use xxhash_rust::xxh3::xxh3_128;

/// First bytes; the digit is the version of the format and of the keys in it.
const MAGIC: &[u8; 8] = b"gmindex1";
const HEAD_BYTES: usize = 8 + 4 * 4 + 8 * 5;
const SUM_BYTES: usize = 16;

/// Collects the kept documents of a run.
#[derive(Clone, Debug)]
pub struct IndexBuilder {
    config: SignatureConfig,
    ids: Vec<u128>,
    exact: Vec<KeyEntry>,
    short: Vec<KeyEntry>,
    bands: Vec<Vec<(u64, u32)>>,
    ends: Vec<u64>,
    shingles: Vec<u64>,
}

impl IndexBuilder {
    /// For documents signed with `config`.
    pub fn new(config: &SignatureConfig) -> Self {
        let bands = vec![Vec::new(); config.bands];
        let (ids, exact, short, ends, shingles) = Default::default();
        Self { config: *config, ids, exact, short, bands, ends, shingles }
    }

    /// Adds a kept document; documents come in survivor order.
    pub fn push(&mut self, id: u128, signed: &Signed) {
        assert!(signed.bands.is_empty() || signed.bands.len() == self.bands.len(), "one key for each band, or none");
        let document = u32::try_from(self.ids.len()).expect("one index holds fewer than 2^32 documents");
        self.ids.push(id);
        self.exact.push(KeyEntry::new(signed.exact, document));
        self.short.extend(signed.short.map(|key| KeyEntry::new(key, document)));
        self.bands.iter_mut().zip(&signed.bands).for_each(|(band, key)| band.push((*key, document)));
        self.shingles.extend_from_slice(&signed.shingles);
        self.ends.push(self.shingles.len() as u64);
    }

    /// The index.
    pub fn finish(mut self) -> Vec<u8> {
        let signed = self.bands.first().map_or(0, Vec::len);
        let mut bytes = Vec::new();
        bytes.extend_from_slice(MAGIC);
        let SignatureConfig { family, ngram, bands, rows, seed } = self.config;
        for number in [family_code(family), bands as u32, rows as u32, self.ids.len() as u32] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [ngram as u64, seed, self.short.len() as u64, signed as u64, self.shingles.len() as u64] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        self.ids.iter().for_each(|id| bytes.extend_from_slice(&id.to_le_bytes()));
        for keys in [&mut self.exact, &mut self.short] {
            keys.sort_unstable();
            for entry in keys.iter() {
                bytes.extend_from_slice(&entry.key().to_le_bytes());
                bytes.extend_from_slice(&entry.document().to_le_bytes());
            }
        }
        for band in &mut self.bands {
            band.sort_unstable();
            for (key, document) in band.iter() {
                bytes.extend_from_slice(&key.to_le_bytes());
                bytes.extend_from_slice(&document.to_le_bytes());
            }
        }
        self.ends.iter().chain(&self.shingles).for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        let sum = xxh3_128(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }
}

/// Why an index cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The bytes are not an index of this version.
    #[error("not a deduplication index of version 1: {0}")]
    Format(&'static str),
    /// It was made with other signatures.
    #[error("the index was made with other signatures: {}", differences.join(", "))]
    Differs {
        /// Each field that differs, such as `seed is 1 in the index and 2 in this run`.
        differences: Vec<String>,
    },
}

/// An index, read in place.
#[derive(Clone, Debug)]
pub struct Index<'a> {
    ids: &'a [[u8; 16]],
    exact: &'a [[u8; 20]],
    short: &'a [[u8; 20]],
    bands: Vec<&'a [[u8; 12]]>,
    ends: &'a [[u8; 8]],
    shingles: &'a [[u8; 8]],
}

impl<'a> Index<'a> {
    /// Reads what [`IndexBuilder::finish`] gave; an error if it is damaged or was made with other signatures.
    pub fn open(bytes: &'a [u8], config: &SignatureConfig) -> Result<Self, IndexError> {
        let (body, sum) = bytes.split_last_chunk::<SUM_BYTES>().ok_or(IndexError::Format("too short"))?;
        if !body.starts_with(MAGIC) || body.len() < HEAD_BYTES {
            return Err(IndexError::Format("other first bytes"));
        }
        if xxh3_128(body) != u128::from_le_bytes(*sum) {
            return Err(IndexError::Format("the checksum does not match"));
        }
        let (head, mut rest) = body.split_at(HEAD_BYTES);
        let short_number = |at: usize| u32_at(&head[8 + at * 4..]);
        let number = |at: usize| u64_at(&head[24 + at * 8..]);
        let (bands, documents) = (short_number(1) as usize, u64::from(short_number(3)));
        compare(config, [short_number(0).into(), number(0), bands as u64, short_number(2).into(), number(1)])?;
        let index = Self {
            ids: take(&mut rest, documents)?,
            exact: take(&mut rest, documents)?,
            short: take(&mut rest, number(2))?,
            bands: (0..bands).map(|_| take(&mut rest, number(3))).collect::<Result<_, _>>()?,
            ends: take(&mut rest, documents)?,
            shingles: take(&mut rest, number(4))?,
        };
        if rest.is_empty() { Ok(index) } else { Err(IndexError::Format("longer than it says")) }
    }

    /// Documents in it.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it holds no documents.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    fn id(&self, document: u32) -> u128 {
        u128::from_le_bytes(self.ids[document as usize])
    }

    fn shingles(&self, document: u32) -> Vec<u64> {
        let end = |at: usize| u64::from_le_bytes(self.ends[at]) as usize;
        let document = document as usize;
        let start = if document == 0 { 0 } else { end(document - 1) };
        self.shingles[start..end(document)].iter().map(|number| u64::from_le_bytes(*number)).collect()
    }

    /// The first document with an equal text, or the same few words.
    fn equal(&self, signed: &Signed) -> Option<Known> {
        let found = |keys: &[[u8; 20]], key: u128, matched_by: MatchedBy| {
            let at = keys.partition_point(|entry| u128_at(entry) < key);
            let entry = keys.get(at).filter(|entry| u128_at(*entry) == key)?;
            Some(Known { kept_id: self.id(u32_at(&entry[16..])), matched_by, jaccard: Some(1.0), shared_bands: 0 })
        };
        let short = || found(self.short, signed.short?, MatchedBy::Short);
        found(self.exact, signed.exact, MatchedBy::Exact).or_else(short)
    }

    /// Documents that share a band, ascending, with the number of bands, and what full buckets left out.
    fn candidates(&self, bands: &[u64], max_candidates: usize) -> (Vec<(u32, u32)>, Overflow) {
        let (mut documents, mut overflow) = (Vec::new(), Overflow::default());
        for (band, &key) in self.bands.iter().zip(bands) {
            let start = band.partition_point(|entry| u64_at(entry) < key);
            let bucket = band[start..].iter().take_while(|entry| u64_at(*entry) == key);
            let (mut taken, mut left) = (0, 0);
            for entry in bucket {
                if taken < max_candidates {
                    documents.push(u32_at(&entry[8..]));
                    taken += 1;
                } else {
                    left += 1;
                }
            }
            overflow = overflow.plus(Overflow { buckets: u64::from(left > 0), pairs: left });
        }
        documents.sort_unstable();
        (documents.chunk_by(|x, y| x == y).map(|run| (run[0], run.len() as u32)).collect(), overflow)
    }
}

/// An indexed document that a document repeats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// Its id.
    pub kept_id: u128,
    /// In which way.
    pub matched_by: MatchedBy,
    /// Jaccard similarity, 0..1; None if it was not looked at (`verify = false`).
    pub jaccard: Option<f64>,
    /// Bands that the two share; 0 for equal texts.
    pub shared_bands: u32,
}

/// The indexed document that a document repeats, if there is one: an equal one; else the most similar one with a Jaccard
/// similarity of at least `min_jaccard` (with `verify = false` the one that shares most bands); of equals the first, indexes
/// in the given order. In each bucket the first `max_candidates` documents are looked at, and the rest counted.
pub fn find_known(indexes: &[Index<'_>], signed: &Signed, config: &DedupConfig) -> (Option<Known>, Overflow) {
    let equal = indexes.iter().find_map(|index| index.equal(signed));
    if equal.is_some() || config.method == Method::Exact {
        return (equal, Overflow::default());
    }
    let (mut best, mut overflow): (Option<Known>, _) = (None, Overflow::default());
    for index in indexes {
        let (candidates, more) = index.candidates(&signed.bands, config.max_candidates);
        overflow = overflow.plus(more);
        for (document, shared_bands) in candidates {
            let similarity = config.verify.then(|| jaccard(&signed.shingles, &index.shingles(document)));
            let better = match (similarity, best) {
                (Some(found), None) => found >= config.min_jaccard,
                (Some(found), Some(best)) => Some(found) > best.jaccard,
                (None, best) => best.is_none_or(|best| shared_bands > best.shared_bands),
            };
            if better {
                let kept_id = index.id(document);
                best = Some(Known { kept_id, matched_by: MatchedBy::Minhash, jaccard: similarity, shared_bands });
            }
        }
    }
    (best, overflow)
}

fn family_code(family: Family) -> u32 {
    match family {
        Family::Gristmill => 0,
        Family::FinewebCompat => 1,
        Family::FinewebCompatSha1 => 2,
    }
}

fn compare(config: &SignatureConfig, index: [u64; 5]) -> Result<(), IndexError> {
    let SignatureConfig { family, ngram, bands, rows, seed } = *config;
    let run = [u64::from(family_code(family)), ngram as u64, bands as u64, rows as u64, seed];
    let name = |field: &str, value: u64| match (field, value) {
        ("family", 0) => "gristmill".to_owned(),
        ("family", 1) => "fineweb-compat".to_owned(),
        ("family", 2) => "fineweb-compat-sha1".to_owned(),
        _ => value.to_string(),
    };
    let fields = ["family", "ngram", "bands", "rows", "seed"];
    let differ = fields.iter().zip(index.iter().zip(run)).filter(|(_, (index, run))| *index != run);
    let differences: Vec<String> = differ
        .map(|(field, (&index, run))| {
            format!("{field} is {} in the index and {} in this run", name(field, index), name(field, run))
        })
        .collect();
    if differences.is_empty() { Ok(()) } else { Err(IndexError::Differs { differences }) }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8], count: u64) -> Result<&'a [[u8; N]], IndexError> {
    let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(N));
    let (section, after) =
        bytes.and_then(|bytes| rest.split_at_checked(bytes)).ok_or(IndexError::Format("too short"))?;
    *rest = after;
    Ok(section.as_chunks().0)
}

fn u32_at(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(*bytes.first_chunk().expect("callers pass four bytes or more"))
}

fn u64_at(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().expect("callers pass eight bytes or more"))
}

fn u128_at(bytes: &[u8]) -> u128 {
    u128::from_le_bytes(*bytes.first_chunk().expect("callers pass sixteen bytes or more"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Outcome, Signer, candidates, resolve};

    const CONFIG: SignatureConfig =
        SignatureConfig { family: Family::Gristmill, ngram: 2, bands: 12, rows: 2, seed: 1 };

    fn index(documents: &[(u128, &Signed)]) -> Vec<u8> {
        let mut builder = IndexBuilder::new(&CONFIG);
        documents.iter().for_each(|(id, signed)| builder.push(*id, signed));
        builder.finish()
    }

    fn dedup_config(min_jaccard: f64) -> DedupConfig {
        DedupConfig { ngram: 2, bands: 12, rows: 2, min_jaccard, max_candidates: 1000, ..DedupConfig::default() }
    }

    /// Which documents stay if `documents` are all there is, in this order.
    fn resolved(documents: &[&Signed], config: &DedupConfig) -> Vec<Outcome> {
        let mut bands = vec![Vec::new(); CONFIG.bands];
        for (n, signed) in documents.iter().enumerate() {
            bands.iter_mut().zip(&signed.bands).for_each(|(band, key)| band.push((*key, n as u32)));
        }
        bands.iter_mut().for_each(|band| band.sort_unstable());
        let order: Vec<u32> = (0..documents.len() as u32).collect();
        let similarity = |a: u32, b: u32| jaccard(&documents[a as usize].shingles, &documents[b as usize].shingles);
        resolve(&order, &candidates(&bands, config.max_candidates).0, similarity, config)
    }

    fn kept<'a>(documents: &[&'a Signed], config: &DedupConfig) -> Vec<&'a Signed> {
        let outcomes = resolved(documents, config);
        let kept = documents.iter().zip(outcomes).filter(|(_, outcome)| matches!(outcome, Outcome::Kept { .. }));
        kept.map(|(signed, _)| *signed).collect()
    }

    #[test]
    fn two_runs_with_an_index_keep_what_one_run_keeps() {
        let mut state = 4_u64;
        let mut random = |most: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % most
        };
        let (mut signer, mut removed) = (Signer::new(&CONFIG).unwrap(), 0);
        for round in 0..40 {
            let mut texts: Vec<Vec<u64>> = Vec::new();
            for n in 0..40 {
                let old = (n > 0 && random(3) > 0).then(|| texts[random(n) as usize].clone());
                let mut words = old.unwrap_or_else(|| (0..random(40)).map(|_| random(300)).collect());
                for _ in 0..random(5).min(words.len() as u64) {
                    let at = random(words.len() as u64) as usize;
                    words[at] = random(300);
                }
                texts.push(words);
            }
            let word = |n: &u64| format!("w{}", char::from_u32(0x4e00 + *n as u32).unwrap_or('x'));
            let join = |words: &Vec<u64>| words.iter().map(word).collect::<Vec<_>>().join(" ");
            let signed: Vec<Signed> =
                texts.iter().map(|words| signer.sign(&join(words))).filter(|s| !s.shingles.is_empty()).collect();
            let config = dedup_config(0.3 + 0.1 * f64::from(round % 7));
            let (early, late) = signed.split_at(signed.len() / 2);
            let early = kept(&early.iter().collect::<Vec<_>>(), &config);
            // The index in two parts.
            let ids: Vec<(u128, &Signed)> = early.iter().enumerate().map(|(n, s)| (n as u128 + 100, *s)).collect();
            let parts = [index(&ids[..ids.len() / 3]), index(&ids[ids.len() / 3..])];
            let indexes = [&parts[0], &parts[1]].map(|bytes| Index::open(bytes, &CONFIG).unwrap());
            let mut unknown = Vec::new();
            for document in late {
                match find_known(&indexes, document, &config) {
                    (None, overflow) => {
                        assert_eq!(overflow, Overflow::default());
                        unknown.push(document);
                    }
                    (Some(known), _) => {
                        removed += 1;
                        let survivor = early[(known.kept_id - 100) as usize];
                        assert_eq!(known.jaccard, Some(jaccard(&survivor.shingles, &document.shingles)));
                        assert!(known.jaccard >= Some(config.min_jaccard));
                    }
                }
            }
            let together: Vec<&Signed> = early.iter().copied().chain(late).collect();
            let wanted: Vec<&Signed> = kept(&together, &config);
            let found: Vec<&Signed> = early.iter().copied().chain(kept(&unknown, &config)).collect();
            assert_eq!(found, wanted, "round {round}");
        }
        assert!(removed > 150, "{removed}");
    }

    #[test]
    fn equal_and_short_documents_are_found_by_their_keys() {
        let mut signer = Signer::new(&CONFIG).unwrap();
        let signed = ["a mill at the river", "Mill", "", "another text, much longer"].map(|text| signer.sign(text));
        let bytes = index(&[(1, &signed[0]), (2, &signed[1]), (3, &signed[2]), (4, &signed[0])]);
        let indexes = [Index::open(&bytes, &CONFIG).unwrap()];
        assert_eq!((indexes[0].len(), indexes[0].is_empty()), (4, false));
        let found = |text: &str, config: &DedupConfig| {
            let known = find_known(&indexes, &Signer::new(&CONFIG).unwrap().sign(text), config).0?;
            Some((known.kept_id, known.matched_by))
        };
        let config = dedup_config(0.8);
        assert_eq!(found("a  mill at the river", &config), Some((1, MatchedBy::Exact)));
        assert_eq!(found("mill!", &config), Some((2, MatchedBy::Short)));
        assert_eq!(found(" ", &config), Some((3, MatchedBy::Exact)));
        assert_eq!(found("A mill, at the river", &config), Some((1, MatchedBy::Minhash)));
        assert_eq!(found("another text, much longer", &config), None);
        let exact = DedupConfig { method: Method::Exact, ..config.clone() };
        assert_eq!(found("A mill, at the river", &exact), None);
        let classical = DedupConfig { verify: false, ..config };
        let known = find_known(&indexes, &signer.sign("A mill, at the river"), &classical).0.unwrap();
        assert_eq!((known.kept_id, known.jaccard, known.shared_bands), (1, None, 12));
        let (_, overflow) =
            find_known(&indexes, &signer.sign("A mill, at the river"), &DedupConfig { max_candidates: 1, ..classical });
        assert_eq!(overflow, Overflow { buckets: 12, pairs: 12 });
    }

    #[test]
    fn another_configuration_is_refused_with_what_differs() {
        let bytes = index(&[]);
        assert!(Index::open(&bytes, &CONFIG).unwrap().is_empty());
        let other = SignatureConfig { family: Family::FinewebCompat, seed: 2, ..CONFIG };
        let error = Index::open(&bytes, &other).unwrap_err().to_string();
        let wanted =
            "family is gristmill in the index and fineweb-compat in this run, seed is 1 in the index and 2 in this run";
        assert_eq!(error, format!("the index was made with other signatures: {wanted}"));
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let signed = Signer::new(&CONFIG).unwrap().sign("a mill at the river");
        let bytes = index(&[(1, &signed), (2, &signed)]);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 16;
            assert!(matches!(Index::open(&damaged, &CONFIG), Err(IndexError::Format(_))), "{at}");
            assert!(Index::open(&bytes[..at], &CONFIG).is_err(), "{at}");
        }
    }
}
