//! Faults of a manifest, collected and shown all at once.

use crate::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// One fault: the line it is on (0: not in the file), what is wrong, a way out.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Line in the manifest, from 1.
    pub line: usize,
    /// What, where, expected and got.
    pub message: String,
    /// A way out.
    pub hint: Option<String>,
}

/// The faults of one manifest.
pub struct Faults {
    path: PathBuf,
    text: String,
    found: Vec<Fault>,
}

impl Faults {
    /// No faults yet, in the manifest at `path` with this text.
    pub fn new(path: &Path, text: &str) -> Self {
        Self { path: path.to_path_buf(), text: text.to_string(), found: Vec::new() }
    }

    /// Whether none was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether a fault on this line says this.
    pub fn has(&self, line: usize, part: &str) -> bool {
        self.found.iter().any(|f| f.line == line && f.message.contains(part))
    }

    /// The line of a byte offset, from 1.
    pub fn line(&self, offset: usize) -> usize {
        self.text.as_bytes()[..offset.min(self.text.len())].iter().filter(|b| **b == b'\n').count() + 1
    }

    /// Adds a fault.
    pub fn push(&mut self, fault: Fault) {
        self.found.push(fault);
    }

    /// Adds a fault at a byte offset.
    pub fn at_offset(&mut self, offset: usize, message: String, hint: Option<String>) {
        let line = self.line(offset);
        self.push(Fault { line, message, hint });
    }

    /// Adds an unknown name at a byte offset, with the nearest known one.
    pub fn unknown(&mut self, offset: usize, message: &str, name: &str, known: &[String]) {
        self.unknown_on_line(self.line(offset), message, name, known);
    }

    /// Adds an unknown name on a line, with the nearest known one.
    pub fn unknown_on_line(&mut self, line: usize, message: &str, name: &str, known: &[String]) {
        let hint = super::nearest(name, known).map(|n| format!("did you mean `{n}`?"));
        self.push(Fault { line, message: format!("{message}   (known: {})", known.join(", ")), hint });
    }
}

impl From<Faults> for Error {
    fn from(mut faults: Faults) -> Self {
        faults.found.sort_by_key(|f| f.line);
        faults.found.dedup();
        let mut text = String::new();
        for fault in &faults.found {
            let _ = writeln!(text, "error: {}", fault.message);
            if fault.line > 0 {
                let _ = writeln!(text, "  --> {}:{}", faults.path.display(), fault.line);
            }
            if let Some(hint) = &fault.hint {
                let _ = writeln!(text, "hint: {hint}");
            }
        }
        let n = faults.found.len();
        let _ = write!(
            text,
            "{n} fault{} in {}; nothing was started",
            if n == 1 { "" } else { "s" },
            faults.path.display()
        );
        Error::Manifest(text)
    }
}
