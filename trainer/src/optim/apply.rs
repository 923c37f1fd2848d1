//! One step of the chosen rule on every parameter.
//!
//! In: model, state, gradients, the step's rates. Out: the next model and state. All parameters are cut into chunks that
//! run side by side in one loop; the matrices of Muon follow one by one, each on all threads.

use super::muon::Muon;
use super::quantise::{BLOCK, SIGNED, UNSIGNED};
use super::rules::{self, Adam, Lion, Sgd};
use super::{OptimConfig, Rule, RuleConfig};
use crate::ops::{Scalar, view};
use crate::{Error, Model, Result};
use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use rayon::prelude::*;
use std::ops::Range;

/// Numbers per task; a multiple of the blocks of 8-bit state.
const CHUNK: usize = 1 << 14;
/// Matrices with fewer numbers keep 32-bit state, as in `bitsandbytes`.
pub const LEAST_QUANTISED: usize = 4096;

/// What a rule keeps for one parameter; tensors are shaped and typed like it.
#[derive(Clone, Debug)]
pub enum Slot {
    /// Nothing.
    Empty,
    /// Running mean or sum of gradients.
    Momentum(Tensor),
    /// Running means of gradients and of their squares.
    Moments {
        /// Of gradients.
        m: Tensor,
        /// Of squared gradients.
        v: Tensor,
    },
    /// The same in 8 bits.
    Moments8 {
        /// Of gradients, in the signed table.
        m: Blocks,
        /// Of squared gradients, in the unsigned table.
        v: Blocks,
    },
}

/// Numbers of one parameter in 8 bits.
#[derive(Clone, Debug)]
pub struct Blocks {
    /// `[n]` u8, one per number.
    pub codes: Tensor,
    /// `[ceil(n / 256)]` f32, largest magnitude of each block.
    pub scales: Tensor,
}

/// Numbers of one step that schedules decide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Learning rate.
    pub lr: f64,
    /// Factor of `weight_decay`; 1 without a schedule.
    pub weight_decay_share: f64,
}

impl Rates {
    /// This learning rate and full weight decay.
    pub fn of(lr: f64) -> Self {
        Self { lr, weight_decay_share: 1.0 }
    }
}

/// How one parameter is treated.
#[derive(Clone, Copy, PartialEq)]
enum Treatment {
    Adam,
    Adam8,
    Muon,
    Lion,
    Sgd,
}

impl Treatment {
    fn of(rule: &RuleConfig, name: &str, tensor: &Tensor) -> Self {
        let matrix = tensor.rank() == 2 && !is_lookup(name);
        let small = rule.state_bits == Some(8) && matrix && tensor.elem_count() >= LEAST_QUANTISED;
        match rule.optimizer {
            Rule::Lion => Self::Lion,
            Rule::Sgd => Self::Sgd,
            Rule::Muon if matrix => Self::Muon,
            Rule::Adamw | Rule::Muon if small => Self::Adam8,
            Rule::Adamw | Rule::Muon => Self::Adam,
        }
    }
}

/// Whether a matrix has a row per token or position: embeddings and the output, by Hugging Face name.
fn is_lookup(name: &str) -> bool {
    ["embed", "lm_head", "wte", "wpe"].iter().any(|part| name.contains(part))
}

/// State before the first step.
pub fn zeros<T: Scalar>(rule: &RuleConfig, model: &Model<T>) -> Result<Vec<Slot>> {
    let slot = |(name, tensor): (&str, &Tensor)| -> Result<Slot> {
        let blocks = || -> Result<Blocks> {
            let n = tensor.elem_count();
            let codes = Tensor::zeros(n, DType::U8, &Device::Cpu)?;
            Ok(Blocks { codes, scales: Tensor::zeros(n.div_ceil(BLOCK), DType::F32, &Device::Cpu)? })
        };
        Ok(match Treatment::of(rule, name, tensor) {
            Treatment::Adam => Slot::Moments { m: tensor.zeros_like()?, v: tensor.zeros_like()? },
            Treatment::Adam8 => Slot::Moments8 { m: blocks()?, v: blocks()? },
            Treatment::Sgd if rule.momentum == Some(0.0) => Slot::Empty,
            Treatment::Muon | Treatment::Lion | Treatment::Sgd => Slot::Momentum(tensor.zeros_like()?),
        })
    };
    model.params().map(slot).collect()
}

/// Numbers of one parameter while it changes.
struct Work<T> {
    w: Vec<T>,
    m: Vec<T>,
    v: Vec<T>,
    codes: [Vec<u8>; 2],
    scales: [Vec<f32>; 2],
}

