//! Which rank of a mesh holds what: blocks by stage, parts of matrices by tensor-parallel rank, parameters by data-parallel rank.
//!
//! In: a model's configuration and a mesh. Out: answers that every rank computes alike, for itself and for others. Names and
//! canonical indices are those of the whole model everywhere; a tensor that is not here is empty, one that is cut is smaller.
//!
//! | parameter | tensor-parallel rank `r` of `tp` holds |
//! |---|---|
//! | embedding, output `[v, c]` | rows of its run of the vocabulary |
//! | q, k, v `[heads d, c]`, gate, up `[f, c]`, their biases | rows of its heads, its run of `f` |
//! | o `[c, heads d]`, down `[c, f]` | the columns that match |
//! | norms, biases of the stream, positions | all of it |
//!
//! Runs are as equal as whole numbers allow. With ZeRO each data-parallel rank of a stage owns whole parameters, as `team` does.

use super::mesh::{Coordinate, Mesh};
use super::team::even_shares;
use crate::family::QkNorm;
use crate::layout::{self, Layout};
use crate::ops::{Scalar, view};
use crate::{Error, Model, ModelConfig, Result};
use candle_core::{Device, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// How tensor-parallel ranks share a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Each has all of it.
    Whole,
    /// A run of its rows (of its numbers, if it has one axis).
    Rows,
    /// A run of its columns.
    Columns,
}

impl Cut {
    /// Of the parameter of this name.
    pub fn of(name: &str) -> Self {
        let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        if has(&["o_proj.weight", "down_proj.weight"]) {
            Self::Columns
        } else if has(&["embed_tokens", "lm_head", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"]) {
            Self::Rows
        } else {
            Self::Whole
        }
    }
}

/// Run `i` of `n` things in `parts` runs.
pub(super) fn run(n: usize, parts: usize, i: usize) -> Range<usize> {
    let cut = |i: usize| n / parts * i + (n % parts).min(i);
    cut(i)..cut(i + 1)
}

/// A model divided over a mesh.
#[derive(Clone, Debug)]
pub struct Division {
    config: ModelConfig,
    mesh: Mesh,
    /// Runs of blocks per stage; more than one interleaves stages.
    pub(super) chunks: usize,
    /// ZeRO stage, 0 to 3.
    pub(super) zero: u8,
    parameters: Vec<(String, Vec<usize>)>,
    layout: Layout,
    held: Vec<Vec<bool>>,           // [pp][parameters]
    shares: Vec<Vec<Range<usize>>>, // [pp][dp]
}

impl Division {
    /// Ok if the mesh divides the model.
    pub fn new(config: &ModelConfig, mesh: Mesh, chunks: usize, zero: u8) -> Result<Self> {
        let fault = |field, got: usize, expected: String| Err(Error::Config { field, got: got.to_string(), expected });
        let Mesh { tp, pp, .. } = mesh;
        for (field, n) in [("n_head", config.n_head), ("n_kv_head", config.n_kv_head)] {
            if !n.is_multiple_of(tp) {
                return fault(field, n, format!("expected a multiple of the {tp} tensor-parallel ranks of the mesh"));
            }
        }
        for (field, n) in [("n_ffn", config.n_ffn), ("vocab_size", config.vocab_size)] {
            if n < tp {
                return fault(field, n, format!("expected one for each of {tp} tensor-parallel ranks"));
            }
        }
        if tp > 1 && config.family.qk_norm == QkNorm::Full {
            return fault("qk_norm", tp, "full norms run over all heads; with tensor parallelism use `head`".into());
        }
        if chunks == 0 || (chunks > 1 && pp == 1) || config.n_layer < pp * chunks {
            let what = format!("expected at least {pp} stages x {chunks} chunks, and one chunk without stages");
            return fault("n_layer", config.n_layer, what);
        }
        if zero > 3 {
            return fault("zero", usize::from(zero), "expected 0 to 3".into());
        }
        let (parameters, layout) = (layout::parameters(config), Layout::new(config));
        let (config, held, shares) = (config.clone(), Vec::new(), Vec::new());
        let mut division = Self { config, mesh, chunks, zero, parameters, layout, held, shares };
        division.held = (0..pp).map(|pp| division.find_held(pp)).collect();
        for held in &division.held {
            let size = |(at, held): (usize, &bool)| if *held { division.parameters[at].1.iter().product() } else { 0 };
            let sizes: Vec<usize> = held.iter().enumerate().map(size).collect();
            division.shares.push(even_shares(&sizes, mesh.dp));
        }
        Ok(division)
    }

