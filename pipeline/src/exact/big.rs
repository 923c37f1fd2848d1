//! Whole numbers of any size with a binary exponent: just what it takes to round an exact sum, a quotient or a root once.

/// `(-1)^negative * digits * 2^exponent`; digits are of 32 bits, lowest first, without zeros at the top.
#[derive(Clone, Debug, PartialEq)]
pub struct Big {
    negative: bool,
    digits: Vec<u32>,
    exponent: i64,
}

impl Big {
    /// A number of its parts.
    pub fn new(negative: bool, mut digits: Vec<u32>, exponent: i64) -> Self {
        while digits.last() == Some(&0) {
            digits.pop();
        }
        Self { negative, digits, exponent }
    }

    /// A count.
    pub fn count(n: u64) -> Self {
        Self::new(false, vec![n as u32, (n >> 32) as u32], 0)
    }

    /// Whether it is 0.
    pub fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    /// The product, exact.
    pub fn times(&self, other: &Big) -> Big {
        let mut digits = vec![0u32; self.digits.len() + other.digits.len()];
        for (i, a) in self.digits.iter().enumerate() {
            let mut carry = 0u64;
            for (digit, b) in digits[i..].iter_mut().zip(other.digits.iter().chain([&0])) {
                let sum = u64::from(*a) * u64::from(*b) + u64::from(*digit) + carry;
                (*digit, carry) = (sum as u32, sum >> 32);
            }
        }
        Big::new(self.negative != other.negative, digits, self.exponent + other.exponent)
    }

    /// The difference, exact. Exponents must be whole digits apart, as those of sums and of products of sums are.
    pub fn minus(&self, other: &Big) -> Big {
        let lowest = self.exponent.min(other.exponent);
        let aligned = |big: &Big| -> Vec<i64> {
            let zeros = (big.exponent - lowest) / 32;
            assert!(zeros * 32 == big.exponent - lowest, "exponents are whole digits apart because every sum's is");
            let digits = big.digits.iter().map(|d| if big.negative { -i64::from(*d) } else { i64::from(*d) });
            std::iter::repeat_n(0, zeros as usize).chain(digits).collect()
        };
        let (mut words, subtracted) = (aligned(self), aligned(other));
        words.resize(words.len().max(subtracted.len()) + 1, 0);
        words.iter_mut().zip(subtracted).for_each(|(w, s)| *w -= s);
        let negative = carry(&mut words);
        if negative {
            words.iter_mut().for_each(|w| *w = -*w);
            carry(&mut words);
        }
        Big::new(negative, words.iter().map(|w| *w as u32).collect(), lowest)
    }

    /// The quotient by a count from 1 up, cut off 256 bits below the digits, with a lowest bit that says whether there is a rest: two
    /// such divisions and a rounding are one rounding of the exact quotient.
    pub fn over(&self, divisor: u64) -> Big {
        let mut digits = vec![0u32; 8];
        digits.extend(&self.digits);
        let mut rest = 0u128;
        for digit in digits.iter_mut().rev() {
            let part = rest << 32 | u128::from(*digit);
            *digit = (part / u128::from(divisor)) as u32;
            rest = part % u128::from(divisor);
        }
        digits[0] |= u32::from(rest != 0);
        Big::new(self.negative, digits, self.exponent - 256)
    }

    /// Bits of the digits, without zeros at the top.
    fn bits(&self) -> i64 {
        self.digits.last().map_or(0, |top| 32 * self.digits.len() as i64 - i64::from(top.leading_zeros()))
    }

    /// Digits over 2^`drop`, rounded to nearest, ties to even; the result must fit.
    fn shifted(&self, drop: i64) -> u64 {
        if drop <= 0 {
            return self.digits.iter().rev().fold(0, |n, d| n << 32 | u64::from(*d)) << -drop;
        }
        let bit = |at: i64| self.digits.get((at / 32) as usize).is_some_and(|d| d >> (at % 32) & 1 == 1);
        let kept = (drop..self.bits()).rev().fold(0, |n, at| n << 1 | u64::from(bit(at)));
        let half = bit(drop - 1);
        let whole = ((drop - 1) / 32) as usize;
        let below = self.digits.iter().take(whole).any(|d| *d != 0)
            || self.digits.get(whole).is_some_and(|d| d & ((1u32 << ((drop - 1) % 32)) - 1) != 0);
        kept + u64::from(half && (below || kept & 1 == 1))
    }

    /// The nearest f64, ties to even; an infinity beyond the largest.
    pub fn round(&self) -> f64 {
        if self.is_zero() {
            return 0.0;
        }
        let top = self.exponent + self.bits() - 1; // exponent of the highest bit
        let sign = u64::from(self.negative) << 63;
        if top > 1023 {
            return f64::from_bits(sign | f64::INFINITY.to_bits());
        }
        let lowest = (top - 52).max(-1074); // of the result's lowest bit
        let rounded = self.shifted(lowest - self.exponent);
        // A significand that was rounded up to 2^53 raises the exponent by itself, as one that is rounded up to 2^52 makes
        // a subnormal number normal.
        let bits = if top >= -1022 { (((top + 1022) as u64) << 52) + rounded } else { rounded };
        f64::from_bits(sign | bits)
    }

    /// A finite float times a power of two.
    pub fn of(x: f64, power: i64) -> Self {
        let (significand, exponent) = super::parts(x.to_bits());
        let digits = vec![significand as u32, (significand >> 32) as u32];
        Self::new(x < 0.0, digits, i64::from(exponent) + super::LOWEST + power)
    }

    /// `(m, e)` with the number about m * 2^e, m from 1 to 2 with 53 bits; (0, 0) for 0. Of any size, unlike an f64.
    pub fn scaled(&self) -> (f64, i64) {
        if self.is_zero() {
            return (0.0, 0);
        }
        let top = self.exponent + self.bits() - 1;
        let significand = Big { exponent: self.exponent - top, ..self.clone() }.round();
        if significand.abs() == 2.0 { (significand / 2.0, top + 1) } else { (significand, top) }
    }
}

/// Makes words of 32 bits without sign of signed ones; whether the whole is negative, which the last word then says by being so.
fn carry(words: &mut [i64]) -> bool {
    let mut carry = 0;
    let last = words.len() - 1;
    for word in &mut words[..last] {
        let sum = *word + carry;
        (*word, carry) = (sum & 0xffff_ffff, sum >> 32);
    }
    words[last] += carry;
    words[last] < 0
}
