//! What ranks can do together.
//!
//! Every rank of a group makes the same calls in the same order. A call is started, which sends what can be sent, and
//! waited for, which receives, adds and returns; between the two a rank may compute and start other calls. All ranks must
//! wait for what they started.

use super::Buffer;
use super::mesh::{Axis, Mesh};
use crate::Result;
use std::time::Duration;

/// A call under way.
#[must_use = "a call that nobody waits for leaves its peers waiting"]
pub struct Pending<T>(Box<dyn FnOnce(Duration) -> Result<T> + Send>);

impl<T> Pending<T> {
    pub(crate) fn new(finish: impl FnOnce(Duration) -> Result<T> + Send + 'static) -> Self {
        Self(Box::new(finish))
    }

    /// The result; [`Error::Peer`](crate::Error::Peer) on every rank if a peer is lost, aborts or is silent for `deadline`.
    pub fn wait(self, deadline: Duration) -> Result<T> {
        (self.0)(deadline)
    }
}

/// One rank's end of a group of ranks.
pub trait Collective: Send + Sync {
    /// This rank in the group, from 0.
    fn rank(&self) -> usize;

    /// Ranks in the group.
    fn size(&self) -> usize;

    /// The sum of all ranks' buffers, of one length and type: the binary tree over ranks. Equal bits on every rank.
    fn all_reduce(&self, data: Buffer) -> Pending<Buffer>;

    /// This rank's part of that sum; part `r` has `counts[r]` numbers, and `counts` adds up to the length.
    fn reduce_scatter(&self, data: Buffer, counts: &[usize]) -> Pending<Buffer>;

    /// Every rank's buffer in rank order; lengths may differ.
    fn all_gather(&self, data: Buffer) -> Pending<Vec<Buffer>>;

    /// Buffer `r` goes to rank `r`; back come the buffers meant for this rank, in rank order. Lengths may differ.
    fn all_to_all(&self, data: Vec<Buffer>) -> Pending<Vec<Buffer>>;

    /// The buffer of rank `root`; what the others give is ignored.
    fn broadcast(&self, data: Buffer, root: usize) -> Pending<Buffer>;

    /// A message to rank `to`, in the order of the sends between the two.
    fn send(&self, data: Buffer, to: usize) -> Pending<()>;

    /// The next message of rank `from`.
    fn recv(&self, from: usize) -> Pending<Buffer>;

    /// Returns when every rank has called it.
    fn barrier(&self) -> Pending<()>;

    /// The group of this rank along an axis of a mesh over this group. Like every call, made by all ranks in the same order.
    fn split(&self, mesh: &Mesh, axis: Axis) -> Result<Box<dyn Collective>>;

    /// Ends every call on every rank with an error that says why.
    fn abort(&self, why: &str);
}
