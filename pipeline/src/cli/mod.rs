//! The command line: one file per command. Only this folder prints or exits. Data goes to stdout, all else to stderr.

#[macro_use]
mod out;
mod ablate;
mod chat;
mod check;
mod completions;
mod diff;
#[cfg(feature = "ballista")]
mod executor;
mod explain;
mod gc;
mod init;
mod launch;
mod plan;
mod progress;
mod report;
mod rm;
mod run;
#[cfg(feature = "ballista")]
mod scheduler;
mod schema;
mod sql;
mod status;
mod trace;
mod verify;
mod verify_parallel;

use crate::error::{Error, Result};
use clap::{Args, Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

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
5 interrupted (run again), 6 damaged files, 7 a process that trained along was lost (run again).";

#[derive(Subcommand)]
enum Command {
    Init(init::Init),
    Run(run::Run),
    Launch(launch::Launch),
    Check(check::Check),
    Plan(plan::Plan),
    Status(status::Status),
    Sql(sql::Sql),
    Explain(explain::Explain),
    Trace(trace::Trace),
    Diff(diff::Diff),
    Verify(verify::Verify),
    VerifyParallel(verify_parallel::VerifyParallel),
    Ablate(ablate::Ablate),
    Report(report::Report),
    Chat(chat::Chat),
    Gc(gc::Gc),
    Rm(rm::Rm),
    Schema(schema::Schema),
    Completions(completions::Completions),
    #[cfg(feature = "ballista")]
    Scheduler(scheduler::Scheduler),
    #[cfg(feature = "ballista")]
    Executor(executor::Executor),
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
            let printed = e.print();
            if e.use_stderr() && std::env::args_os().take_while(|a| a != "--").any(|a| a == "--json") {
                let text = e.render().to_string();
                // The usage that follows is for reading.
                let text =
                    text.split("\n\nUsage:").next().unwrap_or(&text).replace("\n\nFor more information, ", "\nhint: ");
                let _ = out::line(format_args!("{}", fault(&text, e.exit_code())));
            }
            return match printed {
                Err(io) if !e.use_stderr() => report(&out::failed(io), false),
                _ => e.exit_code(),
            };
        }
    };
    if let Ok(specification) = std::env::var("GRISTMILL_FAIL")
        && let Err(message) = crate::store::fail::arm(&specification)
    {
        note!("error: {message}");
        return 2;
    }
    match dispatch(&cli) {
        Ok(()) => 0,
        Err(e) => report(&e, cli.json),
    }
}

/// Number of this process if it trains along with process 0, which alone speaks on stdout.
static FOLLOWS: OnceLock<usize> = OnceLock::new();

/// From here on this process is rank `rank`, which is not 0.
fn follows(rank: usize) {
    FOLLOWS.get_or_init(|| rank);
}

/// Says what went wrong and gives the exit code.
fn report(e: &Error, json: bool) -> i32 {
    let text = e.to_string();
    let text = if text.starts_with("error") { text } else { format!("error: {text}") };
    if let Some(rank) = FOLLOWS.get() {
        note!("rank {rank}: {text}");
        return e.exit_code();
    }
    if json {
        let _ = out::line(format_args!("{}", fault(&text, e.exit_code())));
    }
    note!("{text}");
    e.exit_code()
}

/// An error as an object: what went wrong, the ways out (null if none), the exit code.
fn fault(text: &str, exit_code: i32) -> serde_json::Value {
    let (mut error, mut hint, mut in_hint) = (Vec::new(), Vec::new(), false);
    for line in text.lines() {
        let start = line.trim_start();
        match start.strip_prefix("hint: ").or(start.strip_prefix("tip: ")) {
            Some(way_out) => {
                in_hint = true;
                hint.push(way_out);
            }
            None => {
                in_hint &= !line.is_empty() && !line.starts_with("error");
                if in_hint { hint.push(line) } else { error.push(line) }
            }
        }
    }
    let error = error.join("\n");
    let error = error.trim();
    let hint = (!hint.is_empty()).then(|| hint.join("\n"));
    serde_json::json!({ "error": error.strip_prefix("error: ").unwrap_or(error), "hint": hint, "exit_code": exit_code })
}

fn dispatch(cli: &Cli) -> Result<()> {
    let json = cli.json;
    match &cli.command {
        Command::Init(c) => c.run(json),
        Command::Run(c) => c.run(json),
        Command::Launch(c) => c.run(json),
        Command::Check(c) => c.run(json),
        Command::Plan(c) => c.run(json),
        Command::Status(c) => c.run(json),
        Command::Sql(c) => c.run(json),
        Command::Explain(c) => c.run(json),
        Command::Trace(c) => c.run(json),
        Command::Diff(c) => c.run(json),
        Command::Verify(c) => c.run(json),
        Command::VerifyParallel(c) => c.run(json),
        Command::Ablate(c) => c.run(json),
        Command::Report(c) => c.run(json),
        Command::Chat(c) => c.run(json),
        Command::Gc(c) => c.run(json),
        Command::Rm(c) => c.run(json),
        Command::Schema(c) => c.run(),
        Command::Completions(c) => c.run(),
        #[cfg(feature = "ballista")]
        Command::Scheduler(c) => c.run(),
        #[cfg(feature = "ballista")]
        Command::Executor(c) => c.run(),
    }
}

/// Prints one line of data.
fn line(text: &str) -> Result<()> {
    out::line(format_args!("{text}"))
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
    match (number * factor) as u64 {
        0 => Err(format!("expected more than 0 bytes, such as 512MB, got `{text}`")),
        bytes => Ok(bytes),
    }
}

/// Threads to use unless told otherwise: all that the machine has.
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// An error if a folder holds no run.
/// Says on stderr what a run that did not come to its end has made and nobody shows yet.
fn tell_unfinished(run: &Path) -> Result<()> {
    let newer = crate::execute::newer_than_revision(run)?;
    if !newer.is_empty() {
        note!(
            "note: the last run did not come to its end: what it made anew ({}) is not shown, but what was finished before; run the manifest \
             again to see it",
            newer.join(", ")
        );
    }
    Ok(())
}

fn existing_run(run: &Path) -> Result<()> {
    if run.join(".store").is_dir() {
        return Ok(());
    }
    Err(Error::Manifest(format!(
        "error: there is no run in {}\nhint: give the folder that `gristmill run` printed, e.g. runs/quickstart",
        run.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_object_keeps_the_fault_and_the_way_out_apart() {
        let shown = fault("error: no stage `x`\n  --> a.toml:3\nhint: did you mean `y`?\n  or `z`\n\nerror: more", 2);
        assert_eq!(shown["error"], "no stage `x`\n  --> a.toml:3\n\nerror: more");
        assert_eq!(shown["hint"], "did you mean `y`?\n  or `z`");
        assert_eq!(fault("error: plain", 1), serde_json::json!({ "error": "plain", "hint": null, "exit_code": 1 }));
    }

    #[test]
    fn sizes_are_read_with_their_unit_and_none_is_nothing() {
        assert_eq!(parse_bytes("2KiB"), Ok(2048));
        assert_eq!(parse_bytes("1.5 MB"), Ok(1_500_000));
        for refused in ["0", "0MB", "", "-1", "5 parsecs"] {
            assert!(parse_bytes(refused).is_err(), "{refused}");
        }
    }
}
