//! How progress looks: bars with rates and time left on a terminal, one line per event otherwise.

use crate::manifest::Manifest;
use crate::manifest::kinds::Output;
use crate::progress::{Event, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Least time between two lines about the same stage when there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows events on stderr.
pub struct Terminal {
    bars: Option<MultiProgress>,
    open: Mutex<BTreeMap<String, (ProgressBar, Instant)>>,
    json: bool,
    /// Stages whose output is a table: the others have no rows to tell.
    tables: BTreeSet<String>,
}

impl Terminal {
    /// Bars if stderr is a terminal, JSON lines if asked, else plain lines.
    pub fn new(json: bool, manifest: &Manifest) -> Self {
        let bars = (!json && std::io::stderr().is_terminal()).then(MultiProgress::new);
        let tables = manifest
            .stages
            .iter()
            .filter(|s| matches!(s.info().makes, Output::Table | Output::Shards))
            .map(|s| s.name.clone())
            .collect();
        Self { bars, open: Mutex::new(BTreeMap::new()), json, tables }
    }

    fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(text)),
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    fn json_line(&self, event: &Event<'_>) {
        let value = match event {
            Event::Started { stage, kind, units } => {
                serde_json::json!({ "event": "started", "stage": stage, "kind": kind, "units": units })
            }
            Event::Cached { stage, rows } => serde_json::json!({ "event": "cached", "stage": stage, "rows": rows }),
            Event::Advanced { stage, done, units, note } => {
                serde_json::json!({ "event": "advanced", "stage": stage, "done": done, "units": units, "note": note })
            }
            Event::Finished { stage, rows, secs, note } => {
                serde_json::json!({ "event": "finished", "stage": stage, "rows": rows, "secs": secs, "note": note })
            }
            Event::Warning(text) => serde_json::json!({ "event": "warning", "text": text }),
        };
        self.line(&value.to_string());
    }
}

impl Progress for Terminal {
    fn event(&self, event: Event<'_>) {
        if self.json {
            return self.json_line(&event);
        }
        let mut open = self.open.lock().expect("no holder panics");
        match event {
            Event::Started { stage, kind, units } => {
                let bar = match &self.bars {
                    Some(bars) => bars.add(ProgressBar::new(units)),
                    None => ProgressBar::hidden(),
                };
                let style =
                    ProgressStyle::with_template("{prefix:12} {bar:28} {pos}/{len} {per_sec} {eta} left  {msg}");
                bar.set_style(style.expect("the template is a constant"));
                bar.set_prefix(stage.to_string());
                bar.enable_steady_tick(Duration::from_millis(200));
                if let Some((old, _)) = open.insert(stage.to_string(), (bar, Instant::now())) {
                    old.finish_and_clear();
                } else if self.bars.is_none() {
                    self.line(&format!("{stage:12} {kind} ..."));
                }
            }
            Event::Advanced { stage, done, units, note } => {
                let Some((bar, last)) = open.get_mut(stage) else { return };
                bar.set_length(units);
                bar.set_position(done);
                bar.set_message(note.to_string());
                if self.bars.is_none() && last.elapsed() >= LINE_EVERY {
                    *last = Instant::now();
                    self.line(&format!("{stage:12} {done}/{units}  {note}"));
                }
            }
            Event::Cached { stage, rows } if self.tables.contains(stage) => {
                self.line(&format!("{stage:12} cached ({rows} rows)"));
            }
            Event::Cached { stage, .. } => self.line(&format!("{stage:12} cached")),
            Event::Finished { stage, secs, note, .. } => {
                if let Some((bar, _)) = open.remove(stage) {
                    bar.finish_and_clear();
                }
                self.line(&format!("{stage:12} {note}  [{secs:.1} s]"));
            }
            Event::Warning(text) => self.line(&format!("warning: {text}")),
        }
    }
}
