//! Collectives over any wire: everything is an exchange of messages, and sums are made where their result is owned.
//!
//! `reduce_scatter` sends each rank the others' numbers for its part and adds them by the tree over ranks; `all_reduce` does so
//! with parts of equal size and gathers them: two messages per pair of ranks, every number crosses the wire twice, whatever
//! the number of ranks. (Patarasuk & Yuan 2009 for the bound; a ring would add in another order on each rank's part.)

use super::Buffer;
use super::collective::{Collective, Pending};
use super::mesh::{Axis, Mesh};
use super::wire::{Call, Fault, Inbox, Key, Wire};
use crate::{Error, Result};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The end of one rank of the world; the last group to let go of it says goodbye.
pub(crate) struct End {
    pub inbox: Arc<Inbox>,
    pub wire: Box<dyn Wire>,
    pub rank: usize,
}

impl End {
    /// The run is over: here, and on all peers.
    fn fail(&self, fault: Fault) -> Error {
        if self.inbox.fail(fault.clone()) {
            self.wire.abort(&fault);
        }
        self.inbox.fault().unwrap_or(fault).into()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fail(Fault { rank: self.rank, what: "panicked".into() });
        }
        // The thread of this rank that has seen a fault first may not have told all of it yet.
        if let Some(fault) = self.inbox.fault() {
            self.wire.abort(&fault);
        }
        self.wire.close();
    }
}

/// Some ranks of the world, this one among them.
pub(crate) struct Group {
    end: Arc<End>,
    id: u64,
    /// World ranks in group order.
    members: Vec<usize>,
    me: usize,
    calls: AtomicU64,
    /// Messages sent to (even) and received from (odd) each member.
    messages: Mutex<HashMap<usize, u64>>,
}

/// Calls of two members with each other are numbered apart from those of all.
const PAIR: u64 = 1 << 63;

/// What a call knows of its group.
#[derive(Clone)]
struct Round {
    end: Arc<End>,
    id: u64,
    members: Vec<usize>,
    me: usize,
    call: u64,
    kind: Call,
}

impl Round {
    /// Sends one buffer to each member; keeps the own one.
    fn send(&self, data: Vec<Buffer>) -> Buffer {
        let key = Key { from: self.end.rank, group: self.id, call: self.call };
        let mut own = Buffer::Bytes(Vec::new());
        for (member, data) in data.into_iter().enumerate() {
            if member == self.me {
                own = data;
            } else {
                self.end.wire.post(self.members[member], key, self.kind, data);
            }
        }
        own
    }

    fn take(&self, member: usize, until: Instant) -> Result<Buffer> {
        let key = Key { from: self.members[member], group: self.id, call: self.call };
        self.end.inbox.take(key, self.kind, until).map_err(|fault| self.end.fail(fault))
    }

    /// One buffer of each member, in order.
    fn receive(&self, own: Buffer, until: Instant) -> Result<Vec<Buffer>> {
        let mut own = Some(own);
        let mut one = |member| match member == self.me {
            true => Ok(own.take().expect("asked for once because members are distinct")),
            false => self.take(member, until),
        };
        (0..self.members.len()).map(&mut one).collect()
    }

    /// An error of this rank's own making ends the run of all.
    fn checked<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(e) = &result {
            self.end.fail(Fault { rank: self.end.rank, what: e.to_string() });
        }
        result
    }
}

/// Where part `i` of `n` numbers in `parts` begins.
fn cut(n: usize, parts: usize, i: usize) -> usize {
    n / parts * i + (n % parts).min(i)
}

impl Group {
    /// The whole world of `size` ranks.
    pub fn world(end: End, size: usize) -> Self {
        let me = end.rank;
        Self::of(Arc::new(end), 0, (0..size).collect(), me)
    }

    fn of(end: Arc<End>, id: u64, members: Vec<usize>, me: usize) -> Self {
        Self { end, id, members, me, calls: AtomicU64::new(0), messages: Mutex::default() }
    }

    fn round(&self, kind: Call) -> Round {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        Round { end: self.end.clone(), id: self.id, members: self.members.clone(), me: self.me, call, kind }
    }

    /// The next message of one direction between this rank and a member.
    fn pair(&self, member: usize, received: bool) -> Round {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let count = messages.entry(2 * member + usize::from(received)).or_default();
        let call = PAIR | *count;
        *count += 1;
        let members = self.members.clone();
        Round { end: self.end.clone(), id: self.id, members, me: self.me, call, kind: Call::Message }
    }

    fn exchange(&self, kind: Call, data: Vec<Buffer>) -> Pending<Vec<Buffer>> {
        let round = self.round(kind);
        let own = round.send(data);
        Pending::new(move |deadline| round.receive(own, Instant::now() + deadline))
    }

