//! What a group needs of a transport, and the box that messages arrive in.
//!
//! In: messages from peers, in any order between peers. Out: the message that a call waits for, or the first fault of the
//! run. A message is addressed by (sender, group, number of the call); the name of the call travels along, so that ranks
//! in different calls are told so.

use super::Buffer;
use crate::Error;
use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Address of a message: sender (in the whole world), group, number of the call in that group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub from: usize,
    pub group: u64,
    pub call: u64,
}

/// Which call a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Reduce,
    Gather,
    Exchange,
    Broadcast,
    Message,
    Barrier,
}

impl Call {
    pub const ALL: [Self; 6] =
        [Self::Reduce, Self::Gather, Self::Exchange, Self::Broadcast, Self::Message, Self::Barrier];
}

/// Why the run cannot go on, and because of whom.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    pub rank: usize,
    pub what: String,
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Peer { rank: fault.rank, what: fault.what }
    }
}

/// A transport between the ranks of a world.
pub(crate) trait Wire: Send + Sync {
    /// Sends without waiting; a failure shows as a fault in the inbox.
    fn post(&self, to: usize, key: Key, call: Call, data: Buffer);

    /// Tells all peers that the run is over.
    fn abort(&self, fault: &Fault);

    /// Says goodbye in good order: peers that wait for nothing are not disturbed.
    fn close(&self);
}

#[derive(Default)]
struct State {
    messages: HashMap<Key, (Call, Buffer)>,
    fault: Option<Fault>,
    gone: Vec<usize>,
}

/// Where messages arrive.
#[derive(Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    bell: Condvar,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn deliver(&self, key: Key, call: Call, data: Buffer) {
        self.lock().messages.insert(key, (call, data));
        self.bell.notify_all();
    }

    /// Keeps the first fault; true if this was it.
    pub fn fail(&self, fault: Fault) -> bool {
        let mut state = self.lock();
        let first = state.fault.is_none();
        state.fault.get_or_insert(fault);
        self.bell.notify_all();
        first
    }

    /// A peer that sends nothing more, in good order.
    pub fn left(&self, rank: usize) {
        self.lock().gone.push(rank);
        self.bell.notify_all();
    }

    pub fn fault(&self) -> Option<Fault> {
        self.lock().fault.clone()
    }

    /// The message at `key`, which must belong to `call`.
    pub fn take(&self, key: Key, call: Call, until: Instant) -> Result<Buffer, Fault> {
        let mut state = self.lock();
        loop {
            if let Some(fault) = &state.fault {
                return Err(fault.clone());
            }
            let fault = |what: String| Err(Fault { rank: key.from, what });
            if let Some((got, data)) = state.messages.remove(&key) {
                return if got == call {
                    Ok(data)
                } else {
                    fault(format!("is in a call of kind {got:?} where this rank is in {call:?}: their programs differ"))
                };
            }
            if state.gone.contains(&key.from) {
                return fault(format!("has ended while this rank waits for its {call:?}: their programs differ"));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return fault(format!("sent nothing for {call:?} within the deadline: stopped, overloaded or cut off"));
            }
            state = self.bell.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