    /// Embedding, layers, head.
    fn n_blocks(&self) -> usize {
        self.config.n_layer + 2
    }

    /// Blocks of the `chunk`-th run of a stage: layers in equal runs, the embedding with the first, the head with the last.
    pub(super) fn blocks(&self, pp: usize, chunk: usize) -> Range<usize> {
        let (stages, at) = (self.mesh.pp * self.chunks, chunk * self.mesh.pp + pp);
        let layers = run(self.config.n_layer, stages, at);
        let start = if at == 0 { 0 } else { layers.start + 1 };
        let end = if at + 1 == stages { self.n_blocks() } else { layers.end + 1 };
        start..end
    }

    /// Canonical indices of the parameters that a block gives a gradient; a tied output's goes to the embedding.
    pub(super) fn own_of(&self, block: usize) -> Range<usize> {
        match block {
            0 => 0..self.layout.layer_at(0),
            b if b + 1 < self.n_blocks() => self.layout.layer_at(b - 1)..self.layout.layer_at(b),
            _ => self.layout.layer_at(self.config.n_layer)..self.parameters.len(),
        }
    }

    /// True if the block reads the embedding as its output projection.
    pub(super) fn is_tied(&self, block: usize) -> bool {
        self.config.tied && block + 1 == self.n_blocks()
    }

    /// Canonical indices of the parameters that a block reads.
    pub(super) fn read_by(&self, block: usize) -> Vec<usize> {
        self.is_tied(block).then_some(0).into_iter().chain(self.own_of(block)).collect()
    }

    /// True if a stage holds a second copy of the tied embedding, whose gradient is the first stage's.
    pub(super) fn is_copy(&self, pp: usize, at: usize) -> bool {
        self.config.tied && at == 0 && self.mesh.pp > 1 && pp + 1 == self.mesh.pp
    }

    /// Whether a stage has the parameter at canonical index `at`.
    pub(super) fn holds(&self, pp: usize, at: usize) -> bool {
        self.held[pp][at]
    }

    /// Parameters that each data-parallel rank of a stage owns.
    pub(super) fn shares(&self, pp: usize) -> &[Range<usize>] {
        &self.shares[pp]
    }

    fn find_held(&self, pp: usize) -> Vec<bool> {
        let mut held: Vec<bool> = (0..self.len()).map(|at| self.is_copy(pp, at)).collect();
        for block in (0..self.chunks).flat_map(|chunk| self.blocks(pp, chunk)) {
            held[self.own_of(block)].fill(true);
        }
        held
    }

    /// Whether this rank keeps optimizer state of a parameter.
    pub(super) fn owns(&self, rank: Coordinate, at: usize) -> bool {
        self.holds(rank.pp, at) && (self.zero == 0 || self.shares(rank.pp)[rank.dp].contains(&at))
    }

    /// Whether this rank names a parameter (or its part of it) when all are put together: one rank does for each part.
    pub(super) fn names(&self, rank: Coordinate, at: usize) -> bool {
        let part = self.cut(at) != Cut::Whole || rank.tp == 0;
        self.owns(rank, at) && part && (self.zero > 0 || rank.dp == 0) && !self.is_copy(rank.pp, at)
    }

    /// Parameters in all.
    pub(super) fn len(&self) -> usize {
        self.parameters.len()
    }

