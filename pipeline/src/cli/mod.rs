//! The command line: one file per command. Only this folder prints or exits. Data goes to stdout, all else to stderr.

mod ablate;
mod chat;
mod check;
mod completions;
mod diff;
mod explain;
mod gc;
mod init;
mod plan;
mod progress;
mod report;
mod rm;
mod run;
mod schema;
mod sql;
mod status;
mod trace;
mod verify;

use crate::error::{Error, Result};
use clap::{Args, Parser, Subcommand};
use std::path::{Path, PathBuf};

/// From a web crawl to an aligned language model, by one manifest.
#[derive(Parser)]
#[command(name = "gristmill", version, max_term_width = 110, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print results as JSON.
    #[arg(long, global = true)]
    json: bool,
}

const EXAMPLES: &str = "Examples:
  gristmill run manifests/quickstart.toml          run it, or go on where it stopped
  gristmill plan manifests/quickstart.toml         what would run, and why
  gristmill sql runs/quickstart \"SELECT rule, count(*) FROM quality_verdicts GROUP BY rule\"
  gristmill explain runs/quickstart DOCUMENT_ID    a document's way from the crawl to its tokens
  gristmill chat runs/quickstart                   talk to the model

Exit codes: 0 done, 1 failed, 2 bad manifest or arguments, 3 bad input data, 4 out of memory or disk,
5 interrupted (run again), 6 damaged files.";

#[derive(Subcommand)]
enum Command {
    Init(init::Init),
    Run(run::Run),
    Check(check::Check),
    Plan(plan::Plan),
    Status(status::Status),
    Sql(sql::Sql),
    Explain(explain::Explain),
    Trace(trace::Trace),
    Diff(diff::Diff),
    Verify(verify::Verify),
    Ablate(ablate::Ablate),
    Report(report::Report),
    Chat(chat::Chat),
    Gc(gc::Gc),
    Rm(rm::Rm),
    Schema(schema::Schema),
    Completions(completions::Completions),
}

/// Where a manifest's run lives.
#[derive(Args, Clone)]
pub struct Place {
    /// The manifest, a TOML file.
    manifest: PathBuf,
    /// Folder of runs; the run is DIR/<manifest name>.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    root: PathBuf,
    /// Override an option, as stage.key=value; may be repeated.
    #[arg(long = "set", value_name = "STAGE.KEY=VALUE")]
    sets: Vec<String>,
}

impl Place {
    /// The checked manifest and the folder of its run.
    fn load(&self) -> Result<(crate::manifest::Manifest, PathBuf)> {
        let manifest = crate::manifest::Manifest::load(&self.manifest, &self.sets)?;
        let run = self.root.join(&manifest.name);
        Ok((manifest, run))
    }
}

/// Reads the command line, runs the command and gives the exit code.
pub fn main() -> i32 {
    // A closed pipe (`| head`) ends the program quietly, as it does for other tools.
    // SAFETY: called once, before any thread starts, with a constant disposition.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return e.exit_code();
        }
    };
    if let Ok(specification) = std::env::var("GRISTMILL_FAIL")
        && let Err(message) = crate::store::fail::arm(&specification)
    {
        eprintln!("error: {message}");
        return 2;
    }
    match dispatch(&cli) {
        Ok(()) => 0,
        Err(e) => {
            let text = e.to_string();
            let text = if text.starts_with("error") { text } else { format!("error: {text}") };
            if cli.json {
                println!("{}", serde_json::json!({ "error": text, "exit_code": e.exit_code() }));
            }
            eprintln!("{text}");
            e.exit_code()
        }
    }
}

fn dispatch(cli: &Cli) -> Result<()> {
    let json = cli.json;
    match &cli.command {
        Command::Init(c) => c.run(),
        Command::Run(c) => c.run(json),
        Command::Check(c) => c.run(json),
        Command::Plan(c) => c.run(json),
        Command::Status(c) => c.run(json),
        Command::Sql(c) => c.run(json),
        Command::Explain(c) => c.run(json),
        Command::Trace(c) => c.run(json),
        Command::Diff(c) => c.run(json),
        Command::Verify(c) => c.run(json),
        Command::Ablate(c) => c.run(json),
        Command::Report(c) => c.run(),
        Command::Chat(c) => c.run(json),
        Command::Gc(c) => c.run(json),
        Command::Rm(c) => c.run(json),
        Command::Schema(c) => c.run(),
        Command::Completions(c) => c.run(),
    }
}

/// Prints one line of data.
fn line(text: &str) -> Result<()> {
    println!("{text}");
    Ok(())
}

/// Bytes from `512MB`, `2GiB`, `4096`.
fn parse_bytes(text: &str) -> std::result::Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| format!("expected a size such as 512MB, got `{text}`"))?;
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        other => return Err(format!("unknown unit `{other}`: use B, KB, MB, GB, KiB, MiB or GiB")),
    };
    Ok((number * factor) as u64)
}

/// Threads to use unless told otherwise: all that the machine has.
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// An error if a folder holds no run.
fn existing_run(run: &Path) -> Result<()> {
    if run.join(".store").is_dir() {
        return Ok(());
    }
    Err(Error::Manifest(format!(
        "error: there is no run in {}\nhint: give the folder that `gristmill run` printed, e.g. runs/quickstart",
        run.display()
    )))
}
