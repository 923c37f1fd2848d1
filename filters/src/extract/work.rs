//! Counted work, so that a page costs no more than agreed on, on any machine.
//!
//! In: charges from every loop whose length an author of a page can choose. Out: a fault once their sum passes the limit.
//! A unit is about one node looked at once (a few nanoseconds); no clock is read, so a page is refused everywhere or nowhere.

use super::ExtractFault;

/// Units used and allowed for one page.
#[derive(Clone, Debug)]
pub(super) struct Work {
    used: u64,
    limit: u64,
}

impl Work {
    pub(super) fn new(limit: u64) -> Self {
        Self { used: 0, limit }
    }

    /// Adds units without looking at the limit.
    pub(super) fn add(&mut self, units: usize) {
        self.used = self.used.saturating_add(units as u64);
    }

    /// Fails once more was used than allowed.
    pub(super) fn check(&self) -> Result<(), ExtractFault> {
        if self.used <= self.limit {
            return Ok(());
        }
        Err(ExtractFault::TooMuchWork { units: self.used, limit: self.limit })
    }

    /// Adds units, then fails if that was too much.
    pub(super) fn charge(&mut self, units: usize) -> Result<(), ExtractFault> {
        self.add(units);
        self.check()
    }
}
