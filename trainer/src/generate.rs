//! One engine that continues prompts: for rollouts, evaluation and chat.
//!
//! In: a model, requests, sampling settings, a seed. Out: tokens with their log-probs. Requests share the machine by
//! continuous batching: a slot is refilled as soon as its sample stops. Equal prompts are run once and their keys and
//! values shared. Weights are the trainer's own; keys and values and their arithmetic are `decode`'s.
//!
//! Promises, each tested: a sample depends on (model, request, settings, seed) only, not on its batch mates, the number of
//! slots or threads; the log-prob of a token is that of the model's own distribution (before temperature, `top_k`,
//! `top_p` and bans), bit-equal to [`crate::tape::score`] on prompt and completion.

use crate::decode::{Extend, KvCache, extend};
use crate::ops::cross_entropy::row_stats;
use crate::rng::Key;
use crate::sample::draw;
use crate::{Error, Model, Result};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::ControlFlow;

pub use crate::sample::SampleConfig;

/// Samples that run at once unless said otherwise.
pub const SLOTS: usize = 64;

/// One sample to draw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Ids to continue; at least one.
    pub prompt: Vec<u32>,
    /// Names the prompt in the noise: equal keys and samples draw equal noise.
    pub key: u64,
    /// Number of the sample among those of its prompt.
    pub sample: u32,
    /// Tokens that end the completion; the one drawn is its last token.
    pub stop: Vec<u32>,
    /// Tokens that are never drawn.
    pub banned: Vec<u32>,
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token was drawn.
    Stop,
    /// `max_tokens` were drawn, or the row of `sequence_len` positions is full.
    Length,
}

/// What was drawn for one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Drawn ids, the stop token included.
    pub tokens: Vec<u32>,
    /// Log-probability of each under the untempered model, in nats.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
}

/// Completions of all requests, in their order, at most [`SLOTS`] at a time.
pub fn generate(model: &Model, requests: &[Request], cfg: &SampleConfig, seed: u64) -> Result<Vec<Completion>> {
    generate_in(model, requests, cfg, seed, SLOTS)
}

/// [`generate`] with at most `slots` samples at a time: more cost memory and save time, the result is the same.
pub fn generate_in(
    model: &Model,
    requests: &[Request],
    cfg: &SampleConfig,
    seed: u64,
    slots: usize,
) -> Result<Vec<Completion>> {
    let mut engine = Engine::new(model, requests, cfg, seed)?;
    let mut done: Vec<Option<Completion>> = vec![None; requests.len()];
    loop {
        engine.admit(slots.max(1))?;
        for (i, completion) in engine.retire() {
            done[i] = Some(completion);
        }
        if engine.active.is_empty() && engine.waiting.is_empty() {
            break;
        }
        engine.advance()?;
    }
    Ok(done
        .into_iter()
        .map(|c| c.expect("a request leaves the queue only for a slot, and a slot only when done"))
        .collect())
}

/// Completion of one request, the same as [`generate`]'s; `on_token` sees each id as it is drawn and may break off, which
/// ends the completion as [`Finish::Length`].
pub fn generate_stream(
    model: &Model,
    request: &Request,
    cfg: &SampleConfig,
    seed: u64,
    on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
) -> Result<Completion> {
    let mut engine = Engine::new(model, std::slice::from_ref(request), cfg, seed)?;
    engine.admit(1)?;
    let mut seen = 0;
    loop {
        for slot in &mut engine.active {
            for &token in &slot.tokens[seen..] {
                if on_token(token).is_break() {
                    slot.finish.get_or_insert(Finish::Length);
                }
            }
            seen = slot.tokens.len();
        }
        if let Some((_, completion)) = engine.retire().pop() {
            return Ok(completion);
        }
        engine.advance()?;
    }
}

/// A sample in flight.
struct Slot {
    request: usize,
    cache: KvCache,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    finish: Option<Finish>,
    key: Key,
}

/// A prompt that has been run, kept until its last request has a slot.
struct Prefilled {
    cache: KvCache,
    logits: Vec<f32>,
    users: usize,
}

