//! What each step of a run is: its rates, its rows, their length. A pure function of the step.
//!
//! In: budgets and options. Out: for every step a [`StepPlan`]. The batch may start small and double at equal distances in
//! tokens (batch warm-up); rows may start short and double in length, cut from the same windows, so that no token is lost
//! and the samples of a step stay a range of the loader's samples. Learning rates count steps, not tokens.

use super::apply::Rates;
use super::schedule::{DecayShape, ScheduleConfig};
use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What else changes over a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TimelineConfig {
    /// Length of the warm-up in steps, in place of `warmup_share`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// Length of the warm-up in tokens, in place of `warmup_share`; rounded up to whole steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_tokens: Option<u64>,
    /// How `wsd` comes down.
    pub decay_shape: DecayShape,
    /// Weight decay of the last step as a share of the first step's; in between half a cosine. 1 keeps it constant.
    pub final_weight_decay_share: f64,
    /// How often the batch doubles before it reaches `batch_tokens`, 0 to 10.
    pub batch_doublings: u32,
    /// Share of the budget's tokens by which the last doubling is done, above 0 to 1.
    pub batch_warmup_share: f64,
    /// How often the rows double before they reach `sequence_len`, 0 to 10.
    pub sequence_doublings: u32,
    /// Share of all steps by which the last of these doublings is done, above 0 to 1.
    pub sequence_warmup_share: f64,
}

impl Default for TimelineConfig {
    fn default() -> Self {
        Self {
            warmup_steps: None,
            warmup_tokens: None,
            decay_shape: DecayShape::Linear,
            final_weight_decay_share: 1.0,
            batch_doublings: 0,
            batch_warmup_share: 0.2,
            sequence_doublings: 0,
            sequence_warmup_share: 0.2,
        }
    }
}

/// One step of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepPlan {
    /// Learning rate and weight decay.
    pub rates: Rates,
    /// Windows of the loader in this step.
    pub rows: usize,
    /// First of them, counted over the whole run.
    pub first_sample: u64,
    /// Positions per row of the batch: each window is cut into rows of this length (`Batch::in_rows_of`).
    pub sequence_len: usize,
}

/// Steps of equal batch.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stretch {
    first_step: u64,
    first_sample: u64,
    rows: usize,
}

/// All steps of a run.
#[derive(Clone, Debug)]
pub struct Timeline {
    schedule: ScheduleConfig,
    config: TimelineConfig,
    stretches: Vec<Stretch>,
    steps: u64,
    warmup: f64,
    sequence_len: usize,
}

impl Timeline {
    /// For a budget in tokens and steps of `rows` rows of `sequence_len` tokens.
    pub fn new(
        schedule: &ScheduleConfig,
        config: &TimelineConfig,
        budget_tokens: u64,
        rows: usize,
        sequence_len: usize,
    ) -> Result<Self> {
        schedule.check()?;
        config.check(schedule, rows, sequence_len)?;
        let row = sequence_len as u64;
        let (mut stretches, mut step, mut sample) = (Vec::new(), 0, 0);
        let goal = |done: u32| {
            let share = config.batch_warmup_share * f64::from(done) / f64::from(config.batch_doublings.max(1));
            (budget_tokens as f64 * share / row as f64) as u64
        };
        for done in 0..config.batch_doublings {
            let rows = rows >> (config.batch_doublings - done);
            stretches.push(Stretch { first_step: step, first_sample: sample, rows });
            let steps = goal(done + 1).saturating_sub(sample).div_ceil(rows as u64).max(1);
            (step, sample) = (step + steps, sample + steps * rows as u64);
        }
        stretches.push(Stretch { first_step: step, first_sample: sample, rows });
        let steps = step + (budget_tokens / row).saturating_sub(sample) / rows as u64;
        let mut timeline = Self {
            schedule: schedule.clone(),
            config: config.clone(),
            stretches,
            steps,
            warmup: (schedule.warmup_share * steps.max(1) as f64).round(),
            sequence_len,
        };
        if let Some(tokens) = config.warmup_tokens {
            timeline.warmup = timeline.steps_before(tokens.div_ceil(row)) as f64;
        } else if let Some(steps) = config.warmup_steps {
            timeline.warmup = steps as f64;
        }
        Ok(timeline)
    }

