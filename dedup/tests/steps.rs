//! The steps in bounded memory, put together as a pipeline does it, against the whole in memory.

use dedup::{
    Candidate, Components, DedupConfig, Edge, Family, KeyEntry, MatchedBy, Outcome, Overflow, Removal, ShingleSets,
    Signed, Signer, Stars, bucket_pairs, candidates, cluster_sizes, collapse, follow_equal, jaccard, mark_equal,
    merge_part, pair_part, resolve_edges, slices, unmarked, verify, verify_slice,
};
use std::collections::HashMap;
use std::convert::Infallible;

/// What becomes of a document: the kept one (possibly itself), how it matches, similarity, shared bands, size of the cluster.
type Fate = (u32, Option<MatchedBy>, Option<f64>, u32, u32);

/// All in memory; exact duplicates collapse first, as do documents of the same few words.
fn in_memory(signed: &[Signed], config: &DedupConfig) -> Vec<Fate> {
    let order: Vec<u32> = (0..signed.len() as u32).collect();
    let exact = collapse(&order, &signed.iter().map(|s| s.exact).collect::<Vec<_>>());
    // A key that only the document itself has stands for no key.
    let short: Vec<u128> = (0..).zip(signed).map(|(n, s)| s.short.unwrap_or(n)).collect();
    // Equal texts have the same words, so the first with the same words is never later than the first equal text.
    let first: Vec<u32> = collapse(&order, &short).iter().zip(&exact).map(|(a, b)| *a.min(b)).collect();
    let mut bands = vec![Vec::new(); config.bands];
    for document in order.iter().filter(|d| first[**d as usize] == **d) {
        bands.iter_mut().zip(&signed[*document as usize].bands).for_each(|(band, key)| band.push((*key, *document)));
    }
    bands.iter_mut().for_each(|band| band.sort_unstable());
    let of = |document: u32| signed[document as usize].shingles.as_slice();
    let edges = verify(&candidates(&bands, config.max_candidates).0, |a, b| jaccard(of(a), of(b)), config);
    let outcomes = resolve_edges(&order, &edges, config);
    let fate = |document: u32| match outcomes[first[document as usize] as usize] {
        Outcome::Kept { .. } if first[document as usize] == document => (document, None, None, 0),
        Outcome::Kept { .. } => {
            let is_exact = exact[document as usize] == first[document as usize];
            let by = if is_exact { MatchedBy::Exact } else { MatchedBy::Short };
            (first[document as usize], Some(by), Some(1.0), 0)
        }
        Outcome::Removed { kept, jaccard, shared_bands } => (kept, Some(MatchedBy::Minhash), jaccard, shared_bands),
    };
    let fates: Vec<_> = order.iter().map(|&document| fate(document)).collect();
    let sizes = cluster_sizes(&fates.iter().map(|fate| fate.0).collect::<Vec<_>>());
    fates.iter().map(|fate| (fate.0, fate.1, fate.2, fate.3, sizes[fate.0 as usize])).collect()
}

