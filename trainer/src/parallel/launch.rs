//! Who this process is among the others, from the environment its launcher made.
//!
//! In: environment variables, through a function. Out: rank, world size, ranks on this machine, where rank 0 listens, and which
//! launcher said so; None outside any launcher. Looked at in this order, the first that shows counts, and half a set is an error:
//!
//! | launcher | rank and size | on this machine | rank 0 |
//! |---|---|---|---|
//! | torchrun, gristmill launch | `RANK WORLD_SIZE` | `LOCAL_RANK LOCAL_WORLD_SIZE` | `MASTER_ADDR MASTER_PORT` |
//! | Slurm (`srun`) | `SLURM_PROCID SLURM_NTASKS` | `SLURM_LOCALID` | or first of `SLURM_STEP_NODELIST`, port from `SLURM_JOB_ID` |
//! | Open MPI | `OMPI_COMM_WORLD_RANK _SIZE` | `OMPI_COMM_WORLD_LOCAL_RANK _LOCAL_SIZE` | or this machine, if all ranks are on it |
//! | MPICH and others | `PMI_RANK PMI_SIZE` | `MPI_LOCALRANKID MPI_LOCALNRANKS` | the same |

use crate::{Error, Result};

/// Port of rank 0 where the launcher names none; torchrun's.
const PORT: u16 = 29_500;

/// A process among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// This process, from 0.
    pub rank: usize,
    /// Processes in all.
    pub world: usize,
    /// This process among those on its machine, from 0.
    pub local_rank: usize,
    /// `HOST:PORT` at which rank 0 listens.
    pub master: String,
    /// Which launcher said so.
    pub launcher: &'static str,
}

/// Variables of one launcher.
struct Names {
    launcher: &'static str,
    rank: &'static str,
    world: &'static str,
    local_rank: &'static str,
    local_world: Option<&'static str>,
}

const LAUNCHERS: [Names; 4] = [
    Names {
        launcher: "torchrun",
        rank: "RANK",
        world: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
        local_world: Some("LOCAL_WORLD_SIZE"),
    },
    Names {
        launcher: "Slurm",
        rank: "SLURM_PROCID",
        world: "SLURM_NTASKS",
        local_rank: "SLURM_LOCALID",
        local_world: None,
    },
    Names {
        launcher: "Open MPI",
        rank: "OMPI_COMM_WORLD_RANK",
        world: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_world: Some("OMPI_COMM_WORLD_LOCAL_SIZE"),
    },
    Names {
        launcher: "PMI",
        rank: "PMI_RANK",
        world: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        local_world: Some("MPI_LOCALNRANKS"),
    },
];

/// Reads variables; says which one is at fault.
struct Vars<F>(F);

impl<F: Fn(&str) -> Option<String>> Vars<F> {
    fn text(&self, name: &str) -> Option<String> {
        (self.0)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn number(&self, name: &str) -> Result<Option<usize>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Error::Launch(format!("{name} is `{text}`, expected a whole number"))),
        }
    }
}

impl Launch {
    /// From the variables that `get` reads, usually `std::env::var`.
    pub fn from_vars(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let vars = Vars(get);
        for names in LAUNCHERS {
            // A Slurm batch script has a rank and a size of its own; only `srun` makes steps with one process per rank.
            if names.launcher == "Slurm" && vars.text("SLURM_STEP_ID").is_none() {
                continue;
            }
            let (rank, world) = (vars.number(names.rank)?, vars.number(names.world)?);
            match (rank, world) {
                (None, None) => {}
                (Some(rank), Some(world)) => return Self::of(&vars, &names, rank, world).map(Some),
                (rank, _) => {
                    let (there, missing) =
                        if rank.is_some() { (names.rank, names.world) } else { (names.world, names.rank) };
                    return Err(Error::Launch(format!(
                        "{there} is set and {missing} is not: set both as {} does, or neither to run alone",
                        names.launcher
                    )));
                }
            }
        }
        Ok(None)
    }

    fn of<F: Fn(&str) -> Option<String>>(vars: &Vars<F>, names: &Names, rank: usize, world: usize) -> Result<Self> {
        if rank >= world {
            let what = format!("{} is {rank}, expected below {} = {world}", names.rank, names.world);
            return Err(Error::Launch(what));
        }
        let local_rank = vars.number(names.local_rank)?.unwrap_or(rank);
        let local_world = names.local_world.map(|name| vars.number(name)).transpose()?.flatten();
        let host = match vars.text("MASTER_ADDR") {
            Some(host) => host,
            None => Self::host(vars, names, world, local_world)?,
        };
        let port = match vars.number("MASTER_PORT")? {
            Some(port) => {
                u16::try_from(port).map_err(|_| Error::Launch(format!("MASTER_PORT is {port}, expected 1 to 65535")))?
            }
            None if names.launcher == "torchrun" && world > 1 => return Err(missing("MASTER_PORT", names)),
            None => Self::port(vars)?,
        };
        // An IPv6 address needs its brackets.
        let master = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok(Self { rank, world, local_rank, master, launcher: names.launcher })
    }

