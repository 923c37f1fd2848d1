//! The numbers that numpy's `RandomState(seed).randint(low, high, dtype=uint64)` draws.
//!
//! In: a 32-bit seed. Out: the same 64-bit numbers as numpy (legacy generator, frozen by numpy's compatibility policy).
//! Matsumoto & Nishimura 1998 (MT19937); bounded numbers by masking and rejection.

const STATE: usize = 624;
const SHIFT: usize = 397;

/// The Mersenne Twister with numpy's legacy seeding by one integer.
pub(super) struct RandomState {
    state: [u32; STATE],
    next: usize,
}

impl RandomState {
    pub(super) fn new(seed: u32) -> Self {
        let mut state = [seed; STATE];
        for index in 1..STATE {
            let last = state[index - 1];
            state[index] = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(index as u32);
        }
        Self { state, next: STATE }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == STATE {
            self.renew();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn renew(&mut self) {
        for index in 0..STATE {
            let next = self.state[(index + 1) % STATE];
            let mixed = (self.state[index] & 0x8000_0000) | (next & 0x7fff_ffff);
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[index] = self.state[(index + SHIFT) % STATE] ^ (mixed >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// A number in `low..high`; `high - low` is more than 2^32, for which numpy takes two words, the high one first.
    pub(super) fn below(&mut self, low: u64, high: u64) -> u64 {
        let most = high - 1 - low;
        debug_assert!(most > u64::from(u32::MAX), "numpy draws small ranges from one word");
        let mask = u64::MAX >> most.leading_zeros();
        loop {
            let word = u64::from(self.next_u32()) << 32 | u64::from(self.next_u32());
            if word & mask <= most {
                return low + (word & mask);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First output of the reference implementation for seed 5489, and the 10,000th, which C++'s standard names.
    #[test]
    fn the_words_are_those_of_the_reference_generator() {
        let mut random = RandomState::new(5489);
        let words: Vec<u32> = (0..10_000).map(|_| random.next_u32()).collect();
        assert_eq!((words[0], words[9_999]), (3_499_211_612, 4_123_659_995));
    }

    #[test]
    fn bounded_numbers_are_numpys() {
        let mut random = RandomState::new(1);
        let most = (1_u64 << 61) - 1;
        // numpy.random.RandomState(1).randint(1, 2**61 - 1, dtype=numpy.uint64, size=4)
        let wanted = [775169054918279404, 1758426461858698313, 2109959069025162, 965365488286768774];
        assert_eq!([0; 4].map(|_| random.below(1, most)), wanted);
    }
}
