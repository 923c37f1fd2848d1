//! How well a language model predicts a text: bits per byte under an n-gram model of bytes.
//!
//! In: texts to train on, then texts to measure. Out: a `Model`, the bytes it is stored in, bits per byte of a text. Interpolated
//! modified Kneser-Ney smoothing (Chen and Goodman 1998, "An Empirical Study of Smoothing Techniques", section 3), over bytes, so that
//! no text has an unknown word; the unigrams are interpolated with 1/256. N-grams may be pruned by count: what they had goes to the
//! shorter context, so that probabilities still sum to 1. The same texts in the same order give the same bytes: counts are
//! integers, floating point is used in a fixed order and without library functions, costs are stored as multiples of 2^-16 bits.
//! CCNet (Wenzek et al. 2020) sorts pages by such a measure, with words. Left to others: which texts are good to train on.

use xxhash_rust::xxh3::xxh3_64;

/// What begins a stored model.
const MAGIC: &[u8; 8] = b"gmngram1";
/// Bits of a symbol in a key: a byte, or the symbol before the text.
const SYMBOL_BITS: u32 = 9;
const BEFORE_TEXT: u64 = 256;
/// A bit, in units of cost.
const BIT: f64 = 65536.0;
/// Cost of a byte about which nothing is known.
const UNIFORM: u64 = 8 * 65536;

/// How a model is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of an n-gram, context included, 1..=7.
    pub order: usize,
    /// N-grams of at least 3 bytes that are counted at most this often are left out.
    pub prune: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { order: 6, prune: 0 }
    }
}

/// What can be wrong with a stored model or with options.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// Another kind of file.
    #[error("this is no n-gram model: it does not begin with `gmngram1`")]
    Magic,
    /// Damaged.
    #[error("the n-gram model is damaged: its checksum is wrong")]
    Checksum,
    /// Cut off, or not what this version writes.
    #[error("the n-gram model does not have the form it should have")]
    Form,
    /// An order that keys cannot hold.
    #[error("the order is {order}: it must be 1 to 7")]
    Order {
        /// What was asked for.
        order: usize,
    },
    /// Nothing to train on.
    #[error("there is no text to train on")]
    NoText,
}

/// An n-gram model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// By order, from 1 on.
    levels: Vec<Level>,
}

/// All n-grams of one length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Level {
    /// N-gram to cost of its last byte.
    grams: Table,
    /// Context to cost of leaving it.
    contexts: Table,
}

impl Model {
    /// Bits that the model needs for a byte of the text, 0..; `None` of an empty text.
    pub fn bits_per_byte(&self, text: &str) -> Option<f64> {
        let bytes = text.as_bytes();
        let mut context = (1..self.levels.len()).fold(0, |context, _| context << SYMBOL_BITS | BEFORE_TEXT);
        let mut total = 0_u64;
        for &byte in bytes {
            total += self.cost(context, byte);
            context = context << SYMBOL_BITS | u64::from(byte);
        }
        (!bytes.is_empty()).then(|| total as f64 / (BIT * bytes.len() as f64))
    }

    fn cost(&self, context: u64, byte: u8) -> u64 {
        let key = context << SYMBOL_BITS | u64::from(byte);
        let mut left = 0_u64;
        for (n, level) in self.levels.iter().enumerate().rev() {
            let key = key & mask(n + 1);
            if let Some(cost) = level.grams.get(key) {
                return left + u64::from(cost);
            }
            left += u64::from(level.contexts.get(key >> SYMBOL_BITS).unwrap_or(0));
        }
        left + UNIFORM
    }

