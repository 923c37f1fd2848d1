//! Dropout: a number becomes 0 with probability p, else it is divided by 1 - p; backward is the same on the gradient.
//!
//! In: rows of a micro-batch. Out: the rows, changed in place. Whether a number stays depends on (seed, step, global sample
//! index, layer, purpose) and its index in the sample alone: equal for any split of a step into micro-batches, for any
//! number of threads, and in the second forward of recomputation. Srivastava et al. 2014.

use super::Scalar;
use crate::rng::Key;

/// Randomness of one micro-batch.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    /// Depends on the seed and the optimizer step.
    pub key: Key,
    /// Index within the step of the micro-batch's first row, over all micro-batches and ranks.
    pub first_sample: u64,
}

/// Where in a model numbers are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// After the embedding.
    Embedding,
    /// What attention of this layer adds.
    Attention(usize),
    /// What the feed-forward of this layer adds.
    Mlp(usize),
}

/// The dropout of one place in one micro-batch.
#[derive(Clone, Debug)]
pub struct Dropout {
    keys: Vec<Key>, // [b]
    t: usize,
    c: usize,
    least: u32,
    scale: f64,
}

impl Dropout {
    /// Of rows `[b * t, c]`; `None` if nothing is dropped.
    pub fn new(share: f64, noise: Option<Noise>, place: Place, b: usize, t: usize, c: usize) -> Option<Self> {
        let noise = noise.filter(|_| share > 0.0)?;
        let (layer, purpose) = match place {
            Place::Embedding => (u64::MAX, "embedding"),
            Place::Attention(l) => (l as u64, "attention"),
            Place::Mlp(l) => (l as u64, "mlp"),
        };
        let key = |row: usize| noise.key.fold(noise.first_sample + row as u64).fold(layer).fold_str(purpose);
        let least = (share * 2.0_f64.powi(32)) as u32;
        Some(Self { keys: (0..b).map(key).collect(), t, c, least, scale: 1.0 / (1.0 - share) })
    }

    /// Rows `first..` of the micro-batch, in place.
    pub fn apply<T: Scalar>(&self, x: &mut [T], first: usize) {
        let scale = T::of(self.scale);
        for (i, row) in x.chunks_exact_mut(self.c).enumerate() {
            let at = first + i;
            let (key, start) = (self.keys[at / self.t], (at % self.t * self.c) as u64);
            let mut block = (u64::MAX, [0; 4]);
            for (x, index) in row.iter_mut().zip(start..) {
                if block.0 != index / 4 {
                    block = (index / 4, key.block(index / 4));
                }
                *x = if block.1[(index % 4) as usize] < self.least { T::ZERO } else { *x * scale };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(first_sample: u64, b: usize, place: Place, step: u64) -> Vec<f32> {
        let noise = Noise { key: Key::new(3).fold(step), first_sample };
        let dropout = Dropout::new(0.25, Some(noise), place, b, 50, 13).unwrap();
        let mut x = vec![1.0; b * 50 * 13];
        dropout.apply(&mut x, 0);
        x
    }

    #[test]
    fn the_share_is_dropped_the_rest_scaled_and_the_split_does_not_matter() {
        let all = mask(0, 4, Place::Mlp(1), 7);
        let kept = all.iter().filter(|x| **x != 0.0).count() as f64 / all.len() as f64;
        assert!((kept - 0.75).abs() < 0.03, "{kept}");
        assert!(all.iter().all(|x| *x == 0.0 || (x - 4.0 / 3.0).abs() < 1e-6));
        assert_eq!(all[2 * 650..], mask(2, 2, Place::Mlp(1), 7));
        let noise = Noise { key: Key::new(3).fold(7), first_sample: 0 };
        let mut tail = vec![1.0; 30 * 13];
        Dropout::new(0.25, Some(noise), Place::Mlp(1), 4, 50, 13).unwrap().apply(&mut tail, 120);
        assert_eq!(tail, all[120 * 13..150 * 13]);
        for other in [mask(0, 4, Place::Mlp(0), 7), mask(0, 4, Place::Attention(1), 7), mask(0, 4, Place::Mlp(1), 8)] {
            assert_ne!(other, all);
        }
        assert_ne!(all[..650], all[650..1300]);
    }

    #[test]
    fn without_a_share_or_noise_nothing_is_dropped() {
        let noise = Noise { key: Key::new(3), first_sample: 0 };
        assert!(Dropout::new(0.0, Some(noise), Place::Embedding, 1, 2, 3).is_none());
        assert!(Dropout::new(0.5, None, Place::Embedding, 1, 2, 3).is_none());
    }
}
