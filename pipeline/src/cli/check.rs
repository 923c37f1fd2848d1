//! `gristmill check`

use super::Place;
use crate::error::Result;

/// Check a manifest without reading data: all faults at once, each with its line and a way out.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gristmill check manifests/quickstart.toml")]
pub struct Check {
    #[command(flatten)]
    place: Place,
}

impl Check {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        let (manifest, run) = self.place.load()?;
        if json {
            let stages: Vec<&str> = manifest.stages.iter().map(|s| s.name.as_str()).collect();
            say!("{}", serde_json::json!({ "name": manifest.name, "run": run, "stages": stages }));
        } else {
            say!("{}: {} stages, no faults", manifest.path.display(), manifest.stages.len());
        }
        Ok(())
    }
}
