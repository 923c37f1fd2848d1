//! `gristmill launch`

use crate::error::{Error, Result};
use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Start a run as several processes on this machine that train together; the result has the bits of one process.
///
/// Process 0 runs the manifest; the others join it in stages that train models. Each gets its part of the machine's threads unless
/// --threads says otherwise. torchrun, srun and mpirun can start `gristmill run` on several machines in the same way; all must see
/// the run's folder and the manifest's files under the same paths.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gristmill launch -n 2 -- run manifests/quickstart.toml")]
pub struct Launch {
    /// Processes.
    #[arg(short = 'n', long = "processes", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    processes: u32,
    /// The command and its arguments: `run MANIFEST ...`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// How long ranks may go on after one has failed and nobody has ended since: they have been stopped, or hang.
const GRACE: Duration = Duration::from_secs(5);
/// Pause between two looks at the processes.
const PAUSE: Duration = Duration::from_millis(10);

impl Launch {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        if self.command.first().is_none_or(|word| word != "run") {
            return Err(Error::Manifest(
                "error: launch starts the command `run` alone\nhint: gristmill launch -n 2 -- run MANIFEST".into(),
            ));
        }
        let asked = Arc::new(AtomicBool::new(false));
        // Ctrl-C reaches the processes by itself, so for it this one only waits.
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            let flag = if signal == signal_hook::consts::SIGTERM { asked.clone() } else { Arc::default() };
            signal_hook::flag::register(signal, flag).map_err(Error::io("listen for signals in", "launch"))?;
        }
        let mut ranks = self.start(json)?;
        let mut told = false;
        while ranks.iter().any(|rank| rank.ended.is_none()) {
            if asked.load(Ordering::SeqCst) && !told {
                told = true;
                ranks.iter().filter(|r| r.ended.is_none()).for_each(Rank::ask_to_stop);
            }
            look(&mut ranks)?;
            std::thread::sleep(PAUSE);
        }
        verdict(&ranks)
    }

    fn start(&self, json: bool) -> Result<Vec<Rank>> {
        let program = std::env::current_exe().map_err(Error::io("find", "gristmill"))?;
        // Taken again by rank 0 in a moment; the system gives free ports in turn.
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(Error::io("find", "a port"))?.port();
        let world = self.processes.to_string();
        let mut ranks = Vec::new();
        for rank in 0..self.processes {
            let mut command = Command::new(&program);
            command.args(&self.command).env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string());
            command.env("WORLD_SIZE", &world).env("LOCAL_WORLD_SIZE", &world);
            command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
            if json {
                command.arg("--json");
            }
            match command.spawn().map_err(Error::io("start", &program)) {
                Ok(child) => {
                    note!("rank {rank} is process {}", child.id());
                    ranks.push(Rank { child, ended: None, killed: false });
                }
                Err(e) => {
                    ranks.iter_mut().for_each(Rank::kill);
                    return Err(e);
                }
            }
        }
        Ok(ranks)
    }
}

struct Rank {
    child: Child,
    ended: Option<(ExitStatus, Instant)>,
    /// By this process, since it was stopped or hung.
    killed: bool,
}

impl Rank {
    fn ask_to_stop(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // Who has just ended needs no signal.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }

    fn kill(&mut self) {
        self.killed = true;
        let _ = self.child.kill(); // fails only for one that has ended
    }

    fn failed(&self) -> bool {
        self.ended.is_some_and(|(status, _)| !status.success())
    }
}

/// Notes who has ended; ends those that are left long after.
fn look(ranks: &mut [Rank]) -> Result<()> {
    for rank in ranks.iter_mut().filter(|r| r.ended.is_none()) {
        let status = rank.child.try_wait().map_err(Error::io("wait for", "a rank"))?;
        rank.ended = status.map(|status| (status, Instant::now()));
    }
    let last = ranks.iter().filter_map(|r| r.ended.map(|(_, at)| at)).max();
    if ranks.iter().any(Rank::failed) && last.is_some_and(|at| at.elapsed() > GRACE) {
        ranks.iter_mut().filter(|r| r.ended.is_none()).for_each(Rank::kill);
    }
    Ok(())
}

/// A failure that is more than a lost peer, else who was lost: a rank that a signal ended, one that did not end, any that lost one.
fn verdict(ranks: &[Rank]) -> Result<()> {
    let mut lost = Vec::new();
    for (rank, state) in ranks.iter().enumerate() {
        let Some((status, _)) = state.ended else { continue };
        match (status.code(), status.signal()) {
            (Some(0), _) => {}
            (Some(7), _) => lost.push((2, format!("rank {rank} lost another rank"))),
            (Some(code), _) => return Err(Error::of_code(code, format!("rank {rank} ended with exit code {code}"))),
            _ if state.killed => lost.push((1, format!("rank {rank} did not end by itself and was killed"))),
            (None, signal) => lost.push((0, format!("rank {rank} was ended by signal {}", signal.unwrap_or(0)))),
        }
    }
    let hint = "hint: run the same command again: it goes on from the last checkpoint";
    lost.into_iter().min().map_or(Ok(()), |(_, what)| Err(Error::Peer(format!("{what}\n{hint}"))))
}
