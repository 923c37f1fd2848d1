//! Where fragments are worked on: on threads of this process, or on a Ballista cluster whose scheduler and executors are this same
//! binary.
//!
//! The unit is the fragment either way, and only `run` commits: an executor writes a fragment's files under their final names to
//! storage that all processes share, and gives its record back. So the engine is in no fingerprint and reaches no byte.

#[cfg(feature = "ballista")]
pub mod ballista;
pub mod task;

/// The engine of a run.
#[derive(Clone, Debug, Default)]
pub enum Engine {
    /// Threads of this process.
    #[default]
    Local,
    /// Executors of a cluster, and threads of this process for what needs all fragments at once.
    #[cfg(feature = "ballista")]
    Ballista(ballista::Cluster),
}

impl Engine {
    /// An error if there is nobody to work.
    pub fn reach(&self) -> crate::error::Result<()> {
        match self {
            Engine::Local => Ok(()),
            #[cfg(feature = "ballista")]
            Engine::Ballista(cluster) => cluster.reach(),
        }
    }

    /// The engine by its name in a manifest or argument; `scheduler` is `HOST:PORT`.
    pub fn of(name: &str, scheduler: Option<&str>) -> Result<Self, String> {
        match (name, scheduler) {
            ("local", None) => Ok(Engine::Local),
            ("local", Some(_)) => Err("`scheduler` is for  engine = \"ballista\"".into()),
            #[cfg(feature = "ballista")]
            ("ballista", Some(address)) => ballista::Cluster::new(address).map(Engine::Ballista),
            #[cfg(feature = "ballista")]
            ("ballista", None) => {
                Err("engine \"ballista\" needs `scheduler`, e.g.  scheduler = \"localhost:50050\"".into())
            }
            #[cfg(not(feature = "ballista"))]
            ("ballista", _) => Err(
                "this gristmill was built without Ballista; build it with  cargo build --release --features ballista"
                    .into(),
            ),
            (other, _) => Err(format!("`engine` must be \"local\" or \"ballista\", got \"{other}\"")),
        }
    }
}
