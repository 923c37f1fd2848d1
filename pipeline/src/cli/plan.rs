//! `gristmill plan`

use super::{Place, out};
use crate::error::Result;
use crate::estimate::Estimate;
use crate::plan::{self, Action};

/// Show for each stage whether it would run and which field made the difference.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gristmill plan manifests/quickstart.toml --set lang.min_score=0.8")]
pub struct Plan {
    #[command(flatten)]
    place: Place,
}

impl Plan {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        show(&self.place, json)
    }
}

/// Prints the plan of a manifest.
pub fn show(place: &Place, json: bool) -> Result<()> {
    let (manifest, run) = place.load()?;
    let planned = plan::plan(&manifest, &run)?;
    let (least, free) = (plan::least_free_bytes(&manifest)?, plan::free_bytes(&run)?);
    if json {
        say!("{}", serde_json::json!({ "run": run, "stages": planned, "least_free_bytes": least, "free_bytes": free }));
        return Ok(());
    }
    say!("{:12} {:12} {:7} {:>9} {:>9} {:>8}  why", "stage", "kind", "", "rows", "size", "seconds");
    let (mut bytes, mut secs, mut memory) = (0, 0.0, 0);
    for stage in &planned {
        let (what, why) = match &stage.action {
            Action::Cached if stage.documents_dropped => ("cached", "its documents were dropped (retain)".to_string()),
            Action::Cached => ("cached", String::new()),
            Action::Run(why) => ("run", why.clone()),
        };
        let [rows, size, time] = columns(&stage.size);
        let text = format!("{:12} {:12} {what:7} {rows:>9} {size:>9} {time:>8}  {why}", stage.name, stage.kind);
        say!("{}", text.trim_end());
        if !stage.size.known {
            bytes += stage.size.bytes;
            secs += stage.size.secs;
            memory = memory.max(stage.size.memory_bytes);
        }
    }
    for (name, m) in planned.iter().filter_map(|s| Some((&s.name, s.model.as_ref()?))) {
        say!(
            "{name}: {} layers of width {}, {} heads ({} of keys and values), feed-forward {}, {} ids, {} parameters",
            m.n_layer,
            m.n_embd,
            m.n_head,
            m.n_kv_head,
            m.n_ffn,
            m.vocab_size,
            m.parameters
        );
        say!(
            "{name}: {} steps, {} tokens, {:.1} per parameter, {:.2e} floating-point operations",
            m.steps,
            m.tokens,
            m.tokens_per_parameter,
            m.flops
        );
    }
    if planned.iter().any(|s| !s.size.known) {
        let training = if memory > 0 { format!(", {} for training", out::size(memory)) } else { String::new() };
        say!("about {} to write, {secs:.0} s{training}", out::size(bytes));
    }
    say!("needs at least {} MB of disk, {} MB are free", least >> 20, free >> 20);
    Ok(())
}

/// Rows, size and seconds; `~` before what is guessed.
fn columns(size: &Estimate) -> [String; 3] {
    let about = if size.known { "" } else { "~" };
    let rows = if size.rows > 0 { format!("{about}{}", size.rows) } else { String::new() };
    let secs = if size.known { String::new() } else { format!("~{:.1}", size.secs) };
    [rows, format!("{about}{}", out::size(size.bytes)), secs]
}