    /// Trains a model on texts, in this order.
    pub fn train<'a>(texts: impl IntoIterator<Item = &'a str>, options: Options) -> Result<Self, ModelError> {
        let order = options.order;
        if !(1..=7).contains(&order) {
            return Err(ModelError::Order { order });
        }
        let longest = count_grams(texts, order);
        if longest.is_empty() {
            return Err(ModelError::NoText);
        }
        // Shorter n-grams are counted by the bytes they follow, not by how often they occur.
        let mut counts = vec![longest];
        for n in (1..order).rev() {
            let mut shorter: Vec<u64> = counts[counts.len() - 1].iter().map(|&(key, _)| key & mask(n)).collect();
            shorter.sort_unstable();
            counts.push(run_lengths(&shorter));
        }
        let mut smoothed: Vec<Smoothed> = Vec::with_capacity(order);
        for (n, counts) in counts.into_iter().rev().enumerate() {
            let prune = if n + 1 >= 3 { options.prune } else { 0 };
            let level = Smoothed::new(&counts, n + 1, prune, &smoothed);
            smoothed.push(level);
        }
        let cost = |&(key, share): &(u64, f64)| (key, (-log2(share) * BIT + 0.5) as u32);
        let table = |shares: &[(u64, f64)]| Table::new(shares.iter().map(cost).collect());
        let levels =
            smoothed.iter().map(|level| Level { grams: table(&level.grams), contexts: table(&level.contexts) });
        Ok(Self { levels: levels.collect() })
    }

    /// The bytes of the model: magic, order, for each order n-grams and contexts (number, then key differences and costs as
    /// variable-length integers), xxh3 of all that.
    pub fn save(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(self.levels.len() as u8);
        for table in self.levels.iter().flat_map(|level| [&level.grams, &level.contexts]) {
            put(&mut bytes, table.sorted.len() as u64);
            let mut before = 0;
            for &(key, cost) in &table.sorted {
                put(&mut bytes, key - before);
                put(&mut bytes, u64::from(cost));
                before = key;
            }
        }
        let checksum = xxh3_64(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The model that `save` made bytes of.
    pub fn load(bytes: &[u8]) -> Result<Self, ModelError> {
        let body = bytes.strip_prefix(MAGIC).ok_or(ModelError::Magic)?;
        let (body, checksum) = body.split_last_chunk::<8>().ok_or(ModelError::Form)?;
        if xxh3_64(&bytes[..bytes.len() - 8]) != u64::from_le_bytes(*checksum) {
            return Err(ModelError::Checksum);
        }
        let (&order, mut rest) = body.split_first().ok_or(ModelError::Form)?;
        if !(1..=7).contains(&order) {
            return Err(ModelError::Order { order: usize::from(order) });
        }
        let mut levels = Vec::new();
        for _ in 0..order {
            let [grams, contexts] = [take_table(&mut rest)?, take_table(&mut rest)?];
            levels.push(Level { grams, contexts });
        }
        if rest.is_empty() { Ok(Self { levels }) } else { Err(ModelError::Form) }
    }
}

/// The last `n` symbols of a key.
fn mask(n: usize) -> u64 {
    (1 << (SYMBOL_BITS * n as u32)) - 1
}

/// How often each n-gram occurs, in order of key; before each text stand symbols of their own.
fn count_grams<'a>(texts: impl IntoIterator<Item = &'a str>, order: usize) -> Vec<(u64, u64)> {
    const AT_ONCE: usize = 1 << 24;
    let (mut counted, mut pending): (Vec<(u64, u64)>, Vec<u64>) = (Vec::new(), Vec::new());
    let start = (0..order).fold(0, |key, _| key << SYMBOL_BITS | BEFORE_TEXT);
    for text in texts {
        let mut key = start;
        for &byte in text.as_bytes() {
            key = (key << SYMBOL_BITS | u64::from(byte)) & mask(order);
            pending.push(key);
        }
        if pending.len() > AT_ONCE {
            counted = merge(&counted, &mut pending);
        }
    }
    merge(&counted, &mut pending)
}

fn merge(counted: &[(u64, u64)], pending: &mut Vec<u64>) -> Vec<(u64, u64)> {
    pending.sort_unstable();
    let new = run_lengths(pending);
    pending.clear();
    let mut merged = Vec::with_capacity(counted.len() + new.len());
    let (mut old, mut new) = (counted.iter().copied().peekable(), new.into_iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (Some(a), Some(b)) if a.0 == b.0 => merged.push((a.0, a.1 + b.1)),
            (Some(a), Some(b)) if a.0 < b.0 => {
                merged.extend(old.next());
                continue;
            }
            (Some(_), None) => {
                merged.extend(old.next());
                continue;
            }
            (_, Some(_)) => {
                merged.extend(new.next());
                continue;
            }
            (None, None) => return merged,
        }
        old.next();
        new.next();
    }
}

fn run_lengths(sorted: &[u64]) -> Vec<(u64, u64)> {
    sorted.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as u64)).collect()
}

