//! How often a kept document is worth repeating, by the size of its cluster.
//!
//! In: cluster sizes. Out: weights. Left to others: repeating or sampling rows by them.
//! FineWeb 2 (Penedo et al. 2025): duplicates say something about quality. Documents that never repeat, and those that repeat
//! very often, pass quality filters less often than those in between, so the latter are upsampled ("re-hydrated").

/// Weights by least cluster size, as FineWeb 2 has them: 1, 2, 3 for clusters of so many, 3 for 4, 5 from 5 on, 8 from 100 on, and 1
/// from 1,000 on. Checked against `README.md` of `huggingface/fineweb-2` at commit 7bdf8fc29a2f23a227538cf767cf483056ebd50d. Its later
/// weights are per language (`misc/rehydration` at 05e6729567a5df985fbd814e862c48f796feb09f); [`measured_weights`] makes such ones.
pub const FINEWEB2_WEIGHTS: [(u64, u32); 6] = [(1, 1), (2, 2), (3, 3), (5, 5), (100, 8), (1000, 1)];

/// The weight of a kept document in a cluster of `cluster_size` (itself included): that of the last step of `steps` (least
/// cluster size, weight; ascending) which the cluster reaches; 0 if it reaches none.
pub fn rehydration_weight(cluster_size: u64, steps: &[(u64, u32)]) -> u32 {
    debug_assert!(steps.is_sorted_by(|x, y| x.0 < y.0), "steps ascend");
    let reached = steps.partition_point(|&(least, _)| least <= cluster_size);
    if reached == 0 { 0 } else { steps[reached - 1].1 }
}

/// Steps out of a corpus's own measures, the idea of FineWeb 2: `rows` are (least cluster size, documents, documents that
/// quality filters dropped), ascending. A group that loses at least as large a share as the whole corpus weighs 1, the group
/// that loses least weighs `most`, and between them the weight falls linearly with the share, to the nearest integer. FineWeb 2 smooths
/// the weights over five neighbouring sizes before rounding (`misc/rehydration/README.md`, `most` = 10); here they are not.
pub fn measured_weights(rows: &[(u64, u64, u64)], most: u32) -> Vec<(u64, u32)> {
    let share = |documents: u64, dropped: u64| if documents == 0 { 1.0 } else { dropped as f64 / documents as f64 };
    let all = share(rows.iter().map(|row| row.1).sum(), rows.iter().map(|row| row.2).sum());
    let least = rows.iter().map(|row| share(row.1, row.2)).fold(all, f64::min);
    let weight = |dropped: f64| {
        if dropped >= all {
            1
        } else {
            1 + (f64::from(most.saturating_sub(1)) * (all - dropped) / (all - least)).round() as u32
        }
    };
    rows.iter().map(|&(size, documents, dropped)| (size, weight(share(documents, dropped)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_step_with_the_cluster_size() {
        let rows =
            [(0, 0), (1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (99, 5), (100, 8), (999, 8), (1000, 1), (u64::MAX, 1)];
        for (size, wanted) in rows {
            assert_eq!(rehydration_weight(size, &FINEWEB2_WEIGHTS), wanted, "{size}");
        }
        assert_eq!(rehydration_weight(7, &[]), 0);
    }

    #[test]
    fn measured_weights_rise_as_the_dropped_share_falls() {
        // Shares .6, .3, .1, .9; of all 1,060 / 2,010 = .527.
        let rows = [(1, 1000, 600), (2, 500, 150), (5, 110, 11), (100, 400, 299 + 1)];
        assert_eq!(measured_weights(&rows, 10), [(1, 1), (2, 6), (5, 10), (100, 1)]);
        assert_eq!(measured_weights(&[(1, 10, 5)], 10), [(1, 1)]);
        assert_eq!(measured_weights(&[(1, 0, 0), (2, 0, 0)], 3), [(1, 1), (2, 1)]);
        assert_eq!(measured_weights(&[], 3), []);
    }
}