    /// How a parameter is cut on this mesh.
    pub(super) fn cut(&self, at: usize) -> Cut {
        if self.mesh.tp == 1 { Cut::Whole } else { Cut::of(&self.parameters[at].0) }
    }

    /// Shape of the part of a parameter on tensor-parallel rank `tp`, if its stage holds it.
    pub(super) fn dims(&self, at: usize, tp: usize) -> Vec<usize> {
        let mut dims = self.parameters[at].1.clone();
        let axis = match self.cut(at) {
            Cut::Whole => return dims,
            Cut::Rows => 0,
            Cut::Columns => 1,
        };
        dims[axis] = run(dims[axis], self.mesh.tp, tp).len();
        dims
    }

    /// The part of a whole parameter on tensor-parallel rank `tp`.
    pub(super) fn part_of(&self, whole: &Tensor, at: usize, tp: usize) -> Result<Tensor> {
        let axis = match self.cut(at) {
            Cut::Whole => return Ok(whole.clone()),
            Cut::Rows => 0,
            Cut::Columns => 1,
        };
        let run = run(whole.dims()[axis], self.mesh.tp, tp);
        Ok(whole.narrow(axis, run.start, run.len())?.contiguous()?)
    }

    /// A whole parameter from its parts in rank order (one part, if it is not cut).
    pub(super) fn join(&self, parts: &[Tensor], at: usize) -> Result<Tensor> {
        match self.cut(at) {
            Cut::Whole => Ok(parts[0].clone()),
            Cut::Rows => Ok(Tensor::cat(parts, 0)?),
            Cut::Columns => Ok(Tensor::cat(parts, 1)?.contiguous()?),
        }
    }

    /// A tensor of the type and rank of the parameter that holds nothing.
    pub(super) fn nothing<T: Scalar>(&self, at: usize) -> Result<Tensor> {
        let mut dims = self.parameters[at].1.clone();
        dims[0] = 0;
        Ok(Tensor::from_vec(Vec::<T>::new(), dims, &Device::Cpu)?)
    }

    /// This rank's part of a whole model; with ZeRO-3 that of the parameters it owns.
    pub(super) fn part_model<T: Scalar>(&self, whole: &Model<T>, rank: Coordinate) -> Result<Model<T>> {
        let here = |at: usize| if self.zero == 3 { self.owns(rank, at) } else { self.holds(rank.pp, at) };
        let part = |(at, tensor): (usize, &Tensor)| match here(at) {
            true => self.part_of(tensor, at, rank.tp),
            false => self.nothing::<T>(at),
        };
        let tensors = whole.tensors().iter().enumerate().map(part).collect::<Result<Vec<_>>>()?;
        Ok(Model::part(self.config.clone(), Arc::new(self.local(rank.tp)), tensors))
    }

    /// Sizes of what tensor-parallel rank `tp` computes.
    fn local(&self, tp: usize) -> ModelConfig {
        let (c, n) = (&self.config, self.mesh.tp);
        let mut local = c.clone();
        if n > 1 {
            (local.n_head, local.n_kv_head) = (c.n_head / n, c.n_kv_head / n);
            (local.n_ffn, local.vocab_size) = (run(c.n_ffn, n, tp).len(), run(c.vocab_size, n, tp).len());
            local.family.head_dim = Some(c.head_dim());
        }
        local
    }

    /// Micro-batches of one data-parallel rank in the order it takes them: as many slots for each rank, empty where there is none.
    /// The runs are aligned, so that sums are subtrees of the tree over all; from ZeRO-2 on in rounds of one run per rank.
    pub(super) fn slots(&self, dp: usize, micro: usize) -> Vec<Option<usize>> {
        let round = if self.zero < 2 { micro.max(1) } else { self.mesh.dp.next_power_of_two() };
        let run = self.run(micro);
        let slot = |round_at: usize, i: usize| {
            let end = micro.min((round_at + 1) * round);
            Some(round_at * round + dp * run + i).filter(|at| *at < end)
        };
        (0..micro.div_ceil(round)).flat_map(|r| (0..run).map(move |i| slot(r, i))).collect()
    }

