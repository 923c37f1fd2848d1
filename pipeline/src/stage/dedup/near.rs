//! Phases B and C of `dedup`: which documents equal or resemble an earlier one, in memory that does not grow with their text.
//!
//! In: the side files of phase A and the survivor order. Out: for every document who stays in its place, with the evidence.
//! Band keys are read a band at a time, pairs wait in files by ranges of documents, and shingle sets are fetched a slice at a time.
//! Memory, by the types: about 60 bytes a document (ids, places, who stays) and about 100 a removal; for the band in work 16 a
//! document, for the exact key in work 24 and 4; the pairs held, and the slice.

use super::DedupStage;
use super::ids::Ids;
use super::sign::{self, Signatures};
use crate::dataset::{column, string_column};
use crate::error::{Error, Result};
use crate::stage::Context;
use crate::store::{Counts, remove_folder};
use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{Float64Type, UInt32Type, UInt64Type};
use dedup::{Components, Edge, KeyEntry, MatchedBy, Method, Overflow, Removal, Stars};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

/// Ranges of documents whose pairs are merged together.
const PARTS: usize = 16;
/// Pairs held in memory before they go to their files, 8 bytes each.
const PAIRS_HELD: usize = 4 << 20;
/// Shingle sets held at a time, in bytes.
const SLICE_BYTES: usize = 32 << 20;

/// Why a document goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// In which way it repeats the kept one.
    pub method: &'static str,
    /// Jaccard similarity; None if it was not looked at.
    pub jaccard: Option<f64>,
    /// Bands that the two share.
    pub shared_bands: u32,
    /// The kept document's id, if an earlier run kept it.
    pub known_id: Option<String>,
}

/// What becomes of every document.
#[derive(Default)]
pub struct Fates {
    /// For each document the kept one of its cluster, possibly itself.
    pub kept: Vec<u32>,
    /// Documents of each kept one's cluster, itself included; 0 for removed ones.
    pub sizes: Vec<u32>,
    /// Of removed documents.
    pub evidence: BTreeMap<u32, Evidence>,
    /// Documents of this run that repeat a document of an earlier one, by its id.
    pub known_sizes: BTreeMap<String, u64>,
    /// What was counted.
    pub counts: Counts,
}

/// Where a document's shingles are.
#[derive(Clone, Copy, Default)]
struct Place {
    fragment: u32,
    count: u32,
    start: u64,
}

/// Decides over all documents.
pub fn resolve(context: &Context<'_>, config: &DedupStage, ids: &Ids, signatures: &Signatures) -> Result<Fates> {
    let mut evidence = known(context, ids, signatures)?;
    let mut known_sizes: BTreeMap<String, u64> = BTreeMap::new();
    for id in evidence.values().filter_map(|e| e.known_id.as_ref()) {
        *known_sizes.entry(id.clone()).or_default() += 1;
    }
    let near = config.dedup.method == Method::Minhash;
    let mut first = dedup::unmarked(ids.len());
    let mut steps: Vec<([String; 2], MatchedBy)> =
        config.exact_by.iter().map(|by| (sign::exact(*by), (*by).into())).collect();
    if near {
        steps.push((["short_high", "short_low"].map(String::from), MatchedBy::Short));
    }
    for (names, method) in steps {
        collapse(context, ids, signatures, &names, method, &mut first, &mut evidence)?;
    }
    let stays = |d: u32, first: &[u32], evidence: &BTreeMap<u32, Evidence>| {
        first[d as usize] == d && !evidence.contains_key(&d)
    };
    let mut counts = Counts::new();
    let mut kept = dedup::unmarked(ids.len());
    if near {
        let candidates: Vec<bool> = (0..ids.len() as u32).map(|d| stays(d, &first, &evidence)).collect();
        kept = resemble(context, config, ids, signatures, &candidates, &mut evidence, &mut counts)?;
    }
    // Equal documents follow the one they equal, and carry its evidence if it went itself.
    for document in 0..ids.len() as u32 {
        let mut root = document;
        while first[root as usize] != root {
            root = first[root as usize];
        }
        if root != document {
            kept[document as usize] = kept[root as usize];
            if let Some(of_root) = evidence.get(&root).cloned() {
                if let Some(id) = &of_root.known_id {
                    *known_sizes.entry(id.clone()).or_default() += 1;
                }
                evidence.insert(document, of_root);
            }
        }
    }
    let mut sizes = vec![0_u32; ids.len()];
    for document in 0..ids.len() as u32 {
        if evidence.get(&document).is_none_or(|e| e.known_id.is_none()) {
            sizes[kept[document as usize] as usize] += 1;
        }
    }
    Ok(Fates { kept, sizes, evidence, known_sizes, counts })
}