    /// Steps in all.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Step `step`, from 0.
    pub fn at(&self, step: u64) -> StepPlan {
        let stretch =
            self.stretches.iter().rfind(|s| s.first_step <= step).expect("the first stretch starts at step 0");
        let rates = Rates {
            lr: self.schedule.lr_after(step, self.steps, self.warmup, self.config.decay_shape),
            weight_decay_share: self.weight_decay_share(step),
        };
        let first_sample = stretch.first_sample + (step - stretch.first_step) * stretch.rows as u64;
        StepPlan { rates, rows: stretch.rows, first_sample, sequence_len: self.length(step) }
    }

    /// Steps it takes to see this many samples.
    fn steps_before(&self, samples: u64) -> u64 {
        let stretch =
            self.stretches.iter().rfind(|s| s.first_sample <= samples).expect("sample 0 is in the first stretch");
        stretch.first_step + (samples - stretch.first_sample).div_ceil(stretch.rows as u64)
    }

    fn weight_decay_share(&self, step: u64) -> f64 {
        let last = self.config.final_weight_decay_share;
        if last == 1.0 {
            return 1.0;
        }
        let way = step as f64 / self.steps.saturating_sub(1).max(1) as f64;
        last + (1.0 - last) * 0.5 * (1.0 + (std::f64::consts::PI * way.min(1.0)).cos())
    }

    fn length(&self, step: u64) -> usize {
        let doublings = self.config.sequence_doublings;
        let way = step as f64 / (self.config.sequence_warmup_share * self.steps.max(1) as f64);
        let done = ((way * f64::from(doublings)) as u32).min(doublings);
        self.sequence_len >> (doublings - done)
    }
}

