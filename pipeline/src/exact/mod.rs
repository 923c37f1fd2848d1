//! Sums of floats that depend on the numbers alone, not on their order: the exact value as an integer, rounded once at the end.
//!
//! Every finite f64 is a whole number of 2^-1074, so a sum of them is an integer of about 2,100 bits. It is kept in digits of 32 bits
//! in signed words of 64, which leaves room to put off carries for a thousand additions (the small superaccumulator of Neal 2015,
//! "Fast exact summation using small and large superaccumulators"); only the window of digits that the values touch is stored, some
//! forty bytes for values of like size. Products of two floats are exact in the same way with twice the digits, which makes
//! variances and correlations exact up to one division and one root (`statistic.rs`). Addition, subtraction and merging are exact,
//! so partial sums may be made, spilled and joined in any way.
//!
//! Not numbers: a NaN, or infinities of both signs, make NaN; infinities of one sign make that infinity. A sum of nothing but
//! zeros is +0. A sum beyond the largest f64 is an infinity. `min` and `max` have a total order of their own (`extreme.rs`).

mod aggregate;
mod big;
mod extreme;
mod statistic;

pub use aggregate::functions;
pub use big::Big;
pub use statistic::Statistic;

/// Additions after which carries are made: each adds less than 2^52 to a word.
const PUT_OFF: u16 = 1 << 10;
/// Bits of a digit.
const DIGIT: u32 = 32;
const MASK: i64 = (1 << DIGIT) - 1;
/// Exponent of the lowest bit of digit 0 in a sum of values; in a sum of products it is twice this.
pub const LOWEST: i64 = -1075;
/// Digits that the significand of any value lies in.
const VALUE_DIGITS: usize = 65;

/// An exact sum of floats, or of products of two floats.
#[derive(Clone, Debug, Default)]
pub struct Exact {
    /// Digits from `first` up; each has its value in sign and word, carries are made every `PUT_OFF` additions.
    digits: Vec<i64>,
    first: u8,
    pending: u16,
    /// How many NaN, positive and negative infinities are in it.
    special: Option<Box<[i64; 3]>>,
}

/// A finite float as `(significand, biased exponent from 1)`: its size is significand * 2^(exponent + LOWEST).
#[inline(always)]
fn parts(bits: u64) -> (u64, u32) {
    let exponent = (bits >> 52) as u32 & 0x7ff;
    let fraction = bits & ((1 << 52) - 1);
    if exponent == 0 { (fraction, 1) } else { (fraction | 1 << 52, exponent) }
}

/// `value`, or its negative if `sign` is -1; `sign` is 0 or -1.
#[inline(always)]
fn signed(value: u64, sign: i64) -> i64 {
    (value as i64 ^ sign) - sign
}

impl Exact {
    /// Adds a value.
    #[inline(always)]
    pub fn add(&mut self, x: f64) {
        self.add_signed(x, 0);
    }

    /// Takes a value away that was added before.
    pub fn subtract(&mut self, x: f64) {
        self.add_signed(x, -1);
    }

    #[inline(always)]
    fn add_signed(&mut self, x: f64, sign: i64) {
        if !x.is_finite() {
            return self.add_special(x, sign | 1);
        }
        let bits = x.to_bits();
        let (significand, exponent) = parts(bits);
        if significand == 0 {
            return;
        }
        let (at, shift) = ((exponent / DIGIT) as usize, exponent % DIGIT);
        let sign = (bits as i64 >> 63) ^ sign;
        let words = self.window(at, 2);
        words[0] += signed((significand << shift) & MASK as u64, sign);
        words[1] += signed(significand >> (DIGIT - shift), sign);
        self.count();
    }

    /// Adds many values: several times faster than one after the other.
    pub fn add_all(&mut self, values: &[f64]) {
        for some in values.chunks(usize::from(PUT_OFF)) {
            let mut words = [0i64; VALUE_DIGITS];
            for &x in some {
                let bits = x.to_bits();
                let (significand, exponent) = parts(bits);
                if exponent == 0x7ff {
                    self.add_special(x, 1);
                    continue;
                }
                let (at, shift) = ((exponent / DIGIT) as usize, exponent % DIGIT);
                let sign = bits as i64 >> 63;
                words[at] += signed((significand << shift) & MASK as u64, sign);
                words[at + 1] += signed(significand >> (DIGIT - shift), sign);
            }
            self.absorb(0, &words);
        }
    }

    /// Adds `x * y`, without rounding; `sign` is 1, or -1 to take it away. A factor that is no number makes the whole sum none.
    pub fn add_product(&mut self, x: f64, y: f64, sign: i64) {
        if !(x.is_finite() && y.is_finite()) {
            return self.add_special(f64::NAN, sign);
        }
        let ((a, p), (b, q)) = (parts(x.to_bits()), parts(y.to_bits()));
        let product = u128::from(a) * u128::from(b);
        if product == 0 {
            return;
        }
        let sign = ((x.to_bits() ^ y.to_bits()) as i64 >> 63) ^ (sign >> 1);
        let (at, shift) = (((p + q) / DIGIT) as usize, (p + q) % DIGIT);
        let low = (product & u128::from(u64::MAX)) << shift;
        let high = (product >> 64) << shift;
        let digits = [low, low >> 32, (low >> 64) + (high & MASK as u128), high >> 32, high >> 64];
        let words = self.window(at, 5);
        for (i, (word, digit)) in words.iter_mut().zip(digits).enumerate() {
            *word += signed(if i == 2 { digit as u64 } else { digit as u64 & MASK as u64 }, sign);
        }
        self.count();
    }

