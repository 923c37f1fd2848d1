//! The merge phase beside its definition: count every pair of every word from scratch before each merge.

use super::*;
use crate::{bytes::symbol_order, words::WordCounts};

type Bytes = Vec<u8>;
type Spelled = Vec<(Bytes, Bytes)>;

fn order_of(ties: Ties) -> [u8; 256] {
    if ties == Ties::Raw { std::array::from_fn(|byte| byte as u8) } else { symbol_order() }
}

/// Merges by full recount until `n_symbols` symbols or no pair is left.
fn recount(words: &[(Bytes, u64)], n_symbols: usize, ties: Ties, forbidden: &HashSet<Bytes>) -> Spelled {
    let mut id_of: HashMap<Bytes, u32> = (0..).zip(order_of(ties)).map(|(id, byte)| (vec![byte], id)).collect();
    let mut words: Vec<(Vec<Bytes>, u64)> =
        words.iter().map(|(word, n)| (word.iter().map(|&b| vec![b]).collect(), *n)).collect();
    let mut merges = Vec::new();
    while id_of.len() < n_symbols {
        let mut counts: HashMap<(Bytes, Bytes), u64> = HashMap::new();
        for (word, n) in &words {
            for pair in word.windows(2) {
                *counts.entry((pair[0].clone(), pair[1].clone())).or_default() += n;
            }
        }
        let key = |pair: &(Bytes, Bytes)| (id_of[&pair.0], id_of[&pair.1]);
        let allowed = |pair: &(Bytes, Bytes)| !forbidden.contains(&[pair.0.clone(), pair.1.clone()].concat());
        let best = counts.into_iter().filter(|(pair, _)| allowed(pair)).max_by(|a, b| {
            a.1.cmp(&b.1).then_with(|| if ties == Ties::Greatest { a.0.cmp(&b.0) } else { key(&b.0).cmp(&key(&a.0)) })
        });
        let Some((pair, _)) = best else { break };
        let token = [pair.0.clone(), pair.1.clone()].concat();
        for (word, _) in &mut words {
            let mut i = 0;
            while i + 1 < word.len() {
                if word[i] == pair.0 && word[i + 1] == pair.1 {
                    word[i] = token.clone();
                    word.remove(i + 1);
                }
                i += 1;
            }
        }
        let fresh = id_of.len() as u32;
        id_of.entry(token).or_insert(fresh);
        if !merges.contains(&pair) {
            merges.push(pair);
        }
    }
    merges
}

fn counts_of(words: &[(Bytes, u64)]) -> WordCounts {
    let mut counts = WordCounts::new();
    words.iter().for_each(|(word, n)| counts.add(word, *n));
    counts
}

/// Our merges, from the given first floor.
fn merged<C: Cell>(
    words: &[(Bytes, u64)],
    n_symbols: usize,
    ties: Ties,
    forbidden: &HashSet<Bytes>,
    floor: Option<u64>,
) -> Spelled {
    let is_forbidden = |bytes: &[u8]| forbidden.contains(bytes);
    let request = Request { order: &order_of(ties), ties, forbidden: &is_forbidden, n_symbols, base: &[] };
    let (merges, symbols) = Merger::<C>::new(&counts_of(words), request, None, floor).unwrap().run().unwrap();
    merges.iter().map(|merge| (symbols.get(merge.left).to_vec(), symbols.get(merge.right).to_vec())).collect()
}

/// A small generator so that tests need no dependency (Knuth's linear congruence).
struct Noise(u64);

impl Noise {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    /// Up to nine words over one to four letters, each with a count; a third of them repeat what came before.
    fn words(&mut self) -> Vec<(Bytes, u64)> {
        let letters = 1 + self.below(4);
        let mut words: Vec<(Bytes, u64)> = Vec::new();
        for _ in 0..1 + self.below(9) {
            let mut word: Bytes = Vec::new();
            while word.is_empty() || self.below(3) > 0 {
                let run = 1 + self.below(5); // runs: aaaa
                let letter = b'a' + self.below(letters) as u8;
                word.extend((0..run).map(|_| letter));
            }
            word.truncate(20);
            words.push((word, 1 + self.below(5)));
        }
        words
    }
}