    fn refuse<T: 'static>(&self, what: String) -> Pending<T> {
        let end = self.end.clone();
        Pending::new(move |_| {
            let error = Error::Format(what);
            end.fail(Fault { rank: end.rank, what: error.to_string() });
            Err(error)
        })
    }
}

impl Collective for Group {
    fn rank(&self) -> usize {
        self.me
    }

    fn size(&self) -> usize {
        self.members.len()
    }

    fn all_reduce(&self, data: Buffer) -> Pending<Buffer> {
        let (n, size) = (data.len(), self.size());
        let counts: Vec<usize> = (0..size).map(|i| cut(n, size, i + 1) - cut(n, size, i)).collect();
        let sum = self.reduce_scatter(data, &counts);
        let round = self.round(Call::Gather);
        Pending::new(move |deadline: Duration| {
            let until = Instant::now() + deadline;
            let sum = sum.wait(deadline)?;
            let own = round.send(vec![sum; round.members.len()]);
            let parts = round.receive(own, until)?;
            round.checked(Buffer::joined(parts))
        })
    }

    fn reduce_scatter(&self, data: Buffer, counts: &[usize]) -> Pending<Buffer> {
        if counts.len() != self.size() || counts.iter().sum::<usize>() != data.len() {
            let what = format!("{counts:?} does not cut {} numbers into {} parts", data.len(), self.size());
            return self.refuse(format!("reduce_scatter: {what}"));
        }
        let mut start = 0;
        let parts = counts.iter().map(|count| {
            start += count;
            data.part(start - count..start)
        });
        let round = self.round(Call::Reduce);
        let own = round.send(parts.collect());
        Pending::new(move |deadline| {
            let parts = round.receive(own, Instant::now() + deadline)?;
            round.checked(Buffer::sum(parts))
        })
    }

    fn all_gather(&self, data: Buffer) -> Pending<Vec<Buffer>> {
        self.exchange(Call::Gather, vec![data; self.size()])
    }

    fn all_to_all(&self, data: Vec<Buffer>) -> Pending<Vec<Buffer>> {
        if data.len() != self.size() {
            return self.refuse(format!("all_to_all: {} buffers for {} ranks", data.len(), self.size()));
        }
        self.exchange(Call::Exchange, data)
    }

    fn broadcast(&self, data: Buffer, root: usize) -> Pending<Buffer> {
        if root >= self.size() {
            return self.refuse(format!("broadcast: root {root} of {} ranks", self.size()));
        }
        let round = self.round(Call::Broadcast);
        if self.me == root {
            let own = round.send(vec![data; self.size()]);
            return Pending::new(move |_| Ok(own));
        }
        Pending::new(move |deadline| round.take(root, Instant::now() + deadline))
    }

    fn send(&self, data: Buffer, to: usize) -> Pending<()> {
        if to >= self.size() || to == self.me {
            return self.refuse(format!("send: to rank {to} of {} from rank {}", self.size(), self.me));
        }
        let round = self.pair(to, false);
        let key = Key { from: self.end.rank, group: self.id, call: round.call };
        self.end.wire.post(self.members[to], key, Call::Message, data);
        Pending::new(move |_| round.end.inbox.fault().map_or(Ok(()), |fault| Err(fault.into())))
    }

    fn recv(&self, from: usize) -> Pending<Buffer> {
        if from >= self.size() || from == self.me {
            return self.refuse(format!("recv: from rank {from} of {} at rank {}", self.size(), self.me));
        }
        let round = self.pair(from, true);
        Pending::new(move |deadline| round.take(from, Instant::now() + deadline))
    }

    fn barrier(&self) -> Pending<()> {
        let empty = vec![Buffer::Bytes(Vec::new()); self.size()];
        let all = self.exchange(Call::Barrier, empty);
        Pending::new(move |deadline| all.wait(deadline).map(|_| ()))
    }

    fn split(&self, mesh: &Mesh, axis: Axis) -> Result<Box<dyn Collective>> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if mesh.size() != self.size() {
            let expected = format!("expected {} ranks, as this group has", self.size());
            return Err(Error::Config { field: "mesh", got: mesh.to_string(), expected });
        }
        let ranks = mesh.group(axis, self.me);
        let me =
            ranks.iter().position(|r| *r == self.me).expect("a rank is in its own group because it has its coordinate");
        let members: Vec<usize> = ranks.iter().map(|r| self.members[*r]).collect();
        let mut hasher = blake3::Hasher::new();
        for word in [self.id, call].into_iter().chain(members.iter().map(|m| *m as u64)) {
            hasher.update(&word.to_le_bytes());
        }
        let mut id = [0; 8];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Ok(Box::new(Self::of(self.end.clone(), u64::from_le_bytes(id), members, me)))
    }

    fn abort(&self, why: &str) {
        self.end.fail(Fault { rank: self.end.rank, what: format!("aborted: {why}") });
    }
}
