//! The processes of one run: rank 0 runs the manifest, the others wait for a model stage and train it with rank 0.
//!
//! Rank 0 alone runs the data half, writes and commits. For each stage that trains it orders the others to run the same code on the
//! same inputs, which they read from the run's folder themselves; in the loop all step together, each on its share of the
//! micro-batches, with the bits of one process at any number of ranks. Between such stages rank 0 says every now and
//! then that it is still there. A rank that is lost or silent for longer than the deadline ends all with exit code 7.

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::manifest::{Manifest, Stage};
use crate::plan;
use crate::progress::Silent;
use crate::stage::{self, Context, Settings};
use crate::store::OutputDir;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use trainer::parallel::tcp::{self, TcpConfig};
use trainer::parallel::{Buffer, Collective, Launch, Team};

/// This process among those of a run.
pub struct Ranks {
    group: Box<dyn Collective>,
    deadline: Duration,
    /// Set once all ranks end for a reason that each of them knows.
    agreed: AtomicBool,
    pulse: Mutex<Pulse>,
    bell: Condvar,
}

/// Whether rank 0 has to say that it is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pulse {
    /// The others wait for an order.
    Needed,
    /// All ranks are in a stage together.
    Together,
    /// The run is over.
    Over,
}

/// What rank 0 tells the others.
#[derive(Serialize, Deserialize)]
enum Order {
    /// There is nothing to do yet.
    Wait,
    /// Train this stage; what it reads is in the store under these fingerprints.
    Train { stage: String, fingerprint: String, reads: BTreeMap<String, String> },
    /// The run is over, with this exit code.
    End { code: i32 },
}

impl std::fmt::Debug for Ranks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.group.rank(), self.group.size())
    }
}

/// A trainer's error as the pipeline's: lost peers have an exit code of their own.
pub fn trainer_error(e: trainer::Error) -> Error {
    if e.is_lost_peer() { Error::Peer(e.to_string()) } else { Error::Model(e.to_string()) }
}

impl Ranks {
    /// Meets the other processes that a launcher started, all with this `identity`; None if there are none.
    pub fn meet(launch: &Launch, identity: String, deadline: Duration) -> Result<Option<Self>> {
        if launch.world == 1 {
            return Ok(None);
        }
        let (rank, world, master) = (launch.rank, launch.world, launch.master.clone());
        let group = tcp::world(&TcpConfig { rank, world, master, identity, deadline }).map_err(trainer_error)?;
        Ok(Some(Self::of(group, deadline)))
    }

    /// One end of a group of ranks.
    pub fn of(group: Box<dyn Collective>, deadline: Duration) -> Self {
        let pulse = Mutex::new(Pulse::Needed);
        Self { group, deadline, agreed: AtomicBool::new(false), pulse, bell: Condvar::new() }
    }

    /// Whether this is rank 0.
    pub fn leads(&self) -> bool {
        self.group.rank() == 0
    }