impl<T: Scalar> Work<T> {
    fn load(w: &[T], slot: &Slot) -> Result<Self> {
        let numbers = |t: &Tensor| Ok::<_, Error>(view::<T>(t)?.to_vec());
        let scales = |t: &Tensor| Ok::<_, Error>(view::<f32>(t)?.to_vec());
        let (m, v, codes) = (Vec::new(), Vec::new(), Default::default());
        let mut work = Self { w: w.to_vec(), m, v, codes, scales: Default::default() };
        match slot {
            Slot::Empty => {}
            Slot::Momentum(m) => work.m = numbers(m)?,
            Slot::Moments { m, v } => (work.m, work.v) = (numbers(m)?, numbers(v)?),
            Slot::Moments8 { m, v } => {
                work.codes = [bytes(&m.codes)?, bytes(&v.codes)?];
                work.scales = [scales(&m.scales)?, scales(&v.scales)?];
            }
        }
        Ok(work)
    }

    fn store(self, like: &Tensor, slot: &Slot) -> Result<(Tensor, Slot)> {
        let wrap = |data: Vec<T>| Tensor::from_vec(data, like.dims(), &Device::Cpu);
        let [m8, v8] = self.codes;
        let [m_scales, v_scales] = self.scales;
        let blocks = |codes: Vec<u8>, scales: Vec<f32>| -> Result<Blocks> {
            let (n, blocks) = (codes.len(), scales.len());
            let codes = Tensor::from_vec(codes, n, &Device::Cpu)?;
            Ok(Blocks { codes, scales: Tensor::from_vec(scales, blocks, &Device::Cpu)? })
        };
        let next = match slot {
            Slot::Empty => Slot::Empty,
            Slot::Momentum(_) => Slot::Momentum(wrap(self.m)?),
            Slot::Moments { .. } => Slot::Moments { m: wrap(self.m)?, v: wrap(self.v)? },
            Slot::Moments8 { .. } => Slot::Moments8 { m: blocks(m8, m_scales)?, v: blocks(v8, v_scales)? },
        };
        Ok((wrap(self.w)?, next))
    }
}

fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::U8(data)), Some((start, end))) => Ok(data[start..end].to_vec()),
        _ => Err(Error::Format("expected a contiguous u8 tensor on the CPU".into())),
    }
}

/// One chunk of one parameter.
enum Job<'a, T> {
    Adam(Adam<T>, &'a [T], &'a mut [T], &'a mut [T], &'a mut [T]),
    Adam8(Adam<T>, &'a [T], &'a mut [T], [&'a mut [u8]; 2], [&'a mut [f32]; 2]),
    Lion(Lion<T>, &'a [T], &'a mut [T], &'a mut [T]),
    Sgd(Sgd<T>, &'a [T], &'a mut [T], Option<&'a mut [T]>),
}

impl<T: Scalar> Job<'_, T> {
    fn run(self) {
        match self {
            Self::Adam(rule, g, w, m, v) => rules::adam(rule, g, w, m, v),
            Self::Adam8(rule, g, w, codes, scales) => {
                let ([m_codes, v_codes], [m_scales, v_scales]) = (codes, scales);
                let (mut m, mut v) = (vec![T::ZERO; g.len()], vec![T::ZERO; g.len()]);
                SIGNED.decode(m_codes, m_scales, &mut m);
                UNSIGNED.decode(v_codes, v_scales, &mut v);
                rules::adam(rule, g, w, &mut m, &mut v);
                SIGNED.encode(&m, false, m_codes, m_scales);
                UNSIGNED.encode(&v, true, v_codes, v_scales);
            }
            Self::Lion(rule, g, w, m) => rules::lion(rule, g, w, m),
            Self::Sgd(rule, g, w, Some(m)) => rules::sgd(rule, g, w, m),
            Self::Sgd(rule, g, w, None) => rules::sgd(rule, g, w, &mut vec![T::ZERO; g.len()]),
        }
    }
}

/// The scalars of one step.
struct Step<'a> {
    optim: &'a OptimConfig,
    rule: &'a RuleConfig,
    clip: f64,
    rates: Rates,
    t: f64,
}