/// Documents that the indexes of earlier runs know.
fn known(context: &Context<'_>, ids: &Ids, signatures: &Signatures) -> Result<BTreeMap<u32, Evidence>> {
    let mut found = BTreeMap::new();
    let columns = ["id", "known_id", "known_method", "known_jaccard", "known_shared"];
    signatures.each(context, &columns, |_, batch| {
        let own = string_column(batch, "id")?;
        let (other, method) = (string_column(batch, "known_id")?, string_column(batch, "known_method")?);
        let jaccard = column(batch, "known_jaccard")?.as_primitive::<Float64Type>();
        let shared = column(batch, "known_shared")?.as_primitive::<UInt32Type>();
        for row in (0..batch.num_rows()).filter(|row| !other.is_null(*row)) {
            let evidence = Evidence {
                method: name(method.value(row)),
                jaccard: (!jaccard.is_null(row)).then(|| jaccard.value(row)),
                shared_bands: shared.value(row),
                known_id: Some(other.value(row).to_string()),
            };
            found.insert(ids.rank(own.value(row)), evidence);
        }
        Ok(())
    })?;
    Ok(found)
}

fn name(method: &str) -> &'static str {
    use MatchedBy::{Exact, Minhash, Normalised, Short, Url};
    let all = [Exact, Normalised, Url, Short, Minhash].map(MatchedBy::name);
    all.into_iter().find(|n| *n == method).expect("phase A wrote one of these names")
}

/// Marks documents that share a key with an earlier one; of those marked before, the mark stays.
fn collapse(
    context: &Context<'_>,
    ids: &Ids,
    signatures: &Signatures,
    names: &[String; 2],
    method: MatchedBy,
    first: &mut [u32],
    evidence: &mut BTreeMap<u32, Evidence>,
) -> Result<()> {
    let mut entries = Vec::new();
    signatures.each(context, &["id", &names[0], &names[1]], |_, batch| {
        let own = string_column(batch, "id")?;
        let key = sign::keys(batch, [&names[0], &names[1]])?;
        for row in 0..batch.num_rows() {
            let rank = ids.rank(own.value(row));
            if let Some(key) = key(row)
                && first[rank as usize] == rank
                && !evidence.contains_key(&rank)
            {
                entries.push(KeyEntry::new(key, rank));
            }
        }
        Ok(())
    })?;
    let mut marked = dedup::unmarked(ids.len());
    dedup::mark_equal(&mut entries, &mut marked);
    for (document, equal) in marked.into_iter().enumerate() {
        if equal as usize != document {
            first[document] = equal;
            let found = Evidence { method: method.name(), jaccard: Some(1.0), shared_bands: 0, known_id: None };
            // Two pages of one address need not have one text.
            let found = Evidence { jaccard: found.jaccard.filter(|_| method != MatchedBy::Url), ..found };
            evidence.insert(document as u32, found);
        }
    }
    Ok(())
}

