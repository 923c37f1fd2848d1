//! Ranks as processes: one TCP connection per pair, frames with checksums.
//!
//! In: where rank 0 listens, who this rank is. Out: its end of the world. Each connection has a thread that reads and one that
//! writes, so a call that was started goes on while its rank computes. A connection that ends without a goodbye is a lost
//! peer: the rank that sees it tells all others, so that all name the same one. A peer that is only silent is found by
//! the deadline of whoever waits for it. Meant for one machine or a trusted network: nothing is encrypted.

use super::frame::{Frame, Kind};
use super::group::{End, Group};
use super::rendezvous::Meeting;
use super::wire::{Call, Fault, Inbox, Key, Wire};
use super::{Buffer, Collective};
use crate::{Error, Result};
use std::io::{BufReader, BufWriter, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Who this process is among all.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// This rank, from 0.
    pub rank: usize,
    /// Ranks in all.
    pub world: usize,
    /// `HOST:PORT` at which rank 0 listens.
    pub master: String,
    /// Must be equal on all ranks: say, hashes of the manifest and the binary.
    pub identity: String,
    /// How long the ranks wait for each other to arrive.
    pub deadline: Duration,
}

/// How long the last frames may take when a process leaves.
const FAREWELL: Duration = Duration::from_secs(2);

/// This rank's end of the world; returns when all ranks have met.
pub fn world(config: &TcpConfig) -> Result<Box<dyn Collective>> {
    if config.rank == 0 {
        let listener = TcpListener::bind(&config.master).map_err(Error::socket("listen", &config.master))?;
        return host(config, &listener);
    }
    let meeting = meeting(config)?;
    meet(config, meeting.join(&config.master)?)
}

/// The same for rank 0 with a listener that is open already; `config.master` is not read.
pub fn host(config: &TcpConfig, listener: &TcpListener) -> Result<Box<dyn Collective>> {
    let meeting = meeting(config)?;
    meet(config, meeting.host(listener)?)
}

fn meeting(config: &TcpConfig) -> Result<Meeting<'_>> {
    if config.rank >= config.world {
        let expected = format!("expected below the {} ranks of the world", config.world);
        return Err(Error::Config { field: "rank", got: config.rank.to_string(), expected });
    }
    let until = Instant::now() + config.deadline;
    Ok(Meeting { rank: config.rank, world: config.world, identity: &config.identity, until })
}

fn meet(config: &TcpConfig, streams: Vec<Option<TcpStream>>) -> Result<Box<dyn Collective>> {
    let inbox = Arc::new(Inbox::default());
    let (mut lines, mut readers) = (Vec::new(), Vec::new());
    for (peer, stream) in streams.into_iter().enumerate() {
        let Some(stream) = stream else {
            lines.push(None);
            continue;
        };
        let (line, reader) = Line::open(peer, stream, &inbox).map_err(Error::socket("connect", "a peer"))?;
        lines.push(Some(line));
        readers.push((peer, reader));
    }
    let lines: Arc<[Option<Line>]> = lines.into();
    for (peer, reader) in readers {
        let (inbox, lines) = (inbox.clone(), lines.clone());
        std::thread::spawn(move || read(peer, reader, &inbox, &lines));
    }
    let end = End { inbox, wire: Box::new(Net { lines }), rank: config.rank };
    Ok(Box::new(Group::world(end, config.world)))
}

/// The sending half of a connection.
struct Line {
    queue: Sender<Frame>,
    waiting: Arc<Waiting>,
    stream: TcpStream,
}

/// Frames that are queued and not yet written.
#[derive(Default)]
struct Waiting {
    count: Mutex<usize>,
    bell: Condvar,
}

impl Waiting {
    fn add(&self, more: isize) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.saturating_add_signed(more);
        self.bell.notify_all();
    }

    fn none(&self, until: Instant) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            count = self.bell.wait_timeout(count, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Line {
    fn open(peer: usize, stream: TcpStream, inbox: &Arc<Inbox>) -> std::io::Result<(Self, TcpStream)> {
        stream.set_nodelay(true)?;
        let (reader, writer) = (stream.try_clone()?, stream.try_clone()?);
        let (queue, frames) = channel();
        let waiting = Arc::new(Waiting::default());
        let (count, inbox) = (waiting.clone(), inbox.clone());
        std::thread::spawn(move || write(peer, writer, &frames, &count, &inbox));
        Ok((Self { queue, waiting, stream }, reader))
    }

    fn push(&self, frame: Frame) {
        self.waiting.add(1);
        if self.queue.send(frame).is_err() {
            self.waiting.add(-1); // its writer has failed and said so in the inbox
        }
    }
}

fn write(peer: usize, stream: TcpStream, frames: &Receiver<Frame>, waiting: &Waiting, inbox: &Inbox) {
    let mut out = BufWriter::with_capacity(1 << 16, stream);
    while let Ok(frame) = frames.recv() {
        let written = frame.write(&mut out).and_then(|()| out.flush());
        waiting.add(-1);
        if let Err(e) = written {
            // The reader of the same connection sees its end too and tells the others.
            inbox.fail(Fault { rank: peer, what: format!("was lost: {e}") });
            waiting.add(isize::MIN);
            return;
        }
    }
}

fn read(peer: usize, stream: TcpStream, inbox: &Inbox, lines: &[Option<Line>]) {
    let mut from = BufReader::with_capacity(1 << 16, stream);
    let what = loop {
        let frame = match Frame::read(&mut from) {
            Ok(frame) => frame,
            Err(e) => break format!("was lost: {e}"),
        };
        match frame.kind {
            Kind::Data => match frame.opened(peer) {
                Ok((key, call, data)) => inbox.deliver(key, call, data),
                Err(e) => break format!("was lost: {e}"),
            },
            Kind::Abort => {
                let (rank, what) = frame.payload.split_at_checked(8).unwrap_or_default();
                let rank = <[u8; 8]>::try_from(rank).map_or(peer, |bytes| u64::from_le_bytes(bytes) as usize);
                inbox.fail(Fault { rank, what: String::from_utf8_lossy(what).into_owned() });
                return;
            }
            Kind::Bye => return inbox.left(peer),
            Kind::Hello | Kind::Table | Kind::Refusal => break "was lost: a frame that has no place here".into(),
        }
    };
    let fault = Fault { rank: peer, what };
    if inbox.fail(fault.clone()) {
        tell(lines, &fault);
    }
}

fn tell(lines: &[Option<Line>], fault: &Fault) {
    let payload = [&(fault.rank as u64).to_le_bytes(), fault.what.as_bytes()].concat();
    let frame = Frame::control(Kind::Abort, payload);
    lines.iter().flatten().for_each(|line| line.push(frame.clone()));
}

struct Net {
    lines: Arc<[Option<Line>]>,
}

impl Wire for Net {
    fn post(&self, to: usize, key: Key, call: Call, data: Buffer) {
        let line = self.lines[to].as_ref().expect("a line to every other rank because the world has met");
        line.push(Frame::data(key, call, data));
    }

    fn abort(&self, fault: &Fault) {
        tell(&self.lines, fault);
    }

    fn close(&self) {
        let until = Instant::now() + FAREWELL;
        self.lines.iter().flatten().for_each(|line| line.push(Frame::control(Kind::Bye, Vec::new())));
        for line in self.lines.iter().flatten() {
            line.waiting.none(until);
            let _ = line.stream.shutdown(Shutdown::Write); // an error means that the peer has closed it
        }
    }
}