/// Probabilities of one order, in order of key.
struct Smoothed {
    /// Probability of the last byte after the others.
    grams: Vec<(u64, f64)>,
    /// What a context leaves to the shorter one.
    contexts: Vec<(u64, f64)>,
}

impl Smoothed {
    fn new(counts: &[(u64, u64)], n: usize, prune: u32, lower: &[Self]) -> Self {
        let discounts = discounts(counts);
        let discount =
            |count: u64| if count <= u64::from(prune) { count as f64 } else { discounts[count.min(3) as usize] };
        let mut level = Self { grams: Vec::new(), contexts: Vec::new() };
        for group in counts.chunk_by(|a, b| a.0 >> SYMBOL_BITS == b.0 >> SYMBOL_BITS) {
            let whole = group.iter().map(|&(_, count)| count).sum::<u64>() as f64;
            let left = group.iter().map(|&(_, count)| discount(count)).sum::<f64>() / whole;
            level.contexts.push((group[0].0 >> SYMBOL_BITS, left));
            for &(key, count) in group.iter().filter(|(_, count)| *count > u64::from(prune)) {
                let shorter = share(lower, key & mask(n - 1));
                level.grams.push((key, (count as f64 - discount(count)) / whole + left * shorter));
            }
        }
        level
    }
}

/// Probability of the last byte of a key under the highest of these orders.
fn share(levels: &[Smoothed], key: u64) -> f64 {
    let look = |table: &[(u64, f64)], key| table.binary_search_by_key(&key, |row| row.0).map(|at| table[at].1).ok();
    let Some((level, lower)) = levels.split_last() else { return 1.0 / 256.0 };
    look(&level.grams, key).unwrap_or_else(|| {
        let left = look(&level.contexts, key >> SYMBOL_BITS).unwrap_or(1.0);
        left * share(lower, key & mask(lower.len()))
    })
}

/// What is taken from n-grams counted once, twice, and more often; index 0 is not used. Chen and Goodman 1998, equation 26; a half
/// where too few n-grams occur to estimate it.
fn discounts(counts: &[(u64, u64)]) -> [f64; 4] {
    let of = |wanted: u64| counts.iter().filter(|(_, count)| *count == wanted).count() as f64;
    let n = [0.0, of(1), of(2), of(3), of(4)];
    if n[1..].contains(&0.0) {
        return [0.0, 0.5, 0.5, 0.5];
    }
    let y = n[1] / (n[1] + 2.0 * n[2]);
    let discount = |i: usize| (i as f64 - (i as f64 + 1.0) * y * n[i + 1] / n[i]).clamp(0.0, i as f64);
    // A context must leave something to the shorter one, or a new byte after it would cost everything.
    [0.0, discount(1).max(0.01), discount(2).max(0.01), discount(3).max(0.01)]
}

/// Binary logarithm of a positive number, to 1e-12, by additions, multiplications and one division: the same on every machine.
fn log2(x: f64) -> f64 {
    let bits = x.to_bits();
    let exponent = ((bits >> 52) & 0x7FF) as i64 - 1023;
    let mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52); // 1..2
    let z = (mantissa - 1.0) / (mantissa + 1.0); // ln m = 2 artanh z, z at most 1/3
    let (mut sum, mut power) = (0.0, z);
    for odd in 0..14 {
        sum += power / (2 * odd + 1) as f64;
        power *= z * z;
    }
    exponent as f64 + 2.0 * sum * std::f64::consts::LOG2_E
}

/// Keys with costs: sorted to be stored, hashed to be found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table {
    sorted: Vec<(u64, u32)>,
    /// Index in `sorted` plus 1, or 0; open addressing, at most half full.
    slots: Vec<u32>,
}

impl Table {
    fn new(sorted: Vec<(u64, u32)>) -> Self {
        let mut slots = vec![0; (2 * sorted.len()).next_power_of_two().max(2)];
        for (at, &(key, _)) in sorted.iter().enumerate() {
            let mut slot = slot_of(key, slots.len());
            while slots[slot] != 0 {
                slot = (slot + 1) & (slots.len() - 1);
            }
            slots[slot] = at as u32 + 1;
        }
        Self { sorted, slots }
    }

