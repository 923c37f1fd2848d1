//! Ranks as real processes: this test binary starts itself again, then kills or stops one of its children.

use super::tcp::{self, TcpConfig};
use crate::Error;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Rank and world size of a child, and where rank 0 listens.
const RANK: &str = "GRISTMILL_TEST_RANK";
/// What the binary exits with after a lost peer.
const LOST_PEER: i32 = 7;

fn config(rank: usize, world: usize, master: &str, deadline: Duration) -> TcpConfig {
    TcpConfig { rank, world, master: master.to_owned(), identity: "test".into(), deadline }
}

/// The life of a child: says that it is in, then adds forever. Does nothing when run as a test of its own.
#[test]
fn a_child_adds_with_the_others_until_one_is_lost() {
    let Ok(text) = std::env::var(RANK) else { return };
    let parts: Vec<&str> = text.split(' ').collect();
    let (rank, world, millis) = (parts[0].parse().unwrap(), parts[1].parse().unwrap(), parts[3].parse().unwrap());
    let group = tcp::world(&config(rank, world, parts[2], Duration::from_secs(60))).unwrap();
    println!("joined");
    let error = loop {
        let sum = group.all_reduce(vec![1.0_f32; 10_000].into()).wait(Duration::from_millis(millis));
        match sum {
            Ok(sum) => assert_eq!(sum.into_f32().unwrap()[9_999], world as f32),
            Err(e) => break e,
        }
    };
    drop(group);
    std::process::exit(if error.is_lost_peer() { LOST_PEER } else { 1 });
}

fn child(rank: usize, world: usize, master: &str, deadline: Duration) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["parallel::tcp_tests::a_child_adds_with_the_others_until_one_is_lost", "--exact", "--nocapture"])
        .env(RANK, format!("{rank} {world} {master} {}", deadline.as_millis()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_until_joined(child: &mut Child) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("joined")));
}

/// Starts `world` ranks, this process as rank 0, does `harm` to the last once all are adding; what rank 0 and the ranks in between
/// end with, and the harmed child.
fn after(world: usize, deadline: Duration, harm: impl FnOnce(&mut Child)) -> (Error, Vec<Option<i32>>, Child) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let master = listener.local_addr().unwrap().to_string();
    let mut children: Vec<Child> = (1..world).map(|rank| child(rank, world, &master, deadline)).collect();
    let group = tcp::host(&config(0, world, &master, Duration::from_secs(60)), &listener).unwrap();
    let add = || group.all_reduce(vec![1.0_f32; 10_000].into()).wait(deadline);
    add().unwrap();
    children.iter_mut().for_each(wait_until_joined);
    let mut harmed = children.pop().unwrap();
    harm(&mut harmed);
    let error = loop {
        if let Err(e) = add() {
            break e;
        }
    };
    drop(group);
    let codes = children.iter_mut().map(|c| c.wait().unwrap().code()).collect();
    (error, codes, harmed)
}

#[test]
fn a_killed_rank_ends_all_others_with_the_exit_code_of_a_lost_peer() {
    for world in [2, 3, 4] {
        let (error, codes, mut harmed) = after(world, Duration::from_secs(60), |child| child.kill().unwrap());
        harmed.wait().unwrap();
        assert!(matches!(&error, Error::Peer { rank, .. } if *rank == world - 1), "{error}");
        assert_eq!(codes, vec![Some(LOST_PEER); world - 2]);
    }
}

#[test]
fn a_stopped_rank_ends_all_others_by_the_deadline_and_itself_when_it_goes_on() {
    let signal = |child: &Child, signal| kill_process(Pid::from_child(child), signal).unwrap();
    let (error, codes, mut harmed) = after(3, Duration::from_secs(4), |child| signal(child, Signal::STOP));
    assert!(error.is_lost_peer(), "{error}");
    assert_eq!(codes, vec![Some(LOST_PEER)]);
    signal(&harmed, Signal::CONT);
    assert_eq!(harmed.wait().unwrap().code(), Some(LOST_PEER));
}

#[test]
fn ranks_of_another_run_are_refused_and_strangers_do_not_disturb() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let master = listener.local_addr().unwrap().to_string();
    let limit = Duration::from_secs(30);
    let mut stranger = TcpStream::connect(&master).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: a-long-enough-name-for-a-header\r\n\r\n").unwrap();
    for (other, word) in [
        (TcpConfig { identity: "other".into(), ..config(1, 2, &master, limit) }, "runs `other`"),
        (config(1, 3, &master, limit), "one of 3 ranks"),
    ] {
        std::thread::scope(|scope| {
            let guest = scope.spawn(|| tcp::world(&other).err().unwrap().to_string());
            let error = tcp::host(&config(0, 2, &master, limit), &listener).err().unwrap().to_string();
            assert!(error.contains(word), "{error}");
            let error = guest.join().unwrap();
            assert!(error.contains("refused to start") && error.contains(word), "{error}");
        });
    }
    assert!(matches!(tcp::world(&config(2, 2, &master, limit)), Err(Error::Config { field: "rank", .. })));
}

#[test]
fn a_rank_that_never_comes_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = config(0, 3, "", Duration::from_millis(50));
    let error = tcp::host(&config, &listener).err().unwrap().to_string();
    assert!(error.contains("ranks [1, 2] did not call"), "{error}");
}