struct Engine<'a> {
    model: &'a Model,
    requests: &'a [Request],
    cfg: &'a SampleConfig,
    seed: u64,
    /// Requests without a slot, next one last; equal prompts stand together.
    waiting: Vec<usize>,
    /// For each request the first one with the same prompt, and for that one the number of its users.
    group: Vec<usize>,
    users: Vec<usize>,
    prefilled: HashMap<usize, Prefilled>,
    active: Vec<Slot>,
}

impl<'a> Engine<'a> {
    fn new(model: &'a Model, requests: &'a [Request], cfg: &'a SampleConfig, seed: u64) -> Result<Self> {
        cfg.check()?;
        let (longest, vocab) = (model.config().sequence_len, model.config().vocab_size);
        let mut first: HashMap<&[u32], usize> = HashMap::new();
        let (mut group, mut users) = (Vec::new(), vec![0; requests.len()]);
        for (i, request) in requests.iter().enumerate() {
            if request.prompt.is_empty() || request.prompt.len() > longest {
                let got = format!("{} tokens in request {i}", request.prompt.len());
                let expected = format!("expected 1 to {longest}, the model's `sequence_len`");
                return Err(Error::Config { field: "prompt", got, expected });
            }
            if let Some(at) = request.prompt.iter().position(|&id| id as usize >= vocab) {
                let what = format!("id {} of request {i} is not below vocab_size {vocab}", request.prompt[at]);
                return Err(Error::Batch { what, at });
            }
            group.push(*first.entry(&request.prompt).or_insert(i));
            users[group[i]] += 1;
        }
        let mut waiting: Vec<usize> = (0..requests.len()).collect();
        waiting.sort_by_key(|&i| std::cmp::Reverse((group[i], i)));
        Ok(Self { model, requests, cfg, seed, waiting, group, users, prefilled: HashMap::new(), active: Vec::new() })
    }

    /// Fills free slots, runs the prompts that are new, and draws each newcomer's first token.
    fn admit(&mut self, slots: usize) -> Result<()> {
        let free = slots.saturating_sub(self.active.len()).min(self.waiting.len());
        let newcomers: Vec<usize> = self.waiting.drain(self.waiting.len() - free..).rev().collect();
        self.prefill(&newcomers)?;
        let mut logits = Vec::new();
        let known = self.active.len();
        for request in newcomers {
            let prompt = self.prefilled.get_mut(&self.group[request]).expect("`prefill` has run this prompt");
            prompt.users -= 1;
            logits.extend_from_slice(&prompt.logits);
            // The last user takes the cache itself, the others share its pages.
            let cache = if prompt.users == 0 { std::mem::take(&mut prompt.cache) } else { prompt.cache.clone() };
            self.active.push(self.slot(request, cache));
        }
        self.prefilled.retain(|_, prompt| prompt.users > 0);
        self.draw_from(known, &logits)
    }

    fn slot(&self, request: usize, cache: KvCache) -> Slot {
        let Request { key, sample, .. } = self.requests[request];
        let key = Key::new(self.seed).fold_str("generate").fold(key).fold(u64::from(sample));
        let finish = (self.room(request) == 0).then_some(Finish::Length);
        Slot { request, cache, tokens: Vec::new(), logprobs: Vec::new(), finish, key }
    }

    /// Most tokens that may be drawn: the last one is never fed back, so it needs no position.
    fn room(&self, request: usize) -> usize {
        self.cfg.max_tokens.min(self.model.config().sequence_len + 1 - self.requests[request].prompt.len())
    }

    fn prefill(&mut self, newcomers: &[usize]) -> Result<()> {
        let mut fresh: Vec<usize> = newcomers.iter().map(|&i| self.group[i]).collect();
        fresh.dedup();
        fresh.retain(|g| !self.prefilled.contains_key(g));
        let mut caches: Vec<KvCache> = fresh.iter().map(|_| KvCache::new()).collect();
        let sequences = fresh.iter().zip(&mut caches);
        let mut sequences: Vec<Extend<'_>> =
            sequences.map(|(&g, cache)| Extend { tokens: &self.requests[g].prompt, cache }).collect();
        if sequences.is_empty() {
            return Ok(());
        }
        let logits = extend(self.model, &mut sequences)?;
        let rows = logits.chunks(self.model.config().vocab_size);
        for ((g, cache), row) in fresh.into_iter().zip(caches).zip(rows) {
            self.prefilled.insert(g, Prefilled { cache, logits: row.to_vec(), users: self.users[g] });
        }
        Ok(())
    }

