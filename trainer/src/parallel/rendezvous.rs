//! How processes find each other: everybody calls at rank 0, which hands out the list of addresses.
//!
//! In: the address of rank 0, this rank, an identity that must be equal on all ranks (manifest, version of the binary). Out: one
//! connection per peer. Rank 0 hears a hello of every other rank (rank, world size, identity, port it listens at), answers
//! with the table, and keeps these connections; the others connect to each rank below them. A rank is reachable at the
//! address its call to rank 0 came from.

use super::frame::{Frame, Kind};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

#[derive(Serialize, Deserialize)]
struct Hello {
    rank: usize,
    world: usize,
    identity: String,
    port: u16,
}

/// Pause between two looks at a listener or two attempts to connect.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a newcomer may take to say who it is, so that a stranger who says nothing does not hold up the others.
const HELLO: Duration = Duration::from_secs(10);

/// Who meets, and until when.
pub(super) struct Meeting<'a> {
    pub rank: usize,
    pub world: usize,
    pub identity: &'a str,
    pub until: Instant,
}

impl Meeting<'_> {
    /// Rank 0's side: connections by rank, none for itself.
    pub fn host(&self, listener: &TcpListener) -> Result<Vec<Option<TcpStream>>> {
        let mut streams: Vec<Option<TcpStream>> = (0..self.world).map(|_| None).collect();
        let mut table: Vec<Option<SocketAddr>> = vec![None; self.world];
        while streams.iter().skip(1).any(Option::is_none) {
            let missing: Vec<usize> = (1..self.world).filter(|r| streams[*r].is_none()).collect();
            let (mut stream, address) =
                self.accept(listener, || format!("ranks {missing:?} did not call"), missing[0])?;
            let Some(hello) = self.read::<Hello>(&mut stream, Kind::Hello) else {
                continue; // not one of ours: a stray connection, or a rank that died and will be missed
            };
            if let Some(why) = self.unfit(&hello, &streams) {
                let refusal = Frame::control(Kind::Refusal, why.clone().into_bytes());
                for mut stream in streams.into_iter().flatten().chain([stream]) {
                    let _ = refusal.write(&mut stream); // a peer that hears nothing runs into its own deadline
                }
                return Err(Error::Peer { rank: hello.rank, what: why });
            }
            table[hello.rank] = Some(SocketAddr::new(address.ip(), hello.port));
            streams[hello.rank] = Some(stream);
        }
        let frame = Frame::control(Kind::Table, json(&table));
        for (rank, stream) in streams.iter_mut().enumerate() {
            if let Some(stream) = stream {
                frame.write(stream).map_err(|e| lost(rank, &e))?;
            }
        }
        Ok(streams)
    }

    fn unfit(&self, hello: &Hello, streams: &[Option<TcpStream>]) -> Option<String> {
        if hello.world != self.world {
            return Some(format!("it was started as one of {} ranks, rank 0 as one of {}", hello.world, self.world));
        }
        if hello.identity != self.identity {
            let (got, expected) = (&hello.identity, self.identity);
            return Some(format!(
                "it runs `{got}`, rank 0 runs `{expected}`: start all ranks with one binary and manifest"
            ));
        }
        match streams.get(hello.rank) {
            None => Some(format!("there is no rank {} among {}", hello.rank, self.world)),
            Some(Some(_)) => Some("two processes were started with this rank".into()),
            Some(None) if hello.rank == 0 => Some("two processes were started with this rank".into()),
            Some(None) => None,
        }
    }

    /// The side of every other rank.
    pub fn join(&self, master: &str) -> Result<Vec<Option<TcpStream>>> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(Error::socket("listen", "any port"))?;
        let port = listener.local_addr().map_err(Error::socket("listen", "any port"))?.port();
        let hello = Hello { rank: self.rank, world: self.world, identity: self.identity.to_owned(), port };
        let hello = Frame::control(Kind::Hello, json(&hello));
        let mut streams: Vec<Option<TcpStream>> = (0..self.world).map(|_| None).collect();
        let mut first = self.connect(0, master)?;
        hello.write(&mut first).map_err(|e| lost(0, &e))?;
        let table: Vec<Option<SocketAddr>> = self.table(&mut first)?;
        streams[0] = Some(first);
        for (rank, address) in table.iter().enumerate().take(self.rank).skip(1) {
            let address = address.ok_or_else(|| lost(rank, &"rank 0 knows no address of it"))?;
            let mut stream = self.connect(rank, &address.to_string())?;
            hello.write(&mut stream).map_err(|e| lost(rank, &e))?;
            streams[rank] = Some(stream);
        }
        while let Some(missing) = (self.rank + 1..self.world).find(|r| streams[*r].is_none()) {
            let (mut stream, _) = self.accept(&listener, || "did not call".into(), missing)?;
            let Some(hello) = self.read::<Hello>(&mut stream, Kind::Hello) else { continue };
            if hello.rank > self.rank && hello.rank < self.world && streams[hello.rank].is_none() {
                streams[hello.rank] = Some(stream);
            }
        }
        Ok(streams)
    }

    fn table(&self, stream: &mut TcpStream) -> Result<Vec<Option<SocketAddr>>> {
        self.limit(stream, Duration::MAX);
        let frame = Frame::read(stream).map_err(|e| lost(0, &e))?;
        if frame.kind == Kind::Refusal {
            let why = String::from_utf8_lossy(&frame.payload).into_owned();
            return Err(Error::Peer { rank: 0, what: format!("refused to start: {why}") });
        }
        let table = serde_json::from_slice(&frame.payload).map_err(|e| lost(0, &e))?;
        let _ = stream.set_read_timeout(None);
        Ok(table)
    }

    /// What a newcomer says first; None if it is not a frame of ours.
    fn read<T: for<'d> Deserialize<'d>>(&self, stream: &mut TcpStream, kind: Kind) -> Option<T> {
        self.limit(stream, HELLO);
        let frame = Frame::read(stream).ok()?;
        stream.set_read_timeout(None).ok()?;
        (frame.kind == kind).then(|| serde_json::from_slice(&frame.payload).ok())?
    }

    fn limit(&self, stream: &TcpStream, most: Duration) {
        let left = self.until.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(1), most);
        let _ = stream.set_read_timeout(Some(left)); // without it a read lasts longer, and the peer's own deadline ends it
    }

    fn accept(&self, listener: &TcpListener, why: impl Fn() -> String, rank: usize) -> Result<(TcpStream, SocketAddr)> {
        listener.set_nonblocking(true).map_err(Error::socket("listen", "nonblocking"))?;
        loop {
            match listener.accept() {
                Ok((stream, address)) => {
                    stream.set_nonblocking(false).map_err(Error::socket("accept", &address.to_string()))?;
                    return Ok((stream, address));
                }
                Err(_) if Instant::now() < self.until => std::thread::sleep(PAUSE),
                Err(_) => return Err(Error::Peer { rank, what: format!("{} within the deadline", why()) }),
            }
        }
    }

    fn connect(&self, rank: usize, address: &str) -> Result<TcpStream> {
        loop {
            let attempt = address.to_socket_addrs().and_then(|list| {
                let left = self.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
                let mut last = std::io::ErrorKind::AddrNotAvailable.into();
                for address in list {
                    match TcpStream::connect_timeout(&address, left) {
                        Ok(stream) => return Ok(stream),
                        Err(e) => last = e,
                    }
                }
                Err(last)
            });
            match attempt {
                Ok(stream) => return Ok(stream),
                Err(_) if Instant::now() < self.until => std::thread::sleep(PAUSE),
                Err(e) => {
                    let what = format!("cannot be reached at {address} within the deadline: {e}");
                    return Err(Error::Peer { rank, what });
                }
            }
        }
    }
}

fn lost(rank: usize, why: &dyn std::fmt::Display) -> Error {
    Error::Peer { rank, what: format!("was lost while the ranks met: {why}") }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data because it derives Serialize")
}
