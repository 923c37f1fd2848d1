//! What a run says while it works. Stages report facts; the command line decides how they look.

/// One thing worth telling.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A stage starts; `units` is its number of fragments or steps when known.
    Started {
        /// Stage name.
        stage: &'a str,
        /// Stage kind.
        kind: &'a str,
        /// Fragments or steps to do, 0 when not known.
        units: u64,
    },
    /// A stage is not run again.
    Cached {
        /// Stage name.
        stage: &'a str,
        /// Its rows.
        rows: u64,
    },
    /// Some of a stage is done.
    Advanced {
        /// Stage name.
        stage: &'a str,
        /// Units done so far.
        done: u64,
        /// Units in all.
        units: u64,
        /// What was measured on the way, e.g. `loss 3.21, 12.3k tokens/s`.
        note: &'a str,
    },
    /// A stage is committed.
    Finished {
        /// Stage name.
        stage: &'a str,
        /// Rows of the output.
        rows: u64,
        /// Seconds since it started.
        secs: f64,
        /// The line that sums it up.
        note: &'a str,
    },
    /// Something a person should know, such as a share of damaged records above 1 %.
    Warning(&'a str),
}

/// Receives events; called from several threads.
pub trait Progress: Sync {
    /// Takes one event.
    fn event(&self, event: Event<'_>);
}

/// Says nothing.
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}

/// Bytes for people: `812 B`, `12.3 KB`, `4.6 MB`.
pub fn size(bytes: u64) -> String {
    let scaled = |unit: f64, name: &str| format!("{:.1} {name}", bytes as f64 / unit);
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => scaled(1e3, "KB"),
        1_000_000..1_000_000_000 => scaled(1e6, "MB"),
        _ => scaled(1e9, "GB"),
    }
}