    /// Takes finished samples out of their slots.
    fn retire(&mut self) -> Vec<(usize, Completion)> {
        let (done, active) = std::mem::take(&mut self.active).into_iter().partition(|slot| slot.finish.is_some());
        self.active = active;
        let done: Vec<Slot> = done;
        done.into_iter()
            .filter_map(|slot| {
                let completion = Completion { tokens: slot.tokens, logprobs: slot.logprobs, finish: slot.finish? };
                Some((slot.request, completion))
            })
            .collect()
    }

    /// Feeds every active sample its last token and draws the next.
    fn advance(&mut self) -> Result<()> {
        let lasts: Vec<u32> = self.active.iter().map(|slot| slot.tokens[slot.tokens.len() - 1]).collect();
        let slots = self.active.iter_mut().zip(&lasts);
        let mut sequences: Vec<Extend<'_>> =
            slots.map(|(slot, last)| Extend { tokens: std::slice::from_ref(last), cache: &mut slot.cache }).collect();
        if sequences.is_empty() {
            return Ok(());
        }
        let logits = extend(self.model, &mut sequences)?;
        self.draw_from(0, &logits)
    }

    /// Draws a token for each slot from `first` on; `logits` has one row per such slot.
    fn draw_from(&mut self, first: usize, logits: &[f32]) -> Result<()> {
        let rooms: Vec<usize> = self.active[first..].iter().map(|slot| self.room(slot.request)).collect();
        let (requests, cfg, vocab) = (self.requests, self.cfg, self.model.config().vocab_size);
        let slots = self.active[first..].par_iter_mut().zip(logits.par_chunks(vocab)).zip(rooms);
        slots.filter(|((slot, _), _)| slot.finish.is_none()).try_for_each(|((slot, row), room)| {
            let request = &requests[slot.request];
            let position = (request.prompt.len() + slot.tokens.len()) as u64;
            let Some(token) = draw(row, cfg, &request.banned, slot.key.fold(position)) else {
                let got = format!("request {} at position {position}", slot.request);
                let expected = "expected finite logits and a token that is not banned".into();
                return Err(Error::Config { field: "sampling", got, expected });
            };
            slot.logprobs.push(row_stats(row, token)[0]);
            slot.tokens.push(token);
            if request.stop.contains(&token) {
                slot.finish = Some(Finish::Stop);
            } else if slot.tokens.len() >= room {
                slot.finish = Some(Finish::Length);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packing::pack;
    use crate::{ModelConfig, tape};

    /// Weights far from their start, so that distributions are uneven.
    fn model() -> Model {
        let config = ModelConfig {
            vocab_size: 61,
            n_layer: 2,
            n_embd: 32,
            n_ffn: 48,
            sequence_len: 160,
            ..ModelConfig::default()
        };
        let fresh = Model::init(config, 8).unwrap();
        let louder =
            fresh.tensors().iter().map(|t| if t.rank() == 2 { (t * 12.0).unwrap() } else { t.clone() }).collect();
        fresh.with_tensors(louder).unwrap()
    }

    fn requests() -> Vec<Request> {
        let prompt = |i: usize| (0..1 + (i * 29) % 90).map(|j| ((j * 7 + i) % 61) as u32).collect();
        let request = |i: usize| Request {
            prompt: prompt(i / 3),
            key: (i / 3) as u64,
            sample: (i % 3) as u32,
            stop: vec![5, 9],
            banned: if i.is_multiple_of(2) { vec![] } else { vec![11] },
        };
        (0..37).map(request).collect()
    }

    fn cfg() -> SampleConfig {
        SampleConfig { max_tokens: 80, ..SampleConfig::default() }
    }

    fn in_pool<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
    }

    #[test]
    fn a_sample_depends_on_no_batch_mate_slot_or_thread() {
        let (model, requests, cfg) = (model(), requests(), cfg());
        let all = in_pool(2, || generate(&model, &requests, &cfg, 3).unwrap());
        assert_eq!(in_pool(1, || generate(&model, &requests, &cfg, 3).unwrap()), all);
        assert_eq!(generate_in(&model, &requests, &cfg, 3, 5).unwrap(), all);
        for (request, completion) in requests.iter().zip(&all) {
            assert_eq!(&generate(&model, std::slice::from_ref(request), &cfg, 3).unwrap()[0], completion);
        }
        let mut reversed = requests.clone();
        reversed.reverse();
        let mut backwards = generate_in(&model, &reversed, &cfg, 3, 4).unwrap();
        backwards.reverse();
        assert_eq!(backwards, all);
        let lengths: std::collections::BTreeSet<usize> = all.iter().map(|c| c.tokens.len()).collect();
        assert!(lengths.len() > 5, "the samples should stop at many lengths: {lengths:?}");
        assert_ne!(generate(&model, &requests, &cfg, 4).unwrap(), all);
    }

    #[test]
    fn log_probs_are_those_of_the_trainer_bit_for_bit() {
        let (model, requests) = (model(), requests());
        for cfg in [cfg(), SampleConfig { temperature: 0.7, top_k: 20, top_p: 0.9, ..cfg() }] {
            let completions = generate(&model, &requests, &cfg, 3).unwrap();
            let sequences = requests.iter().zip(&completions).map(|(r, c)| {
                let ids = [r.prompt.clone(), c.tokens.clone()].concat();
                let mask = (0..ids.len()).map(|i| i >= r.prompt.len()).collect();
                (ids, mask)
            });
            let packing = pack(&sequences.collect::<Vec<_>>(), 160, 7).unwrap();
            let columns: Vec<Vec<f32>> =
                packing.batches.iter().map(|b| tape::score(&model, b).unwrap().logprob).collect();
            for (i, completion) in completions.iter().enumerate() {
                let scored = &packing.of(&columns, i)[requests[i].prompt.len() - 1..];
                let bits = |xs: &[f32]| xs.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(scored), bits(&completion.logprobs), "request {i}");
            }
        }
    }

    #[test]
    fn stops_bans_and_lengths_are_kept() {
        let (model, requests) = (model(), requests());
        let completions = generate(&model, &requests, &cfg(), 3).unwrap();
        for (request, c) in requests.iter().zip(&completions) {
            assert_eq!(c.tokens.len(), c.logprobs.len());
            let (last, before) = c.tokens.split_last().unwrap();
            assert!(before.iter().all(|t| !request.stop.contains(t)));
            assert_eq!(request.stop.contains(last), c.finish == Finish::Stop);
            assert!(c.tokens.iter().all(|t| !request.banned.contains(t)));
            assert!(c.logprobs.iter().all(|&l| l <= 0.0));
            assert!(c.tokens.len() <= 80 && request.prompt.len() + c.tokens.len() <= 161);
            assert!(c.finish == Finish::Stop || c.tokens.len() == 80.min(161 - request.prompt.len()));
        }
        let none = generate(&model, &requests, &SampleConfig { max_tokens: 0, ..cfg() }, 3).unwrap();
        assert!(none.iter().all(|c| c.tokens.is_empty() && c.finish == Finish::Length));
        let full = Request { prompt: vec![1; 160], ..Request::default() };
        assert_eq!(generate(&model, &[full], &cfg(), 3).unwrap()[0].tokens.len(), 1);
        assert_eq!(generate(&model, &[], &cfg(), 3).unwrap(), vec![]);
    }

    #[test]
    fn a_stream_is_the_same_sample_and_can_be_broken_off() {
        let (model, requests, cfg) = (model(), requests(), cfg());
        let whole = generate(&model, &requests[4..5], &cfg, 3).unwrap().remove(0);
        let mut seen = Vec::new();
        let mut collect = |token| {
            seen.push(token);
            ControlFlow::Continue(())
        };
        assert_eq!(generate_stream(&model, &requests[4], &cfg, 3, &mut collect).unwrap(), whole);
        assert_eq!(seen, whole.tokens);
        let cut = generate_stream(&model, &requests[4], &cfg, 3, &mut |_| ControlFlow::Break(())).unwrap();
        assert_eq!(cut.tokens, whole.tokens[..1]);
    }

    #[test]
    fn prompts_that_no_row_can_hold_are_refused() {
        for prompt in [vec![], vec![1; 161], vec![61]] {
            let request = Request { prompt, ..Request::default() };
            assert!(generate(&model(), &[request], &cfg(), 1).is_err());
        }
    }
}
