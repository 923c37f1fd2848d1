//! Named messages between the stages of a pipeline.
//!
//! In: numbers with a name, to a rank. Out: the numbers of the name that is asked for; what comes earlier is kept until then, so the
//! order of messages on the wire does not matter.

use super::{Buffer, Collective};
use crate::ops::Scalar;
use crate::{Error, Result};
use std::collections::HashMap;
use std::time::Duration;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// The hidden stream.
    Stream,
    /// Its slope.
    Slope,
    /// The head's share of the gradient of a tied embedding.
    Tied,
}

const KINDS: [Kind; 3] = [Kind::Stream, Kind::Slope, Kind::Tied];

/// Kind, place of the run of blocks that it goes to, slot of the micro-batch.
pub(super) type Name = (Kind, usize, usize);

/// One rank's messages.
pub(super) struct Mail<'a> {
    world: &'a dyn Collective,
    deadline: Duration,
    early: HashMap<(usize, Name), Buffer>,
}

impl<'a> Mail<'a> {
    pub fn new(world: &'a dyn Collective, deadline: Duration) -> Self {
        Self { world, deadline, early: HashMap::new() }
    }

    /// To rank `to` of the world.
    pub fn send<T: Scalar>(&self, to: usize, (kind, place, slot): Name, data: Vec<T>) -> Result<()> {
        let words = [kind as usize, place, slot].map(|word| (word as u64).to_le_bytes());
        self.world.send(Buffer::Bytes(words.concat()), to).wait(self.deadline)?;
        self.world.send(Buffer::of(data), to).wait(self.deadline)
    }

    /// From rank `from` of the world.
    pub fn receive<T: Scalar>(&mut self, from: usize, name: Name) -> Result<Vec<T>> {
        loop {
            if let Some(data) = self.early.remove(&(from, name)) {
                return data.into_numbers();
            }
            let bytes = self.world.recv(from).wait(self.deadline)?.into_bytes()?;
            let words: Vec<usize> = bytes.as_chunks::<8>().0.iter().map(|w| u64::from_le_bytes(*w) as usize).collect();
            let (&[kind, place, slot], true) = (&words[..], bytes.len() == 24) else {
                return Err(Error::Format(format!("rank {from} sent a message with a name of {} bytes", bytes.len())));
            };
            let kind =
                *KINDS.get(kind).ok_or_else(|| Error::Format(format!("rank {from} sent a message of kind {kind}")))?;
            let data = self.world.recv(from).wait(self.deadline)?;
            self.early.insert((from, (kind, place, slot)), data);
        }
    }
}
