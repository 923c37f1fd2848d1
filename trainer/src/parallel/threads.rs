//! Ranks as threads of one process: messages go from hand to hand.
//!
//! In: a number of ranks. Out: one end per rank, to be moved into its thread. A rank that panics takes the others' calls
//! down with it.

use super::group::{End, Group};
use super::wire::{Call, Fault, Inbox, Key, Wire};
use super::{Buffer, Collective};
use std::sync::Arc;

struct Hub {
    inboxes: Vec<Arc<Inbox>>,
    me: usize,
}

impl Hub {
    fn others(&self) -> impl Iterator<Item = &Arc<Inbox>> {
        self.inboxes.iter().enumerate().filter(|(rank, _)| *rank != self.me).map(|(_, inbox)| inbox)
    }
}

impl Wire for Hub {
    fn post(&self, to: usize, key: Key, call: Call, data: Buffer) {
        self.inboxes[to].deliver(key, call, data);
    }

    fn abort(&self, fault: &Fault) {
        for inbox in self.others() {
            inbox.fail(fault.clone());
        }
    }

    fn close(&self) {
        self.others().for_each(|inbox| inbox.left(self.me));
    }
}

/// A world of `n` ranks; element `r` belongs to rank `r`.
pub fn world(n: usize) -> Vec<Box<dyn Collective>> {
    let inboxes: Vec<Arc<Inbox>> = (0..n).map(|_| Arc::default()).collect();
    let end = |me: usize| {
        let wire = Box::new(Hub { inboxes: inboxes.clone(), me });
        Box::new(Group::world(End { inbox: inboxes[me].clone(), wire, rank: me }, n)) as Box<dyn Collective>
    };
    (0..n).map(end).collect()
}