impl Step<'_> {
    fn decay(&self, tensor: &Tensor) -> f64 {
        if tensor.rank() > 1 { self.rates.lr * (self.optim.weight_decay * self.rates.weight_decay_share) } else { 0.0 }
    }

    fn betas(&self) -> [f64; 2] {
        [self.optim.beta1, self.optim.beta2]
    }

    fn jobs<'w, T: Scalar>(
        &self,
        how: Treatment,
        tensor: &Tensor,
        g: &'w [T],
        work: &'w mut Work<T>,
    ) -> Vec<Job<'w, T>> {
        let (clip, decay, lr) = (self.clip, self.decay(tensor), self.rates.lr);
        let chunks = g.chunks(CHUNK).zip(work.w.chunks_mut(CHUNK));
        let means = work.m.chunks_mut(CHUNK);
        match how {
            Treatment::Muon => Vec::new(),
            Treatment::Adam => {
                let rule = Adam::new(clip, decay, self.betas(), self.optim.eps, lr, self.t);
                let parts = chunks.zip(means.zip(work.v.chunks_mut(CHUNK)));
                parts.map(|((g, w), (m, v))| Job::Adam(rule, g, w, m, v)).collect()
            }
            Treatment::Adam8 => {
                let rule = Adam::new(clip, decay, self.betas(), self.optim.eps, lr, self.t);
                let [m, v] = &mut work.codes;
                let [m_scales, v_scales] = &mut work.scales;
                let codes = m.chunks_mut(CHUNK).zip(v.chunks_mut(CHUNK));
                let scales = m_scales.chunks_mut(CHUNK / BLOCK).zip(v_scales.chunks_mut(CHUNK / BLOCK));
                let parts = chunks.zip(codes.zip(scales));
                parts.map(|((g, w), (codes, scales))| Job::Adam8(rule, g, w, codes.into(), scales.into())).collect()
            }
            Treatment::Lion => {
                let rule = Lion::new(clip, decay, self.betas(), lr);
                chunks.zip(means).map(|((g, w), m)| Job::Lion(rule, g, w, m)).collect()
            }
            Treatment::Sgd => {
                let momentum = self.rule.momentum.unwrap_or(0.9);
                let rule = Sgd::new(clip, decay, momentum, self.rule.nesterov.unwrap_or(false), lr);
                let means = means.map(Some).chain(std::iter::repeat_with(|| None));
                chunks.zip(means).map(|((g, w), m)| Job::Sgd(rule, g, w, m)).collect()
            }
        }
    }

    fn muon<T: Scalar>(&self, tensor: &Tensor, g: &[T], work: &mut Work<T>) {
        let rule = Muon {
            clip: self.clip,
            decay: self.decay(tensor),
            momentum: self.rule.momentum.unwrap_or(0.95),
            nesterov: self.rule.nesterov.unwrap_or(true),
            iterations: self.rule.newton_schulz_steps.unwrap_or(5),
            scale: self.rule.muon_scale.unwrap_or_default(),
            lr: self.rates.lr * self.rule.muon_lr_share.unwrap_or(1.0),
        };
        let (rows, cols) = tensor.dims2().expect("two axes because only matrices are treated so");
        rule.update(g, &mut work.w, &mut work.m, rows, cols);
    }
}

/// The next model and state. `step` counts from 0; the gradient is scaled to `clip_norm` if its norm `grad_norm` is larger.
/// Elements of one parameter get the same arithmetic in any split; bits do not depend on threads.
#[allow(clippy::too_many_arguments)] // everything that a step is a function of
pub fn apply<T: Scalar>(
    optim: &OptimConfig,
    rule: &RuleConfig,
    model: &Model<T>,
    state: &[Slot],
    gradients: &[Vec<T>],
    grad_norm: f64,
    rates: Rates,
    step: u64,
) -> Result<(Model<T>, Vec<Slot>)> {
    let all = 0..state.len();
    let (weights, state) = apply_to(all, optim, rule, model, state, gradients, grad_norm, rates, step)?;
    Ok((model.with_tensors(weights)?, state))
}