/// Every tie rule, cell size and first floor on `rounds` random corpora, to exhaustion and to a small vocabulary.
fn compare(rounds: u64, seed: u64) {
    let mut noise = Noise(seed);
    for round in 0..rounds {
        let words = noise.words();
        let forbidden: HashSet<Bytes> = match noise.below(4) {
            0 => [b"aa".to_vec(), b"abab".to_vec(), b"aaaa".to_vec()].into(),
            _ => HashSet::new(),
        };
        let floor = [None, Some(2), Some(5), Some(40)][noise.below(4) as usize];
        for ties in [Ties::Hf, Ties::Raw, Ties::Greatest] {
            for n_symbols in [400, 257 + noise.below(6) as usize] {
                let expected = recount(&words, n_symbols, ties, &forbidden);
                let context = format!("round {round}, {ties:?}, {n_symbols}, floor {floor:?}: {words:?}");
                assert_eq!(merged::<u16>(&words, n_symbols, ties, &forbidden, floor), expected, "{context}");
                assert_eq!(merged::<u32>(&words, n_symbols, ties, &forbidden, None), expected, "{context}");
            }
        }
    }
}

#[test]
fn incremental_counts_equal_a_full_recount_on_small_corpora_with_runs() {
    compare(500, 99);
}

#[test]
#[ignore = "a minute; run with `cargo test --release -p tokenizer -- --ignored ten_thousand`"]
fn incremental_counts_equal_a_full_recount_on_ten_thousand_small_corpora() {
    compare(10_000, 7);
}

#[test]
fn counts_above_32_bits_order_pairs_as_their_true_values_do() {
    let two_32 = 1_u64 << 32;
    let words: Vec<(Bytes, u64)> =
        [("ab", two_32 + 1), ("cd", 2), ("ef", two_32 * 4), ("gh", two_32 - 1), ("ij", two_32 / 2)]
            .map(|(word, n)| (word.into(), n))
            .into();
    let first: Vec<Bytes> =
        merged::<u16>(&words, 300, Ties::Raw, &HashSet::new(), None).into_iter().map(|(left, _)| left).collect();
    assert_eq!(first, [b"e", b"a", b"g", b"i", b"c"].map(|letter| letter.to_vec()));
    let mut noise = Noise(3);
    for _ in 0..50 {
        let small = noise.words();
        let large: Vec<(Bytes, u64)> = small.iter().map(|(word, n)| (word.clone(), n * (two_32 + 12_345))).collect();
        for floor in [None, Some(two_32)] {
            let merges = merged::<u16>(&large, 400, Ties::Hf, &HashSet::new(), floor);
            assert_eq!(merges, recount(&small, 400, Ties::Hf, &HashSet::new()));
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    // In tests a merge with a few dozen postings is shared by threads already (see `replace::THREAD`).
    let mut noise = Noise(5);
    let words: Vec<(Bytes, u64)> = (0..400).flat_map(|_| noise.words()).collect();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| merged::<u16>(&words, 1500, Ties::Hf, &HashSet::new(), None))
    };
    let alone = run(1);
    assert!(alone.len() > 500, "{}", alone.len());
    for threads in [2, 3, 16] {
        assert_eq!(run(threads), alone);
    }
}

#[test]
fn no_text_one_byte_and_one_long_run() {
    let merges = |words: &[(Bytes, u64)]| merged::<u32>(words, 1000, Ties::Hf, &HashSet::new(), None);
    assert!(merges(&[]).is_empty());
    assert!(merges(&[(b"a".to_vec(), 7)]).is_empty());
    let doubling = merges(&[(vec![b'a'; 1 << 20], 1)]);
    assert_eq!(doubling.len(), 20);
    assert!(doubling.iter().enumerate().all(|(i, (left, right))| left.len() == 1 << i && right.len() == 1 << i));
}
