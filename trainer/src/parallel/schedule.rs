//! In which order a pipeline stage runs micro-batches forward and backward.
//!
//! In: stages, runs of blocks per stage (`chunks`; more than one interleaves), micro-batches, a stage. Out: its steps; a pure function,
//! the same on every rank. What a step receives and sends follows from its place: run `k` of stage `r` is place `k * stages + r` of the
//! whole model, forward comes from the place before and goes to the place after, backward the other way.
//!
//! One forward, one backward (Narayanan et al. 2021, section 2.2): a stage begins as many micro-batches as there are stages behind
//! it, then alternates, so it holds at most `stages` of them; idle share `(stages - 1) / (chunks * micro)` of the work. A loss that must
//! see all statistics of a step before any gradient needs [`Order::ForwardFirst`]: the same idle share, all micro-batches held.

/// When backward may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All forward, then all backward.
    ForwardFirst,
    /// Backward as soon as a micro-batch allows.
    OneForwardOneBackward,
}

/// One run of blocks over one micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Forward, else backward.
    pub forward: bool,
    /// Which run of this stage's blocks.
    pub chunk: usize,
    /// Which of this replica's micro-batches.
    pub micro: usize,
}

/// The steps of stage `stage`. Micro-batches go through the chunks in groups of `stages`; a group that is not full goes as if
/// it were.
pub fn steps(order: Order, stages: usize, chunks: usize, micro: usize, stage: usize) -> Vec<Step> {
    let whole = if chunks > 1 { micro.next_multiple_of(stages) } else { micro };
    let mut steps = of_whole_groups(order, stages, chunks, whole, stage);
    steps.retain(|step| step.micro < micro);
    steps
}

fn of_whole_groups(order: Order, stages: usize, chunks: usize, micro: usize, stage: usize) -> Vec<Step> {
    let group = if chunks > 1 { stages } else { 1 };
    let units = |forward: bool| {
        (0..micro).step_by(group).flat_map(move |first| {
            (0..chunks).flat_map(move |k| {
                let chunk = if forward { k } else { chunks - 1 - k };
                (first..micro.min(first + group)).map(move |micro| Step { forward, chunk, micro })
            })
        })
    };
    let (forward, backward): (Vec<Step>, Vec<Step>) = (units(true).collect(), units(false).collect());
    let behind = stages - 1 - stage;
    let ahead = match order {
        Order::ForwardFirst => forward.len(),
        Order::OneForwardOneBackward if chunks == 1 => behind.min(forward.len()),
        Order::OneForwardOneBackward => (2 * behind + (chunks - 1) * stages).min(forward.len()),
    };
    let mut steps = forward[..ahead].to_vec();
    let mut rest = backward.into_iter();
    for step in &forward[ahead..] {
        steps.push(*step);
        steps.extend(rest.next());
    }
    steps.extend(rest);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Time until all stages are done, if forward takes 1 and backward 2 time units per chunk; None if they wait for each other.
    fn simulate(order: Order, stages: usize, chunks: usize, micro: usize) -> Option<(usize, usize)> {
        let lists: Vec<Vec<Step>> = (0..stages).map(|s| steps(order, stages, chunks, micro, s)).collect();
        let (mut at, mut clock) = (vec![0; stages], vec![0; stages]);
        let mut done: HashMap<(bool, usize, usize), usize> = HashMap::new();
        let (mut most, last) = (0, stages * chunks - 1);
        loop {
            let mut moved = false;
            for s in 0..stages {
                while let Some(step) = lists[s].get(at[s]) {
                    let place = step.chunk * stages + s;
                    let needs = match (step.forward, place) {
                        (true, 0) => None,
                        (true, _) => Some((true, place - 1, step.micro)),
                        (false, _) if place == last => Some((true, place, step.micro)),
                        (false, _) => Some((false, place + 1, step.micro)),
                    };
                    let Some(ready) = needs.map_or(Some(0), |key| done.get(&key).copied()) else { break };
                    clock[s] = ready.max(clock[s]) + if step.forward { 1 } else { 2 };
                    done.insert((step.forward, place, step.micro), clock[s]);
                    at[s] += 1;
                    moved = true;
                    let held = lists[s][..at[s]].iter().map(|s| if s.forward { 1 } else { -1 }).sum::<i64>();
                    most = most.max(held as usize);
                }
            }
            if !moved {
                let ended = at.iter().zip(&lists).all(|(at, list)| *at == list.len());
                assert!(!ended || done.len() == 2 * stages * chunks * micro);
                return ended.then(|| (*clock.iter().max().unwrap(), most));
            }
        }
    }

    #[test]
    fn no_stage_waits_forever_for_any_number_of_micro_batches() {
        for order in [Order::ForwardFirst, Order::OneForwardOneBackward] {
            for stages in 1..6 {
                for chunks in 1..4 {
                    for micro in 1..14 {
                        assert!(
                            simulate(order, stages, chunks, micro).is_some(),
                            "{order:?} {stages} {chunks} {micro}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_idle_time_is_that_of_the_paper_and_one_by_one_holds_few_micro_batches() {
        for stages in [2, 3, 4] {
            for groups in [2, 3] {
                let micro = stages * groups;
                let (time, held) = simulate(Order::OneForwardOneBackward, stages, 1, micro).unwrap();
                assert_eq!((time, held), (3 * (micro + stages - 1), stages));
                assert_eq!(simulate(Order::ForwardFirst, stages, 1, micro).unwrap(), (time, micro));
                for chunks in [2, 3] {
                    let (time, _) = simulate(Order::OneForwardOneBackward, stages, chunks, micro).unwrap();
                    assert_eq!(time, 3 * (micro * chunks + stages - 1), "{stages} {chunks} {micro}");
                }
            }
        }
    }

    #[test]
    fn each_stage_runs_each_chunk_of_each_micro_batch_forward_then_backward_in_order() {
        for order in [Order::ForwardFirst, Order::OneForwardOneBackward] {
            for (stages, chunks, micro) in [(1, 1, 3), (3, 1, 5), (2, 3, 4)] {
                for stage in 0..stages {
                    let list = steps(order, stages, chunks, micro, stage);
                    for chunk in 0..chunks {
                        for forward in [true, false] {
                            let of = |s: &&Step| s.chunk == chunk && s.forward == forward;
                            let seen: Vec<usize> = list.iter().filter(of).map(|s| s.micro).collect();
                            assert_eq!(seen, (0..micro).collect::<Vec<_>>());
                        }
                    }
                }
            }
        }
    }
}
