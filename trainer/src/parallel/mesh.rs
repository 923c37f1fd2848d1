//! Ranks as points of a mesh: data, pipeline, context and tensor parallelism.
//!
//! In: the size of each axis. Out: coordinates of a rank, rank of coordinates, the ranks that share all but one. Tensor-parallel
//! peers are neighbours (they talk most), then context, then data, then pipeline: `rank = ((pp * DP + dp) * CP + cp) * TP + tp`. Expert
//! parallelism is laid over the points of data and context of one stage, in runs of `ep`.

use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Sizes of the axes; all at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// Data parallel.
    pub dp: usize,
    /// Pipeline stages.
    pub pp: usize,
    /// Context parallel.
    pub cp: usize,
    /// Tensor (and sequence) parallel.
    pub tp: usize,
    /// Expert parallel; divides `dp * cp`.
    pub ep: usize,
}

/// A direction to split a mesh along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Replicas that see other samples.
    Dp,
    /// Stages of one replica.
    Pp,
    /// Ranks that share the positions of a row.
    Cp,
    /// Ranks that share matrices.
    Tp,
    /// Ranks that hold other experts.
    Ep,
    /// All that hold the same weights: data and context together.
    DpCp,
}

/// Where a rank is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coordinate {
    /// Data parallel.
    pub dp: usize,
    /// Pipeline stage.
    pub pp: usize,
    /// Context parallel.
    pub cp: usize,
    /// Tensor parallel.
    pub tp: usize,
}

impl Default for Mesh {
    fn default() -> Self {
        Self { dp: 1, pp: 1, cp: 1, tp: 1, ep: 1 }
    }
}

impl Mesh {
    /// Ranks in all.
    pub fn size(&self) -> usize {
        self.dp * self.pp * self.cp * self.tp
    }

    /// Ok if every axis has a rank and `ep` fits.
    pub fn check(&self) -> Result<()> {
        let fault = |what: &str| Err(Error::Config { field: "mesh", got: self.to_string(), expected: what.to_owned() });
        let axes = [self.dp, self.pp, self.cp, self.tp, self.ep];
        if axes.contains(&0) || axes.iter().try_fold(1_usize, |all, axis| all.checked_mul(*axis)).is_none() {
            return fault("expected every axis to be at least 1");
        }
        if !(self.dp * self.cp).is_multiple_of(self.ep) {
            return fault("expected ep to divide dp * cp");
        }
        Ok(())
    }

    /// Where `rank` (below [`Mesh::size`]) is.
    pub fn coordinate(&self, rank: usize) -> Coordinate {
        Coordinate {
            tp: rank % self.tp,
            cp: rank / self.tp % self.cp,
            dp: rank / (self.tp * self.cp) % self.dp,
            pp: rank / (self.tp * self.cp * self.dp),
        }
    }

    /// The rank at a point.
    pub fn rank(&self, at: Coordinate) -> usize {
        ((at.pp * self.dp + at.dp) * self.cp + at.cp) * self.tp + at.tp
    }

    /// Ranks of the group of `rank` along `axis`, in the order of their coordinate.
    pub fn group(&self, axis: Axis, rank: usize) -> Vec<usize> {
        let at = self.coordinate(rank);
        // Data and context as one line, in the order of ranks.
        let lined = |line: usize| self.rank(Coordinate { dp: line / self.cp, cp: line % self.cp, ..at });
        match axis {
            Axis::Dp => (0..self.dp).map(|dp| self.rank(Coordinate { dp, ..at })).collect(),
            Axis::Pp => (0..self.pp).map(|pp| self.rank(Coordinate { pp, ..at })).collect(),
            Axis::Cp => (0..self.cp).map(|cp| self.rank(Coordinate { cp, ..at })).collect(),
            Axis::Tp => (0..self.tp).map(|tp| self.rank(Coordinate { tp, ..at })).collect(),
            Axis::DpCp => (0..self.dp * self.cp).map(lined).collect(),
            Axis::Ep => {
                let first = (at.dp * self.cp + at.cp) / self.ep * self.ep;
                (first..first + self.ep).map(lined).collect()
            }
        }
    }
}