    /// Micro-batches of a rank in one round.
    pub(super) fn run(&self, micro: usize) -> usize {
        let round = if self.zero < 2 { micro.max(1) } else { self.mesh.dp.next_power_of_two() };
        round.div_ceil(self.mesh.dp).next_power_of_two()
    }
}

/// The numbers of tensors, one after the other.
pub(super) fn numbers<'t, T: Scalar>(tensors: impl IntoIterator<Item = &'t Tensor>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for tensor in tensors {
        all.extend_from_slice(&view::<T>(tensor)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ModelConfig {
        ModelConfig {
            n_head: 12,
            n_kv_head: 6,
            n_layer: 6,
            n_embd: 48,
            n_ffn: 50,
            vocab_size: 41,
            ..ModelConfig::default()
        }
    }

    fn division(mesh: &str, chunks: usize, zero: u8) -> Result<Division> {
        Division::new(&config(), mesh.parse().unwrap(), chunks, zero)
    }

    #[test]
    fn one_rank_names_each_part_of_each_parameter() {
        for (mesh, chunks) in [("dp2", 1), ("tp3", 1), ("pp3", 2), ("dp2 tp2 pp2", 1), ("dp3 pp2", 3)] {
            for zero in 0..=3 {
                let d = division(mesh, chunks, zero).unwrap();
                let mesh: Mesh = mesh.parse().unwrap();
                for at in 0..d.len() {
                    let named: Vec<usize> = (0..mesh.size()).filter(|r| d.names(mesh.coordinate(*r), at)).collect();
                    let parts = if d.cut(at) == Cut::Whole { 1 } else { mesh.tp };
                    assert_eq!(named.len(), parts, "{mesh} zero {zero}: {}", d.parameters[at].0);
                }
            }
        }
    }

    #[test]
    fn parts_join_to_the_whole() {
        let whole = Model::init(config(), 1).unwrap();
        let d = division("tp3", 1, 0).unwrap();
        let mesh: Mesh = "tp3".parse().unwrap();
        let models: Vec<_> = (0..3).map(|r| d.part_model(&whole, mesh.coordinate(r)).unwrap()).collect();
        for (at, tensor) in whole.tensors().iter().enumerate() {
            let parts: Vec<Tensor> = models.iter().map(|m| m.tensors()[at].clone()).collect();
            assert!(parts.iter().enumerate().all(|(r, part)| part.dims() == d.dims(at, r)));
            let joined = d.join(&parts, at).unwrap();
            assert_eq!(numbers::<f32>([&joined]).unwrap(), numbers::<f32>([tensor]).unwrap());
        }
    }

    #[test]
    fn stages_hold_each_block_once_and_slots_each_micro_batch_once() {
        let d = division("dp3 pp2", 3, 2).unwrap();
        let mut all: Vec<usize> = (0..6).flat_map(|i| d.blocks(i % 2, i / 2)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..8).collect::<Vec<_>>());
        for (zero, n) in [(0, 7), (1, 1), (2, 7), (3, 12)] {
            let d = division("dp3", 1, zero).unwrap();
            let slots: Vec<_> = (0..3).map(|dp| d.slots(dp, n)).collect();
            assert!(slots.iter().all(|s| s.len() == slots[0].len()));
            let mut all: Vec<usize> = slots.concat().into_iter().flatten().collect();
            all.sort_unstable();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_mesh_that_does_not_divide_the_model_is_refused_by_the_field_at_fault() {
        for (mesh, chunks, zero, wrong) in
            [("tp4", 1, 0, "n_kv_head"), ("pp4", 2, 0, "n_layer"), ("tp5", 1, 0, "n_head"), ("dp2", 1, 4, "zero")]
        {
            assert!(
                matches!(division(mesh, chunks, zero), Err(Error::Config { field, .. }) if field == wrong),
                "{mesh}"
            );
        }
    }
}
