//! Binary search over what is not a slice.

/// The least `i` in `0..=n` for which `below(i)` does not hold; it must hold up to there and nowhere after. At most
/// `floor(log2 n) + 1` calls.
pub(super) fn partition(n: u64, mut below: impl FnMut(u64) -> bool) -> u64 {
    let (mut from, mut to) = (0, n);
    while from < to {
        #[cfg(test)]
        STEPS.with(|steps| steps.set(steps.get() + 1));
        let middle = from + (to - from) / 2;
        if below(middle) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    from
}

#[cfg(test)]
thread_local! {
    /// Calls of `below` by this thread, so that tests can count instead of timing.
    pub(super) static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_boundary_is_found_in_a_logarithm_of_steps() {
        for n in [0, 1, 2, 3, 31, 32, 33] {
            for boundary in 0..=n {
                STEPS.with(|steps| steps.set(0));
                assert_eq!(partition(n, |i| i < boundary), boundary);
                assert!(STEPS.with(|steps| steps.get()) <= u64::from(u64::BITS - n.leading_zeros()));
            }
        }
    }
}