/// MinHash-LSH over the documents that `takes_part`: for each the kept one, with evidence for the removed.
fn resemble(
    context: &Context<'_>,
    config: &DedupStage,
    ids: &Ids,
    signatures: &Signatures,
    takes_part: &[bool],
    evidence: &mut BTreeMap<u32, Evidence>,
    counts: &mut Counts,
) -> Result<Vec<u32>> {
    let mut places = vec![Place::default(); ids.len()];
    signatures.each(context, &["id", "shingle_start", "shingles"], |fragment, batch| {
        let own = string_column(batch, "id")?;
        let start = column(batch, "shingle_start")?.as_primitive::<UInt64Type>();
        let count = column(batch, "shingles")?.as_primitive::<UInt32Type>();
        for row in 0..batch.num_rows() {
            let place = Place { fragment, count: count.value(row), start: start.value(row) };
            places[ids.rank(own.value(row)) as usize] = place;
        }
        Ok(())
    })?;
    let mut pairs = Pairs::create(context, ids.len())?;
    let mut overflow = Overflow::default();
    for number in 0..config.dedup.bands {
        context.check_stop()?;
        let (name, mut entries) = (sign::band(number), Vec::new());
        signatures.each(context, &["id", &name], |_, batch| {
            let own = string_column(batch, "id")?;
            let keys = column(batch, &name)?.as_primitive::<UInt64Type>();
            for row in (0..batch.num_rows()).filter(|row| !keys.is_null(*row)) {
                let rank = ids.rank(own.value(row));
                if takes_part[rank as usize] {
                    entries.push((keys.value(row), rank));
                }
            }
            Ok(())
        })?;
        entries.sort_unstable();
        let mut found = Vec::new();
        overflow = overflow.plus(dedup::bucket_pairs(&entries, config.dedup.max_candidates, &mut found));
        pairs.extend(found)?;
    }
    let lengths: Vec<u32> = places.iter().map(|p| p.count).collect();
    let fetch = |documents: &[u32], sets: &mut dedup::ShingleSets| -> Result<()> {
        let mut set = Vec::new();
        for document in documents {
            let place = places[*document as usize];
            signatures.shingles(place.fragment, place.start, place.count, &mut set)?;
            sets.push(*document, &set);
        }
        Ok(())
    };
    let mut removals: Vec<Removal> = Vec::new();
    let mut total = 0;
    let (mut stars, mut components) = (Stars::new(ids.len()), Components::new(ids.len()));
    for part in 0..PARTS {
        context.check_stop()?;
        let mut candidates = dedup::merge_part(pairs.part(part)?);
        total += candidates.len() as u64;
        if !config.dedup.verify {
            candidates.iter().for_each(|c| components.join(c.a, c.b));
            continue;
        }
        candidates
            .retain(|c| !dedup::out_of_reach(lengths[c.a as usize], lengths[c.b as usize], config.dedup.min_jaccard));
        for slice in dedup::slices(&candidates, &lengths, SLICE_BYTES) {
            let edges: Vec<Edge> = dedup::verify_slice(slice, fetch, &config.dedup)?;
            removals.extend(edges.iter().filter_map(|edge| stars.push(edge)));
        }
    }
    let kept = if config.dedup.verify {
        let (last, kept) = stars.finish();
        removals.extend(last);
        kept
    } else {
        let kept = components.finish();
        // Pairs are looked at once more for the evidence: two documents may be linked only through others.
        let mut shared: BTreeMap<u32, u32> = BTreeMap::new();
        for part in 0..PARTS {
            let candidates = dedup::merge_part(pairs.part(part)?);
            shared.extend(candidates.iter().filter(|c| kept[c.b as usize] == c.a).map(|c| (c.b, c.shared_bands)));
        }
        let gone = (0..ids.len() as u32).filter(|d| kept[*d as usize] != *d);
        removals.extend(gone.map(|document| Removal {
            document,
            kept: kept[document as usize],
            jaccard: None,
            shared_bands: shared.get(&document).copied().unwrap_or(0),
        }));
        kept
    };
    for removal in removals {
        let method = MatchedBy::Minhash.name();
        let Removal { document, jaccard, shared_bands, .. } = removal;
        evidence.insert(document, Evidence { method, jaccard, shared_bands, known_id: None });
    }
    pairs.remove()?;
    counts.insert("candidates".into(), total);
    counts.insert("overflow:buckets".into(), overflow.buckets);
    counts.insert("overflow:pairs".into(), overflow.pairs);
    Ok(kept)
}

/// Nominated pairs by ranges of their later document, in memory until they are many, then in files.
struct Pairs {
    documents: usize,
    folder: PathBuf,
    held: Vec<Vec<u64>>,
}

impl Pairs {
    fn create(context: &Context<'_>, documents: usize) -> Result<Self> {
        let folder = context.out.path.join("side").join("pairs");
        remove_folder(&folder)?;
        Ok(Self { documents, folder, held: vec![Vec::new(); PARTS] })
    }

    fn extend(&mut self, pairs: Vec<u64>) -> Result<()> {
        for pair in pairs {
            self.held[dedup::pair_part(pair, self.documents, PARTS)].push(pair);
        }
        if self.held.iter().map(Vec::len).sum::<usize>() > PAIRS_HELD {
            std::fs::create_dir_all(&self.folder).map_err(Error::io("create folder", &self.folder))?;
            for (part, pairs) in self.held.iter_mut().enumerate() {
                let path = self.folder.join(format!("{part:02}.bin"));
                let bytes: Vec<u8> = pairs.iter().flat_map(|p| p.to_le_bytes()).collect();
                let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
                file.and_then(|mut f| f.write_all(&bytes)).map_err(Error::io("write", &path))?;
                *pairs = Vec::new();
            }
        }
        Ok(())
    }

    fn part(&self, part: usize) -> Result<Vec<u64>> {
        let path = self.folder.join(format!("{part:02}.bin"));
        let mut pairs = self.held[part].clone();
        if path.exists() {
            let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
            pairs.extend(bytes.as_chunks::<8>().0.iter().map(|chunk| u64::from_le_bytes(*chunk)));
        }
        Ok(pairs)
    }

    fn remove(self) -> Result<()> {
        remove_folder(&self.folder)
    }
}
