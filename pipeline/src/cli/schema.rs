//! `gristmill schema`

use crate::error::Result;
use crate::manifest::reference;

/// Print the JSON schema of manifests, or their reference as Markdown.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gristmill schema > gristmill.schema.json
  gristmill schema --markdown > manifests/REFERENCE.md")]
pub struct Schema {
    /// Print the reference of all kinds and options as Markdown instead.
    #[arg(long)]
    markdown: bool,
}

impl Schema {
    pub(super) fn run(&self) -> Result<()> {
        if self.markdown {
            super::out::raw(reference::markdown().as_bytes())
        } else {
            super::line(&format!("{:#}", reference::json_schema()))
        }
    }
}