impl TimelineConfig {
    fn check(&self, schedule: &ScheduleConfig, rows: usize, sequence_len: usize) -> Result<()> {
        let fault = |field, got: String, expected: String| Err(Error::Config { field, got, expected });
        if let (Some(steps), Some(_)) = (self.warmup_steps, self.warmup_tokens) {
            let expected = "expected either this or `warmup_tokens`, not both".to_owned();
            return fault("warmup_steps", steps.to_string(), expected);
        }
        if self.decay_shape != DecayShape::Linear && schedule.schedule != super::Schedule::Wsd {
            let got = format!("{:?}", self.decay_shape).to_lowercase();
            return fault("decay_shape", got, "only schedule `wsd` reads it; leave it out".to_owned());
        }
        for (field, share, open) in [
            ("final_weight_decay_share", self.final_weight_decay_share, false),
            ("batch_warmup_share", self.batch_warmup_share, true),
            ("sequence_warmup_share", self.sequence_warmup_share, true),
        ] {
            if !(0.0..=1.0).contains(&share) || (open && share == 0.0) {
                return fault(field, share.to_string(), format!("expected {}0 to 1", if open { "above " } else { "" }));
            }
        }
        for (field, doublings, what, size) in [
            ("batch_doublings", self.batch_doublings, "rows of a step", rows),
            ("sequence_doublings", self.sequence_doublings, "tokens of a row", sequence_len),
        ] {
            if doublings > 10 || size == 0 || !size.is_multiple_of(1 << doublings) {
                let expected = format!("expected 0 to 10, and {size} {what} to be a multiple of 2^{doublings}");
                return fault(field, doublings.to_string(), expected);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::Schedule;

    fn timeline(config: &TimelineConfig) -> Timeline {
        Timeline::new(&ScheduleConfig::default(), config, 1000 * 64 * 16, 16, 64).unwrap()
    }

    #[test]
    fn without_options_it_is_the_plain_schedule() {
        let (schedule, timeline) = (ScheduleConfig::default(), timeline(&TimelineConfig::default()));
        assert_eq!(timeline.steps(), 1000);
        for step in [0, 7, 50, 500, 999] {
            let rates = Rates::of(schedule.lr_at(step, 1000));
            let want = StepPlan { rates, rows: 16, first_sample: step * 16, sequence_len: 64 };
            assert_eq!(timeline.at(step), want);
        }
    }

    #[test]
    fn a_growing_batch_sees_every_sample_once_and_keeps_the_budget() {
        let config = TimelineConfig { batch_doublings: 3, ..TimelineConfig::default() };
        let timeline = timeline(&config);
        let mut next = 0;
        for step in 0..timeline.steps() {
            let plan = timeline.at(step);
            assert_eq!(plan.first_sample, next);
            next += plan.rows as u64;
        }
        assert!(timeline.steps() > 1000 && (16_000 - 16..=16_000).contains(&next), "{} {next}", timeline.steps());
        assert_eq!((timeline.at(0).rows, timeline.at(timeline.steps() - 1).rows), (2, 16));
        let grown = (0..).find(|step| timeline.at(*step).rows == 16).unwrap();
        assert!((3200..3216).contains(&timeline.at(grown).first_sample));
        // 1066 samples at two rows a step, then 400 at four.
        let warm = TimelineConfig { warmup_tokens: Some(64 * 1466), ..config };
        let rates = Timeline::new(&ScheduleConfig::default(), &warm, 1000 * 64 * 16, 16, 64).unwrap();
        let peak = (0..).find(|step| rates.at(*step).rates.lr >= 3e-3 - 1e-12).unwrap();
        assert_eq!(rates.at(peak + 1).first_sample, 1466);
    }

    #[test]
    fn warm_up_by_steps_lengths_and_weight_decay_follow_their_options() {
        let config = TimelineConfig {
            warmup_steps: Some(3),
            final_weight_decay_share: 0.0,
            sequence_doublings: 2,
            sequence_warmup_share: 0.5,
            ..TimelineConfig::default()
        };
        let timeline = timeline(&config);
        assert!((timeline.at(0).rates.lr - 1e-3).abs() < 1e-15 && (timeline.at(2).rates.lr - 3e-3).abs() < 1e-15);
        let lengths = [0, 249, 250, 499, 500, 999].map(|step| timeline.at(step).sequence_len);
        assert_eq!(lengths, [16, 16, 32, 32, 64, 64]);
        assert_eq!(timeline.at(0).rates.weight_decay_share, 1.0);
        assert!(timeline.at(999).rates.weight_decay_share < 1e-15);
    }

    #[test]
    fn options_that_do_not_fit_are_refused_by_name() {
        let of = |config: TimelineConfig| Timeline::new(&ScheduleConfig::default(), &config, 1 << 20, 12, 64);
        let base = TimelineConfig::default;
        for (config, wrong) in [
            (TimelineConfig { warmup_steps: Some(1), warmup_tokens: Some(1), ..base() }, "warmup_steps"),
            (TimelineConfig { decay_shape: DecayShape::Root, ..base() }, "decay_shape"),
            (TimelineConfig { final_weight_decay_share: 1.5, ..base() }, "final_weight_decay_share"),
            (TimelineConfig { batch_warmup_share: 0.0, ..base() }, "batch_warmup_share"),
            (TimelineConfig { batch_doublings: 3, ..base() }, "batch_doublings"),
            (TimelineConfig { sequence_doublings: 7, ..base() }, "sequence_doublings"),
        ] {
            assert!(matches!(of(config), Err(Error::Config { field, .. }) if field == wrong), "{wrong}");
        }
        let wsd = ScheduleConfig { schedule: Schedule::Wsd, ..ScheduleConfig::default() };
        let root = TimelineConfig { decay_shape: DecayShape::Root, ..base() };
        assert!(Timeline::new(&wsd, &root, 1 << 20, 12, 64).is_ok());
    }
}