    /// The ranks as those who train together.
    pub fn team(&self) -> Team<'_> {
        Team { group: &*self.group, deadline: self.deadline }
    }

    /// What rank 0 says, on every rank.
    pub fn told(&self, word: Option<u64>) -> Result<Option<u64>> {
        let bytes = serde_json::to_vec(&word).expect("a number is plain data");
        let said = self.group.broadcast(bytes.into(), 0).wait(self.deadline).and_then(Buffer::into_bytes);
        serde_json::from_slice(&said.map_err(trainer_error)?)
            .map_err(|e| Error::Peer(format!("rank 0 said what cannot be read: {e}")))
    }

    /// Whether it is so on any rank.
    pub fn any(&self, here: bool) -> Result<bool> {
        let all = self.group.all_gather(vec![u8::from(here)].into()).wait(self.deadline).map_err(trainer_error)?;
        Ok(all.into_iter().any(|word| word.into_bytes().is_ok_and(|bytes| bytes != [0])))
    }

    /// An error on every rank unless all have the same bytes of `what`.
    pub fn same(&self, what: &str, bytes: &[u8]) -> Result<()> {
        let own: Buffer = bytes.to_vec().into();
        let all = self.group.all_gather(own.clone()).wait(self.deadline).map_err(trainer_error)?;
        match all.iter().position(|other| *other != all[0]) {
            None => Ok(()),
            Some(rank) => {
                self.agree();
                Err(Error::Integrity(format!(
                    "rank {rank} has other {what} than rank 0\nhint: one build of gristmill and one model of CPU on all machines give equal bits"
                )))
            }
        }
    }

    /// All ranks are about to end for one reason, so none has to be told.
    pub fn agree(&self) {
        self.agreed.store(true, Ordering::SeqCst);
    }

    /// The others wait for an order again.
    pub fn apart(&self) {
        self.set(Pulse::Needed);
    }

    fn set(&self, pulse: Pulse) {
        *self.pulse.lock().unwrap_or_else(PoisonError::into_inner) = pulse;
        self.bell.notify_all();
    }

    fn order(&self, order: &Order) -> Result<()> {
        let bytes = serde_json::to_vec(order).expect("an order is plain data because it derives Serialize");
        for rank in 1..self.group.size() {
            self.group.send(bytes.clone().into(), rank).wait(self.deadline).map_err(trainer_error)?;
        }
        Ok(())
    }

    /// Runs a stage's code on this rank; an error that the others cannot know ends them too.
    fn together(&self, work: impl FnOnce() -> Result<stage::Output>) -> Result<stage::Output> {
        let made = work();
        if let (Err(e), false) = (&made, self.agreed.load(Ordering::SeqCst)) {
            self.group.abort(&e.to_string());
        }
        made
    }

    /// On rank 0: runs a training stage with all ranks.
    pub fn lead(
        &self,
        stage: &Stage,
        fingerprint: &str,
        reads: BTreeMap<String, String>,
        work: impl FnOnce() -> Result<stage::Output>,
    ) -> Result<stage::Output> {
        self.set(Pulse::Together);
        self.order(&Order::Train { stage: stage.name.clone(), fingerprint: fingerprint.to_string(), reads })?;
        let made = self.together(work);
        self.apart();
        made
    }

    /// On rank 0: does `work` while the others wait for orders, and ends them with it. `stop` is set when one of them is lost.
    pub fn host<T>(&self, stop: &AtomicBool, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let lost: Mutex<Option<Error>> = Mutex::new(None);
        let done = std::thread::scope(|scope| {
            scope.spawn(|| {
                if let Err(e) = self.say_that_we_are_there() {
                    *lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                    stop.store(true, Ordering::SeqCst);
                }
            });
            let done = work();
            let code = done.as_ref().map_or_else(Error::exit_code, |_| 0);
            self.set(Pulse::Over);
            // Who has gone needs no order.
            let _ = self.order(&Order::End { code });
            done
        });
        match (done, lost.into_inner().unwrap_or_else(PoisonError::into_inner)) {
            (Err(Error::Interrupted(_)), Some(lost)) => Err(lost),
            (done, _) => done,
        }
    }

    fn say_that_we_are_there(&self) -> Result<()> {
        let pause = self.deadline / 4;
        let mut pulse = self.pulse.lock().unwrap_or_else(PoisonError::into_inner);
        let mut said = Instant::now();
        while *pulse != Pulse::Over {
            if *pulse == Pulse::Needed && said.elapsed() >= pause {
                said = Instant::now();
                self.order(&Order::Wait)?;
            }
            pulse = self.bell.wait_timeout(pulse, pause / 4).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// On every other rank: follows the orders of rank 0 to the end of the run.
    pub fn follow(&self, manifest: &Manifest, run: &Path, settings: &Settings, stop: &AtomicBool) -> Result<()> {
        loop {
            let said = self.group.recv(0).wait(self.deadline).and_then(Buffer::into_bytes).map_err(trainer_error)?;
            let order: Order = serde_json::from_slice(&said)
                .map_err(|e| Error::Peer(format!("rank 0 said what cannot be read: {e}")))?;
            match order {
                Order::Wait => {}
                Order::Train { stage, fingerprint, reads } => {
                    self.together(|| train(manifest, run, settings, stop, &stage, &fingerprint, &reads))?;
                }
                Order::End { code: 0 } => return Ok(()),
                Order::End { code } => {
                    return Err(Error::of_code(code, format!("rank 0 ended with exit code {code}")));
                }
            }
        }
    }
}

/// Runs the code of a training stage, which writes nothing on this rank.
fn train(
    manifest: &Manifest,
    run: &Path,
    settings: &Settings,
    stop: &AtomicBool,
    name: &str,
    fingerprint: &str,
    reads: &BTreeMap<String, String>,
) -> Result<stage::Output> {
    let unknown = || Error::Peer(format!("rank 0 trains a stage `{name}` that this rank's manifest has not"));
    let stage = manifest.stage(name).ok_or_else(unknown)?;
    let dataset = |name: &String| {
        let fingerprint = reads.get(name).ok_or_else(unknown)?;
        Dataset::open(name, plan::store_path(run, fingerprint))
    };
    let mut references = BTreeMap::new();
    for (key, names) in &stage.references {
        references.insert(key.clone(), names.iter().map(dataset).collect::<Result<Vec<_>>>()?);
    }
    stage::run(&Context {
        stage,
        inputs: stage.inputs.iter().map(dataset).collect::<Result<_>>()?,
        references,
        // Not `open`: rank 0 writes there.
        out: OutputDir { path: plan::store_path(run, fingerprint) },
        folder: &manifest.folder,
        settings,
        progress: &Silent,
        stop,
        started: Instant::now(),
        picked: None,
    })
}