    #[cold]
    fn add_special(&mut self, x: f64, count: i64) {
        let special = self.special.get_or_insert_default();
        special[if x.is_nan() { 0 } else { 1 + usize::from(x < 0.0) }] += count;
    }

    /// The words of digits `at .. at + count`.
    #[inline(always)]
    fn window(&mut self, at: usize, count: usize) -> &mut [i64] {
        let first = usize::from(self.first);
        if at < first || at + count > first + self.digits.len() {
            self.widen(at, at + count);
        }
        let from = at - usize::from(self.first);
        &mut self.digits[from..from + count]
    }

    #[cold]
    fn widen(&mut self, from: usize, to: usize) {
        if self.digits.is_empty() {
            self.first = from as u8;
        }
        let below = usize::from(self.first).saturating_sub(from);
        let mut digits = vec![0; below];
        digits.append(&mut self.digits);
        self.first -= below as u8;
        digits.resize(digits.len().max(to - usize::from(self.first)), 0);
        self.digits = digits;
    }

    #[inline(always)]
    fn count(&mut self) {
        self.pending += 1;
        if self.pending == PUT_OFF {
            self.carry();
        }
    }

    /// Makes every digit but the last 32 bits without sign, the last a signed number of 31 bits.
    fn carry(&mut self) {
        self.pending = 0;
        let mut carry = 0;
        for word in &mut self.digits {
            let sum = *word + carry;
            (*word, carry) = (sum & MASK, sum >> DIGIT);
        }
        let Some(last) = self.digits.last_mut() else { return };
        // A carry of 0 or -1 that agrees with the last digit's upper bit is its sign; any other is a digit of its own.
        match carry {
            0 if *last <= MASK >> 1 => {}
            -1 if *last > MASK >> 1 => *last -= MASK + 1,
            _ => self.digits.push(carry),
        }
    }

    /// Adds words that stand for digits from `first` up, each less than 2^62 in size.
    fn absorb(&mut self, first: usize, words: &[i64]) {
        let Some(from) = words.iter().position(|w| *w != 0) else { return };
        let to = words.len() - words.iter().rev().take_while(|w| **w == 0).count();
        self.carry();
        let mine = self.window(first + from, to - from);
        mine.iter_mut().zip(&words[from..to]).for_each(|(word, other)| *word += other);
        self.carry();
    }

    /// Adds another sum of the same kind.
    pub fn merge(&mut self, other: &Exact) {
        self.absorb(usize::from(other.first), &other.digits);
        if let Some(theirs) = &other.special {
            let special = self.special.get_or_insert_default();
            special.iter_mut().zip(theirs.iter()).for_each(|(n, m)| *n += m);
        }
    }

    /// The sum as a number of any size; `lowest` is the exponent of digit 0. None if it is no finite number.
    pub fn big(&self, lowest: i64) -> Option<Big> {
        if self.not_finite().is_some() {
            return None;
        }
        let mut whole = self.clone();
        whole.carry();
        let negative = whole.digits.last().is_some_and(|d| *d < 0);
        if negative {
            whole.digits.iter_mut().for_each(|d| *d = -*d);
            whole.carry();
        }
        let digits = whole.digits.iter().map(|d| *d as u32).collect();
        Some(Big::new(negative, digits, lowest + i64::from(DIGIT) * i64::from(self.first)))
    }

    /// What the sum is if it is no finite number.
    pub fn not_finite(&self) -> Option<f64> {
        match self.special.as_deref() {
            None | Some([0, 0, 0]) => None,
            Some([0, _, 0]) => Some(f64::INFINITY),
            Some([0, 0, _]) => Some(f64::NEG_INFINITY),
            Some(_) => Some(f64::NAN),
        }
    }

    /// A sum of values, rounded to nearest, ties to even.
    pub fn value(&self) -> f64 {
        match self.big(LOWEST) {
            Some(sum) => sum.round(),
            None => self.not_finite().expect("a sum without a finite value is something else"),
        }
    }

    /// Bytes on the heap.
    fn heap(&self) -> usize {
        self.digits.capacity() * size_of::<i64>() + self.special.as_ref().map_or(0, |_| size_of::<[i64; 3]>())
    }

    /// Appends the sum to a state: `first: u8, digits: u8, special: u8`, the digits as i64 and, if there are any, the three counts,
    /// all little-endian.
    fn write(&mut self, out: &mut Vec<u8>) {
        self.carry();
        out.extend([self.first, self.digits.len() as u8, u8::from(self.special.is_some())]);
        self.digits.iter().chain(self.special.iter().flat_map(|s| s.iter())).for_each(|d| out.extend(d.to_le_bytes()));
    }

    /// Takes a sum off the front of a state; None if the bytes are no state.
    fn read(bytes: &mut &[u8]) -> Option<Exact> {
        let ([first, count, special], rest) = bytes.split_first_chunk::<3>()?;
        *bytes = rest;
        let mut word = || {
            let (word, rest) = bytes.split_first_chunk::<8>()?;
            *bytes = rest;
            Some(i64::from_le_bytes(*word))
        };
        let digits = (0..*count).map(|_| word()).collect::<Option<_>>()?;
        let special = if *special == 1 { Some(Box::new([word()?, word()?, word()?])) } else { None };
        Some(Exact { digits, first: *first, pending: 0, special })
    }
}

#[cfg(test)]
mod tests;