/// Partition by partition, part by part, slice by slice.
fn in_steps(signed: &[Signed], config: &DedupConfig) -> Vec<Fate> {
    let (documents, partitions, parts) = (signed.len(), 3, 4);
    // Exact duplicates.
    let marked = |key: &dyn Fn(&Signed) -> Option<u128>| {
        let mut first = unmarked(documents);
        for partition in 0..partitions {
            let entries = (0..).zip(signed).filter_map(|(n, s)| Some(KeyEntry::new(key(s)?, n)));
            let mut entries: Vec<KeyEntry> = entries.filter(|entry| entry.key() % partitions == partition).collect();
            mark_equal(&mut entries, &mut first);
        }
        first
    };
    let exact = marked(&|s| Some(s.exact));
    let first: Vec<u32> = marked(&|s| s.short).iter().zip(&exact).map(|(a, b)| *a.min(b)).collect();
    // B: pairs of each band and partition.
    let mut pairs = vec![Vec::new(); parts];
    for band in 0..config.bands {
        for partition in 0..partitions as u64 {
            let own = (0..).zip(signed).filter(|(n, _)| first[*n as usize] == *n);
            let entries = own.filter_map(|(n, s)| Some((*s.bands.get(band)?, n)));
            let mut entries: Vec<(u64, u32)> =
                entries.filter(|entry| entry.0 % partitions as u64 == partition).collect();
            entries.sort_unstable();
            let mut found = Vec::new();
            assert_eq!(bucket_pairs(&entries, config.max_candidates, &mut found), Overflow::default());
            found.into_iter().for_each(|pair| pairs[pair_part(pair, documents, parts)].push(pair));
        }
    }
    // C and D.
    let lengths: Vec<u32> = signed.iter().map(|s| s.shingles.len() as u32).collect();
    let fetch = |documents: &[u32], sets: &mut ShingleSets| {
        documents.iter().for_each(|&document| sets.push(document, &signed[document as usize].shingles));
        Ok::<(), Infallible>(())
    };
    let (mut stars, mut components) = (Stars::new(documents), Components::new(documents));
    let mut removals: HashMap<u32, Removal> = HashMap::new();
    let mut links: HashMap<(u32, u32), u32> = HashMap::new();
    for part in pairs.into_iter().map(merge_part) {
        for slice in slices(&part, &lengths, 4_000) {
            let edges: Vec<Edge> = verify_slice(slice, fetch, config).unwrap_or_else(|never| match never {});
            for edge in edges {
                let Candidate { a, b, shared_bands } = edge.pair;
                if config.verify {
                    removals.extend(stars.push(&edge).map(|removal| (removal.document, removal)));
                } else {
                    components.join(a, b);
                    links.insert((a, b), shared_bands);
                }
            }
        }
    }
    let mut kept = if config.verify {
        let (last, kept) = stars.finish();
        removals.extend(last.map(|removal| (removal.document, removal)));
        kept
    } else {
        components.finish()
    };
    follow_equal(&first, &mut kept);
    let sizes = cluster_sizes(&kept);
    let fate = |document: u32| {
        let (kept, own) = (kept[document as usize], first[document as usize]);
        let size = sizes[kept as usize];
        match removals.get(&own) {
            Some(removal) => (kept, Some(MatchedBy::Minhash), removal.jaccard, removal.shared_bands, size),
            None if kept != own => {
                (kept, Some(MatchedBy::Minhash), None, links.get(&(kept, own)).copied().unwrap_or(0), size)
            }
            None if own == document => (kept, None, None, 0, size),
            None if exact[document as usize] == own => (kept, Some(MatchedBy::Exact), Some(1.0), 0, size),
            None => (kept, Some(MatchedBy::Short), Some(1.0), 0, size),
        }
    };
    (0..documents as u32).map(fate).collect()
}

/// Texts copied from each other with edits, some with other white space, some shorter than a shingle, some empty.
fn corpus(state: &mut u64, documents: u64) -> Vec<String> {
    let mut random = |most: u64| {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*state >> 33) % most
    };
    let mut texts: Vec<Vec<u64>> = Vec::new();
    let mut spaced = Vec::new();
    for n in 0..documents {
        let old = (n > 0 && random(4) > 0).then(|| texts[random(n) as usize].clone());
        let length = if random(2) == 0 { random(4) } else { 10 + random(40) };
        let mut words = old.unwrap_or_else(|| (0..length).map(|_| random(400)).collect());
        for _ in 0..random(4).min(words.len() as u64) {
            let at = random(words.len() as u64) as usize;
            words[at] = random(400);
        }
        let space = [" ", "  ", ", ", "\n"][random(4) as usize];
        let word = |n: &u64| {
            format!("w{}", ["alpha", "βήτα", "гамма", "delta"][(n % 4) as usize].repeat(1 + *n as usize / 4 % 3))
                + &"x".repeat(*n as usize / 12)
        };
        spaced.push(words.iter().map(word).collect::<Vec<_>>().join(space));
        texts.push(words);
    }
    spaced
}

#[test]
fn the_steps_give_every_document_the_fate_it_has_in_memory() {
    let (mut state, mut methods) = (1, HashMap::new());
    for round in 0..60 {
        let texts = corpus(&mut state, 1 + round * 3 % 100);
        let family = [Family::Gristmill, Family::FinewebCompat, Family::FinewebCompatSha1][round as usize % 3];
        let config = DedupConfig {
            ngram: 3,
            bands: 10,
            rows: 2,
            verify: round % 4 > 0,
            min_jaccard: 0.4 + (round % 5) as f64 / 10.0,
            max_candidates: 1000,
            ..DedupConfig::default()
        };
        let mut signer = Signer::new(&config.signatures(family)).unwrap();
        let signed: Vec<Signed> = texts.iter().map(|text| signer.sign(text)).collect();
        let found = in_steps(&signed, &config);
        assert_eq!(found, in_memory(&signed, &config), "round {round}");
        for fate in &found {
            *methods.entry(fate.1.map(MatchedBy::name)).or_insert(0) += 1;
        }
    }
    for method in [None, Some("exact"), Some("short"), Some("minhash")] {
        assert!(methods[&method] > 15, "{methods:?}");
    }
}
