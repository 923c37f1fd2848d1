//! Every collective on 1 to 4 ranks over both wires, and sums against the sequential tree.

use super::tcp::{self, TcpConfig};
use super::{Axis, Buffer, Collective, Mesh, threads};
use crate::Error;
use crate::ops::tree_sum::TreeSum;
use crate::rng::Key;
use std::net::TcpListener;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(30);

type World = Vec<Box<dyn Collective>>;

/// A world of `n` ranks in this process whose messages cross real sockets.
fn sockets(n: usize) -> World {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let master = listener.local_addr().unwrap().to_string();
    let config =
        |rank| TcpConfig { rank, world: n, master: master.clone(), identity: "test".into(), deadline: DEADLINE };
    std::thread::scope(|scope| {
        let rest: Vec<_> = (1..n).map(|rank| scope.spawn(move || tcp::world(&config(rank)).unwrap())).collect();
        let first = tcp::host(&config(0), &listener).unwrap();
        std::iter::once(first).chain(rest.into_iter().map(|t| t.join().unwrap())).collect()
    })
}

/// What `work` returns on each rank, in order.
fn on_ranks<R: Send>(world: World, work: impl Fn(&dyn Collective) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let work = &work;
        let ranks: Vec<_> = world.into_iter().map(|end| scope.spawn(move || work(&*end))).collect();
        ranks.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// Both wires, 1 to 4 ranks.
fn everywhere(work: impl Fn(&dyn Collective) + Sync) {
    for n in 1..=4 {
        on_ranks(threads::world(n), &work);
        on_ranks(sockets(n), &work);
    }
}

fn numbers(rank: usize, n: usize) -> Vec<f32> {
    (0..n as u64).map(|i| Key::new(rank as u64).normal(i) as f32).collect()
}

/// The tree over the ranks' numbers.
fn tree(ranks: usize, n: usize) -> Vec<f32> {
    let mut sum = TreeSum::default();
    (0..ranks).for_each(|rank| sum.push(vec![numbers(rank, n)]));
    sum.finish().unwrap().remove(0)
}

#[test]
fn all_reduce_is_the_tree_over_ranks_for_any_length() {
    everywhere(|group| {
        for n in [0, 1, 2, 3, 7, 1000] {
            let sum = group.all_reduce(numbers(group.rank(), n).into()).wait(DEADLINE).unwrap();
            assert_eq!(sum.into_f32().unwrap(), tree(group.size(), n));
        }
        let wide = group.all_reduce(vec![0.1_f64 * group.rank() as f64; 3].into()).wait(DEADLINE).unwrap();
        let want = [0.0, 0.1, 0.1 + 0.2, 0.1 + (0.2 + 0.1_f64 * 3.0)][group.size() - 1];
        assert_eq!(wide.into_f64().unwrap(), vec![want; 3]);
    });
}

#[test]
fn reduce_scatter_gives_each_rank_its_uneven_part() {
    everywhere(|group| {
        let counts: Vec<usize> = (0..group.size()).map(|r| [5, 0, 9, 2][r]).collect();
        let n = counts.iter().sum();
        let part = group.reduce_scatter(numbers(group.rank(), n).into(), &counts).wait(DEADLINE).unwrap();
        let start: usize = counts[..group.rank()].iter().sum();
        let want = &tree(group.size(), n)[start..start + counts[group.rank()]];
        assert_eq!(part.into_f32().unwrap(), want);
    });
}

#[test]
fn gather_exchange_and_broadcast_carry_uneven_buffers_to_their_places() {
    everywhere(|group| {
        let (me, n) = (group.rank(), group.size());
        let all = group.all_gather(numbers(me, 3 * me).into()).wait(DEADLINE).unwrap();
        assert_eq!(all, (0..n).map(|r| numbers(r, 3 * r).into()).collect::<Vec<Buffer>>());
        let out = (0..n).map(|to| Buffer::Bytes(vec![(10 * me + to) as u8; me + 2 * to])).collect();
        let back = group.all_to_all(out).wait(DEADLINE).unwrap();
        let want = (0..n).map(|from| Buffer::Bytes(vec![(10 * from + me) as u8; from + 2 * me]));
        assert_eq!(back, want.collect::<Vec<_>>());
        for root in 0..n {
            let got = group.broadcast(numbers(me, 4).into(), root).wait(DEADLINE).unwrap();
            assert_eq!(got, numbers(root, 4).into());
        }
        group.barrier().wait(DEADLINE).unwrap();
    });
}

#[test]
fn messages_arrive_in_order_and_calls_may_be_waited_for_in_any_order() {
    everywhere(|group| {
        let (me, n) = (group.rank(), group.size());
        let early = group.all_reduce(numbers(me, 50_000).into());
        let late = group.all_gather(vec![me as u8].into());
        if n > 1 {
            let (next, before) = ((me + 1) % n, (me + n - 1) % n);
            let sent: Vec<_> = (0..3).map(|i| group.send(vec![me as u8, i].into(), next)).collect();
            for i in 0..3 {
                assert_eq!(group.recv(before).wait(DEADLINE).unwrap(), vec![before as u8, i].into());
            }
            sent.into_iter().for_each(|s| s.wait(DEADLINE).unwrap());
        }
        assert_eq!(late.wait(DEADLINE).unwrap().len(), n);
        assert_eq!(early.wait(DEADLINE).unwrap().into_f32().unwrap(), tree(n, 50_000));
    });
}

#[test]
fn a_mesh_splits_a_world_into_groups_that_do_not_hear_each_other() {
    for world in [threads::world(4), sockets(4)] {
        on_ranks(world, |group| {
            let mesh: Mesh = "dp2 tp2".parse().unwrap();
            let (dp, tp) = (group.split(&mesh, Axis::Dp).unwrap(), group.split(&mesh, Axis::Tp).unwrap());
            let me = group.rank();
            let sum = |g: &dyn Collective| g.all_reduce(vec![(1 << me) as f32].into());
            let (a, b) = (sum(&*dp), sum(&*tp));
            assert_eq!(b.wait(DEADLINE).unwrap(), vec![[3.0_f32, 3.0, 12.0, 12.0][me]].into());
            assert_eq!(a.wait(DEADLINE).unwrap(), vec![[5.0_f32, 10.0][me % 2]].into());
            assert_eq!((dp.rank(), tp.rank(), dp.size()), (me / 2, me % 2, 2));
            assert!(group.split(&"dp3".parse().unwrap(), Axis::Dp).is_err());
        });
    }
}

#[test]
fn ranks_with_aligned_runs_of_micro_batches_add_to_the_bits_of_one_rank() {
    let leaf = |i: usize| vec![numbers(100 + i, 33)];
    let partial = |range: std::ops::Range<usize>| {
        let mut tree = TreeSum::default();
        range.for_each(|i| tree.push(leaf(i)));
        tree.finish().unwrap().remove(0)
    };
    for micro in 1..=16_usize {
        let want = partial(0..micro);
        for run in [1, 2, 4, 8, 16] {
            let ranks = micro.div_ceil(run);
            if ranks > 8 {
                continue;
            }
            let sums = on_ranks(threads::world(ranks), |group| {
                let range = group.rank() * run..((group.rank() + 1) * run).min(micro);
                group.all_reduce(partial(range).into()).wait(DEADLINE).unwrap().into_f32().unwrap()
            });
            assert!(sums.iter().all(|sum| *sum == want), "{micro} micro-batches in runs of {run}");
        }
    }
}

#[test]
fn lengths_types_and_calls_that_differ_end_every_rank_and_say_why() {
    for make in [threads::world, sockets] {
        let errors = on_ranks(make(3), |group| {
            let len = if group.rank() == 2 { 6 } else { 3 };
            group.all_reduce(vec![1.0_f32; len].into()).wait(DEADLINE).unwrap_err().to_string()
        });
        assert!(errors.iter().any(|e| e.contains("rank 2 gave 2 f32, rank 0 gave 1 f32")), "{errors:?}");
        let errors = on_ranks(make(2), |group| match group.rank() {
            0 => group.barrier().wait(DEADLINE).unwrap_err().to_string(),
            _ => group.all_gather(vec![1_u8].into()).wait(DEADLINE).unwrap_err().to_string(),
        });
        assert!(errors.iter().any(|e| e.contains("Gather") && e.contains("Barrier")), "{errors:?}");
        let refused = on_ranks(make(2), |group| match group.rank() {
            0 => group.reduce_scatter(vec![1.0_f32; 3].into(), &[1, 1]).wait(DEADLINE).is_err(),
            _ => group.barrier().wait(DEADLINE).unwrap_err().is_lost_peer(),
        });
        assert_eq!(refused, [true, true]);
    }
}

#[test]
fn an_abort_a_panic_and_a_rank_that_leaves_end_the_others_by_name() {
    for make in [threads::world, sockets] {
        let errors = on_ranks(make(4), |group| {
            if group.rank() == 2 {
                group.abort("disk full");
            }
            group.barrier().wait(DEADLINE).unwrap_err()
        });
        for error in &errors {
            assert!(matches!(error, Error::Peer { rank: 2, what } if what.contains("disk full")), "{error}");
        }
        let errors = on_ranks(make(3), |group| match group.rank() {
            1 => None,
            _ => Some(group.barrier().wait(DEADLINE).unwrap_err()),
        });
        assert!(errors.iter().flatten().all(|e| matches!(e, Error::Peer { rank: 1, .. })), "{errors:?}");
        let mut world = make(3);
        let victim = world.remove(1);
        let thread = std::thread::spawn(move || {
            let _end = victim;
            panic!("as the test wants");
        });
        let errors = on_ranks(world, |group| group.barrier().wait(DEADLINE).unwrap_err());
        assert!(thread.join().is_err());
        assert!(errors.iter().all(|e| matches!(e, Error::Peer { rank: 1, what } if what == "panicked")), "{errors:?}");
    }
}

#[test]
fn silence_ends_in_an_error_after_the_deadline() {
    for make in [threads::world, sockets] {
        let errors = on_ranks(make(3), |group| match group.rank() {
            2 => group.recv(0).wait(DEADLINE).unwrap_err(),
            _ => group.barrier().wait(Duration::from_millis(50)).unwrap_err(),
        });
        assert!(errors.iter().all(Error::is_lost_peer), "{errors:?}");
    }
}