    fn get(&self, key: u64) -> Option<u32> {
        let mut slot = slot_of(key, self.slots.len());
        loop {
            let at = self.slots[slot].checked_sub(1)?;
            let (found, cost) = self.sorted[at as usize];
            if found == key {
                return Some(cost);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }
}

fn slot_of(key: u64, slots: usize) -> usize {
    (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize & (slots - 1)
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take(rest: &mut &[u8]) -> Result<u64, ModelError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or(ModelError::Form)?;
        *rest = after;
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(ModelError::Form)
}

fn take_table(rest: &mut &[u8]) -> Result<Table, ModelError> {
    let rows = take(rest)?;
    if rows > rest.len() as u64 {
        return Err(ModelError::Form);
    }
    let (mut sorted, mut key) = (Vec::with_capacity(rows as usize), 0_u64);
    for _ in 0..rows {
        key = key.checked_add(take(rest)?).ok_or(ModelError::Form)?;
        sorted.push((key, u32::try_from(take(rest)?).map_err(|_| ModelError::Form)?));
    }
    Ok(Table::new(sorted))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 4] = [
        "the cat sat on the mat and the dog sat on the log",
        "the dog and the cat are on the mat; the log is there",
        "die Katze saß auf der Matte, кот сидел на ковре",
        "a cat, a dog, a mat, a log and all that",
    ];

    fn model(order: usize, prune: u32) -> Model {
        Model::train(TEXTS, Options { order, prune }).expect("there are texts")
    }

    #[test]
    fn probabilities_after_any_context_sum_to_one() {
        for (order, prune) in [(1, 0), (3, 0), (5, 0), (5, 1), (7, 2)] {
            let model = model(order, prune);
            for context in ["", "the ", "zzzzzzz", "кот си", "the ca"] {
                let key = context.bytes().fold(0x1FF, |key, byte| key << SYMBOL_BITS | u64::from(byte));
                let sum: f64 = (0..=255).map(|byte| (-(model.cost(key & mask(6), byte) as f64) / BIT).exp2()).sum();
                assert!((sum - 1.0).abs() < 1e-3, "order {order} prune {prune} {context:?}: {sum}");
            }
        }
    }

    #[test]
    fn known_prose_costs_less_than_unknown_noise() {
        let model = model(5, 0);
        let bits = |text| model.bits_per_byte(text).expect("not empty");
        assert_eq!(model.bits_per_byte(""), None);
        assert!(bits("the cat sat on the log") < 1.5, "{}", bits("the cat sat on the log"));
        assert!(bits("qxzvkj") > 6.0, "{}", bits("qxzvkj"));
        assert!(bits("кот") < bits("кит"));
        assert!(bits("漢字") > 6.0);
    }

    #[test]
    fn a_unigram_model_is_the_discounted_share_of_each_byte() {
        let model = Model::train(["aab"], Options { order: 1, prune: 0 }).expect("a text");
        // Discounts are a half: (2 - 1/2) / 3 + 1/3 * 1/256 for `a`.
        let expected = -(1.5 / 3.0 + 1.0 / 3.0 / 256.0_f64).log2();
        assert!((model.bits_per_byte("a").expect("one byte") - expected).abs() < 1e-4);
        let unknown = -(1.0 / 3.0 / 256.0_f64).log2();
        assert!((model.bits_per_byte("z").expect("one byte") - unknown).abs() < 1e-4);
    }

    #[test]
    fn a_model_survives_being_stored_and_damage_is_noticed() {
        let model = model(6, 1);
        let bytes = model.save();
        assert_eq!(Model::load(&bytes), Ok(model.clone()));
        assert_eq!(Model::train(TEXTS, Options { order: 6, prune: 1 }).map(|again| again.save()), Ok(bytes.clone()));
        assert_eq!(Model::load(b""), Err(ModelError::Magic));
        for at in [8, bytes.len() / 2, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert_eq!(Model::load(&damaged), Err(ModelError::Checksum), "{at}");
        }
        assert!(Model::load(&bytes[..bytes.len() - 1]).is_err());
        assert_eq!(Model::train([""], Options::default()), Err(ModelError::NoText));
        assert_eq!(Model::train(TEXTS, Options { order: 8, prune: 0 }), Err(ModelError::Order { order: 8 }));
    }

    #[test]
    fn our_logarithm_is_the_logarithm() {
        for x in [1e-9, 0.1, 0.5, 0.75, 1.0, 1.999_999, 3.0, 1e6] {
            assert!((log2(x) - f64::log2(x)).abs() < 1e-11, "{x}");
        }
    }
}