impl fmt::Display for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes = [("dp", self.dp), ("tp", self.tp), ("pp", self.pp), ("cp", self.cp), ("ep", self.ep)];
        let named: Vec<String> = axes.iter().filter(|(_, n)| *n != 1).map(|(name, n)| format!("{name}{n}")).collect();
        f.write_str(&if named.is_empty() { "dp1".to_owned() } else { named.join(" ") })
    }
}

impl FromStr for Mesh {
    type Err = Error;

    /// `dp2 tp2 pp3`: axes in any order, separated by blanks, commas, `x` or a middle dot; those left out are 1.
    fn from_str(text: &str) -> Result<Self> {
        let mut mesh = Self::default();
        let mut seen = Vec::new();
        let fault =
            |expected: &str| Error::Config { field: "mesh", got: text.to_owned(), expected: expected.to_owned() };
        for part in text.split([' ', ',', 'x', '·']).filter(|part| !part.is_empty()) {
            let (name, size) = part.split_at(part.find(|c: char| c.is_ascii_digit()).unwrap_or(part.len()));
            let axis = match name {
                "dp" => &mut mesh.dp,
                "pp" => &mut mesh.pp,
                "cp" => &mut mesh.cp,
                "tp" => &mut mesh.tp,
                "ep" => &mut mesh.ep,
                _ => return Err(fault("expected axes dp, tp, pp, cp or ep with a size, as in `dp2 tp2`")),
            };
            *axis = size.parse().map_err(|_| fault("expected a size behind each axis, as in `dp2 tp2`"))?;
            if seen.contains(&name) {
                return Err(fault("expected each axis once"));
            }
            seen.push(name);
        }
        mesh.check()?;
        Ok(mesh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_has_its_own_point_and_groups_cover_all_ranks_once() {
        let mesh = Mesh { dp: 2, pp: 3, cp: 2, tp: 2, ep: 4 };
        mesh.check().unwrap();
        for rank in 0..mesh.size() {
            assert_eq!(mesh.rank(mesh.coordinate(rank)), rank);
        }
        for (axis, size) in [(Axis::Dp, 2), (Axis::Pp, 3), (Axis::Cp, 2), (Axis::Tp, 2), (Axis::Ep, 4), (Axis::DpCp, 4)]
        {
            let mut groups: Vec<Vec<usize>> = (0..mesh.size()).map(|rank| mesh.group(axis, rank)).collect();
            for (rank, group) in groups.iter().enumerate() {
                assert!(group.len() == size && group.contains(&rank) && group.is_sorted(), "{axis:?} {rank}");
            }
            groups.sort();
            groups.dedup();
            let mut all = groups.concat();
            all.sort_unstable();
            assert_eq!(all, (0..mesh.size()).collect::<Vec<_>>(), "{axis:?}");
        }
    }

    #[test]
    fn tensor_peers_are_neighbours_and_stages_are_far_apart() {
        let mesh: Mesh = "dp2·tp2·pp2".parse().unwrap();
        assert_eq!(mesh.group(Axis::Tp, 5), [4, 5]);
        assert_eq!(mesh.group(Axis::Dp, 5), [5, 7]);
        assert_eq!(mesh.group(Axis::Pp, 5), [1, 5]);
        let mesh: Mesh = "dp2 x cp2 x ep2".parse().unwrap();
        assert_eq!(mesh.group(Axis::Ep, 3), [2, 3]);
    }

    #[test]
    fn what_is_written_is_read_back_and_nonsense_is_refused() {
        for text in ["dp2 tp2 pp3", "dp1", "cp4"] {
            assert_eq!(text.parse::<Mesh>().unwrap().to_string(), text);
        }
        assert_eq!("".parse::<Mesh>().unwrap().size(), 1);
        for bad in ["dp", "dp2 dp2", "xp2", "dp0", "dp2 ep3", "2dp", "dp99999999999999999999"] {
            assert!(bad.parse::<Mesh>().is_err(), "{bad}");
        }
    }
}
