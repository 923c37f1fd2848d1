//! What dedup knows of one document, in either family of signatures.
//!
//! In: a text. Out: its [`Signed`]: exact key, shingles, band keys. Left to others: storing it.

use crate::{ConfigError, FinewebHash, FinewebHasher, FinewebShingler, Hasher, Shingler, exact_key};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// Which words, shingles and hash functions make a signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// gristmill's own: fast, and words in scripts without spaces.
    #[default]
    Gristmill,
    /// The signatures of datatrove 0.10 and FineWeb 2, bit for bit.
    FinewebCompat,
    /// The signatures of FineWeb, which hashed with SHA-1.
    FinewebCompatSha1,
}

/// Everything that decides a signature: two documents can be compared only if theirs agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureConfig {
    /// Family.
    pub family: Family,
    /// Words per shingle.
    pub ngram: usize,
    /// MinHash bands.
    pub bands: usize,
    /// Hashes per band.
    pub rows: usize,
    /// Seed of the hash family; below 2^32 for FineWeb's.
    pub seed: u64,
}

/// What is compared of one document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signed {
    /// See [`exact_key`].
    pub exact: u128,
    /// If the document has fewer words than a shingle: a key that documents of the same words share. It has no shingles and
    /// no band keys then; documents with this key are exact duplicates, method `"short"`. None also if it has no word.
    pub short: Option<u128>,
    /// Hashes of its shingles, sorted, each once.
    pub shingles: Vec<u64>,
    /// One key per band; empty if there are no shingles.
    pub bands: Vec<u64>,
}

/// Signs documents, reusing its buffers.
#[derive(Clone, Debug)]
pub struct Signer {
    ngram: usize,
    inner: Inner,
}

#[derive(Clone, Debug)]
enum Inner {
    Gristmill(Shingler, Hasher),
    Fineweb(FinewebShingler, FinewebHasher),
}

impl Signer {
    /// A signer; an error if the seed is too large for FineWeb's family.
    pub fn new(config: &SignatureConfig) -> Result<Self, ConfigError> {
        let SignatureConfig { family, ngram, bands, rows, seed } = *config;
        let ngram = ngram.max(1);
        let hash = match family {
            Family::Gristmill => {
                return Ok(Self {
                    ngram,
                    inner: Inner::Gristmill(Shingler::new(ngram), Hasher::new(bands, rows, seed)),
                });
            }
            Family::FinewebCompat => FinewebHash::Xxhash,
            Family::FinewebCompatSha1 => FinewebHash::Sha1,
        };
        let expected = "below 2^32 for FineWeb's signatures";
        let seed = u32::try_from(seed).map_err(|_| ConfigError { field: "seed", got: seed.to_string(), expected })?;
        let family = FinewebHasher::new(bands, rows, seed);
        Ok(Self { ngram, inner: Inner::Fineweb(FinewebShingler::new(ngram, hash), family) })
    }

    /// Signs one text.
    pub fn sign(&mut self, text: &str) -> Signed {
        let exact = exact_key(text);
        match &mut self.inner {
            Inner::Gristmill(shingler, hasher) => {
                let shingles = shingler.shingles(text);
                match shingler.words() {
                    0 => Signed { exact, ..Signed::default() },
                    words if words < self.ngram => {
                        Signed { exact, short: Some(xxh3_128(shingler.normalised().as_bytes())), ..Signed::default() }
                    }
                    _ => Signed { exact, short: None, bands: hasher.band_keys(&hasher.signature(&shingles)), shingles },
                }
            }
            Inner::Fineweb(shingler, hasher) => {
                let mut shingles = shingler.shingles(text);
                let bands = hasher.band_keys(&hasher.signature(&shingles));
                shingles.sort_unstable();
                shingles.dedup();
                let is_short = (1..self.ngram).contains(&shingler.words().len());
                let short = is_short.then(|| xxh3_128(shingler.text().as_bytes()));
                Signed { exact, short, shingles, bands }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(family: Family) -> Signer {
        Signer::new(&SignatureConfig { family, ngram: 5, bands: 14, rows: 8, seed: 1 }).unwrap()
    }

    #[test]
    fn short_documents_have_a_key_of_their_words_and_nothing_else() {
        for family in [Family::Gristmill, Family::FinewebCompat, Family::FinewebCompatSha1] {
            let mut signer = signer(family);
            let [one, same, other] =
                ["Four words, in 1999", "four WORDS in 7!", "four words in"].map(|text| signer.sign(text));
            assert!(one.short.is_some() && one.short == same.short && one.short != other.short, "{family:?}");
            assert_ne!(one.exact, same.exact);
            assert!(one.shingles.is_empty() && one.bands.is_empty());
            let long = signer.sign("now these are five words, and more");
            assert_eq!((long.short, long.bands.len(), long.shingles.len()), (None, 14, 3));
            for text in ["", "?! …"] {
                let signed = signer.sign(text);
                let nothing = Signed { exact: exact_key(text), short: signed.short, ..Signed::default() };
                assert_eq!(signed, nothing, "{family:?}");
                assert_eq!(signed.short, None, "{family:?} {text}");
            }
        }
        assert!(signer(Family::Gristmill).sign("世界你好").short.is_some());
        assert!(signer(Family::Gristmill).sign("世界你好吗").short.is_none());
    }

    #[test]
    fn a_signer_gives_what_the_single_steps_give() {
        let text = "one two three four five six one two three four five six";
        let signed = signer(Family::Gristmill).sign(text);
        let (shingles, hasher) = (crate::shingles(text, 5), Hasher::new(14, 8, 1));
        assert_eq!(signed.bands, hasher.band_keys(&hasher.signature(&shingles)));
        assert_eq!(signed.shingles, shingles);
        let fineweb = signer(Family::FinewebCompat).sign(text);
        let (mut shingler, hasher) = (FinewebShingler::new(5, FinewebHash::Xxhash), FinewebHasher::new(14, 8, 1));
        assert_eq!(fineweb.bands, hasher.band_keys(&hasher.signature(&shingler.shingles(text))));
        assert!(fineweb.shingles.len() == 6 && fineweb.shingles.is_sorted());
    }

    #[test]
    fn seeds_beyond_numpys_are_refused() {
        let config = SignatureConfig { family: Family::FinewebCompat, ngram: 5, bands: 1, rows: 1, seed: 1 << 32 };
        assert_eq!(Signer::new(&config).unwrap_err().field, "seed");
        assert!(Signer::new(&SignatureConfig { family: Family::Gristmill, ..config }).is_ok());
    }
}