    /// Where rank 0 is if nobody says so.
    fn host<F: Fn(&str) -> Option<String>>(
        vars: &Vars<F>,
        names: &Names,
        world: usize,
        local_world: Option<usize>,
    ) -> Result<String> {
        let nodes = ["SLURM_STEP_NODELIST", "SLURM_NODELIST"].into_iter().find_map(|name| vars.text(name));
        match nodes {
            Some(nodes) if names.launcher == "Slurm" => first_node(&nodes),
            _ if world == 1 || (names.launcher != "torchrun" && local_world == Some(world)) => Ok("127.0.0.1".into()),
            _ => Err(missing("MASTER_ADDR", names)),
        }
    }

    /// A port that two jobs on one machine are unlikely to share.
    fn port<F: Fn(&str) -> Option<String>>(vars: &Vars<F>) -> Result<u16> {
        Ok(vars.number("SLURM_JOB_ID")?.map_or(PORT, |job| 20_000 + (job % 20_000) as u16))
    }
}

fn missing(name: &str, names: &Names) -> Error {
    let launcher = names.launcher;
    Error::Launch(format!(
        "{name} is not set, and {launcher} does not say where rank 0 is: export {name} on every rank"
    ))
}

/// The first host of a Slurm list: `gpu[03-07,9],login` is `gpu03`.
fn first_node(list: &str) -> Result<String> {
    let head = &list[..list.find(',').unwrap_or(list.len())];
    let Some((prefix, inside)) = head.split_once('[') else { return Ok(head.to_owned()) };
    let number = inside.split(['-', ',', ']']).next().unwrap_or_default();
    // What follows the bracket belongs to the name, as in `rack[1-2]node3`.
    let after = list.split_once(']').map(|(_, rest)| &rest[..rest.find(',').unwrap_or(rest.len())]);
    match after {
        Some(after) if !number.is_empty() && !after.contains('[') => Ok(format!("{prefix}{number}{after}")),
        _ => Err(Error::Launch(format!("cannot read the list of nodes `{list}`: export MASTER_ADDR on every rank"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(vars: &[(&str, &str)]) -> Result<Option<Launch>> {
        Launch::from_vars(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    fn found(vars: &[(&str, &str)]) -> (usize, usize, usize, String, &'static str) {
        let l = launch(vars).unwrap().unwrap();
        (l.rank, l.world, l.local_rank, l.master, l.launcher)
    }

    const TORCHRUN: [(&str, &str); 5] =
        [("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "4000")];

    #[test]
    fn each_launcher_is_understood() {
        assert_eq!(found(&TORCHRUN), (5, 8, 1, "10.0.0.1:4000".into(), "torchrun"));
        let slurm = [
            ("SLURM_STEP_ID", "0"),
            ("SLURM_PROCID", "3"),
            ("SLURM_NTASKS", "4"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_JOB_ID", "70123"),
            ("SLURM_NODELIST", "gpu[03-07,9],login"),
        ];
        assert_eq!(found(&slurm), (3, 4, 1, "gpu03:30123".into(), "Slurm"));
        let open_mpi = [
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ];
        assert_eq!(found(&open_mpi), (1, 2, 1, "127.0.0.1:29500".into(), "Open MPI"));
        let pmi = [("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("MASTER_ADDR", "::1"), ("MASTER_PORT", " 77 ")];
        assert_eq!(found(&pmi), (0, 2, 0, "[::1]:77".into(), "PMI"));
        assert_eq!(launch(&[]).unwrap(), None);
    }

    #[test]
    fn torchrun_comes_before_slurm_and_a_batch_script_is_no_rank() {
        let both = [&TORCHRUN[..], &[("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1")]].concat();
        assert_eq!(found(&both).4, "torchrun");
        assert_eq!(launch(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")]).unwrap(), None);
    }

    #[test]
    fn half_a_set_and_numbers_that_cannot_be_are_named() {
        let without = |name: &str| TORCHRUN.iter().copied().filter(|(n, _)| *n != name).collect::<Vec<_>>();
        let with = |name: &'static str, value: &'static str| [without(name), vec![(name, value)]].concat();
        for (vars, word) in [
            (without("WORLD_SIZE"), "WORLD_SIZE is not"),
            (without("RANK"), "RANK is not"),
            (without("MASTER_ADDR"), "MASTER_ADDR is not set"),
            (without("MASTER_PORT"), "MASTER_PORT is not set"),
            (with("RANK", "8"), "expected below WORLD_SIZE = 8"),
            (with("RANK", "-1"), "RANK is `-1`"),
            (with("MASTER_PORT", "70000"), "MASTER_PORT is 70000"),
            (vec![("PMI_RANK", "0"), ("PMI_SIZE", "2")], "MASTER_ADDR is not set"),
        ] {
            let error = launch(&vars).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn the_first_node_of_a_list_is_read() {
        for (list, first) in
            [("a1", "a1"), ("a1,b2", "a1"), ("n[1-3]", "n1"), ("n[007,9],m", "n007"), ("r[1-2]n3,x", "r1n3")]
        {
            assert_eq!(first_node(list).unwrap(), first, "{list}");
        }
        assert!(first_node("a[1]b[2]").is_err() && first_node("a[").is_err());
    }
}
