//! `gristmill completions`

use super::Cli;
use crate::error::Result;
use clap::CommandFactory;

/// Print completions for a shell.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gristmill completions bash > ~/.local/share/bash-completion/completions/gristmill")]
pub struct Completions {
    /// The shell.
    shell: clap_complete::Shell,
}

impl Completions {
    pub(super) fn run(&self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "gristmill", &mut script);
        super::out::raw(&script)
    }
}