/// The same for a range of parameters: their new weights, and the state of all with only theirs changed. `gradients` holds
/// those of the range.
#[allow(clippy::too_many_arguments)] // as above
pub(crate) fn apply_to<T: Scalar>(
    owned: Range<usize>,
    optim: &OptimConfig,
    rule: &RuleConfig,
    model: &Model<T>,
    state: &[Slot],
    gradients: &[Vec<T>],
    grad_norm: f64,
    rates: Rates,
    step: u64,
) -> Result<(Vec<Tensor>, Vec<Slot>)> {
    let clip = if optim.clip_norm > 0.0 { (optim.clip_norm / (grad_norm + 1e-6)).min(1.0) } else { 1.0 };
    let step = Step { optim, rule, clip, rates, t: (step + 1) as f64 };
    let (names, tensors) = (&model.names()[owned.clone()], &model.tensors()[owned.clone()]);
    let hows: Vec<Treatment> = names.iter().zip(tensors).map(|(name, t)| Treatment::of(rule, name, t)).collect();
    let load = |i: usize| Work::load(&model.slice(i), &state[i]);
    let mut works = owned.clone().into_par_iter().map(load).collect::<Result<Vec<_>>>()?;
    let parts = works.iter_mut().zip(gradients).zip(&hows).zip(tensors);
    let jobs: Vec<Job<T>> = parts.flat_map(|(((work, g), how), tensor)| step.jobs(*how, tensor, g, work)).collect();
    jobs.into_par_iter().for_each(Job::run);
    let muon = |i: &usize| hows[*i] == Treatment::Muon && !gradients[*i].is_empty();
    for (i, work) in works.iter_mut().enumerate().filter(|(i, _)| muon(i)) {
        step.muon(&tensors[i], &gradients[i], work);
    }
    let (mut weights, mut next) = (Vec::new(), state.to_vec());
    for ((work, tensor), i) in works.into_iter().zip(tensors).zip(owned) {
        let (w, slot) = work.store(tensor, &state[i])?;
        weights.push(w);
        next[i] = slot;
    }
    Ok((weights, next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelConfig;
    use crate::rng::Key;

    fn model() -> Model {
        let sizes = ModelConfig { vocab_size: 90, n_layer: 1, n_embd: 96, n_ffn: 200, ..ModelConfig::default() };
        Model::init(sizes, 3).unwrap()
    }

    fn run(rule: &RuleConfig, threads: usize) -> (Model, Vec<Slot>) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut model = model();
            let mut state = zeros(rule, &model).unwrap();
            for step in 0..4 {
                let gradients: Vec<Vec<f32>> = (0..state.len())
                    .map(|i| {
                        let key = Key::new(step).fold(i as u64);
                        (0..model.slice(i).len() as u64).map(|j| key.normal(j) as f32).collect()
                    })
                    .collect();
                (model, state) =
                    apply(&OptimConfig::default(), rule, &model, &state, &gradients, 9.0, Rates::of(1e-2), step)
                        .unwrap();
            }
            (model, state)
        })
    }

    fn weights(model: &Model) -> Vec<Vec<f32>> {
        (0..model.tensors().len()).map(|i| model.slice(i).to_vec()).collect()
    }

    fn rules() -> Vec<RuleConfig> {
        let of = |optimizer| RuleConfig { optimizer, ..RuleConfig::default() };
        vec![
            of(Rule::Adamw),
            of(Rule::Muon),
            of(Rule::Lion),
            of(Rule::Sgd),
            RuleConfig { momentum: Some(0.0), ..of(Rule::Sgd) },
            RuleConfig { state_bits: Some(8), ..of(Rule::Adamw) },
        ]
    }

    #[test]
    fn threads_change_no_bit_and_every_parameter_moves() {
        let start = weights(&model());
        for rule in rules() {
            let reference = weights(&run(&rule, 1).0);
            assert!([2, 5].into_iter().all(|threads| weights(&run(&rule, threads).0) == reference), "{rule:?}");
            for (name, (a, b)) in model().names().iter().zip(start.iter().zip(&reference)) {
                assert!(a.iter().zip(b).any(|(a, b)| a != b) && b.iter().all(|x| x.is_finite()), "{rule:?} {name}");
            }
        }
    }

    #[test]
    fn embeddings_and_norms_of_muon_move_as_under_adamw_and_matrices_do_not() {
        let (muon, state) = run(&rules()[1], 1);
        let (adamw, _) = run(&rules()[0], 1);
        for (i, name) in muon.names().iter().enumerate() {
            let matrix = name.contains("proj");
            assert_eq!(muon.slice(i).to_vec() == adamw.slice(i).to_vec(), !matrix, "{name}");
            assert_eq!(matches!(state[i], Slot::Momentum(_)), matrix, "{name}");
        }
    }

    #[test]
    fn eight_bits_stay_near_thirty_two_and_hold_only_large_hidden_matrices() {
        let (eight, state) = run(&rules()[5], 1);
        let (full, _) = run(&rules()[0], 1);
        let start = model();
        for (i, name) in full.names().iter().enumerate() {
            let large = name.contains("proj") && full.slice(i).len() >= LEAST_QUANTISED;
            assert_eq!(matches!(state[i], Slot::Moments8 { .. }), large, "{name}");
            let norm = |a: &Model, b: &Model| {
                let (a, b) = (a.slice(i), b.slice(i));
                a.iter().zip(b.iter()).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
            };
            let share = norm(&eight, &full) / norm(&full, &start);
            assert!(if large { share > 0.0 && share < 0.05 } else { share == 0.0 }, "{name}: {share}");
        }
    }

    #[test]
    fn a_share_of_zero_switches_weight_decay_off() {
        let model = model();
        let state = zeros(&RuleConfig::default(), &model).unwrap();
        let gradients: Vec<Vec<f32>> = model.tensors().iter().map(|t| vec![0.0; t.elem_count()]).collect();
        let step = |weight_decay_share| {
            let rates = Rates { lr: 0.1, weight_decay_share };
            let rule = RuleConfig::default();
            apply(&OptimConfig::default(), &rule, &model, &state, &gradients, 0.0, rates, 0).unwrap().0
        };
        assert_eq!(weights(&step(0.0)), weights(&model));
        assert!((step(0.5).slice(0)[0] - model.slice(0)[0] * (1.0 - 0.1 * 0.05)).abs() < 1e-8);
    }
}
