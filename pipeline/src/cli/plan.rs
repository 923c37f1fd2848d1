//! `gristmill plan`

use super::Place;
use crate::error::Result;
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
        println!(
            "{}",
            serde_json::json!({ "run": run, "stages": planned, "least_free_bytes": least, "free_bytes": free })
        );
        return Ok(());
    }
    for stage in &planned {
        let (what, why) = match &stage.action {
            Action::Cached => ("cached", String::new()),
            Action::Run(why) => ("run", why.clone()),
        };
        let size = stage
            .bytes
            .map(|b| format!("{} rows, {:.1} MB", stage.rows.unwrap_or(0), b as f64 / 1e6))
            .unwrap_or_default();
        let secs = stage.last_secs.map(|s| format!("{s:.1} s last time")).unwrap_or_default();
        println!("{:12} {:10} {what:7} {why}", stage.name, stage.kind);
        if !size.is_empty() {
            println!("{:31}{size}, {secs}", "");
        }
    }
    println!("needs at least {} MB of disk, {} MB are free", least >> 20, free >> 20);
    Ok(())
}
