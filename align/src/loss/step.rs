//! The bridge between a step's micro-batches and its sequences.
//!
//! In: per-token f32 values of each micro-batch, `[b*t]` row-major, and where each sequence lies. Out: one
//! [`Tokens`] per sequence, and back: one flat gradient per micro-batch. Works for one sequence a row, for several packed
//! in a row, and for the two answers of a pair in different micro-batches.

use trainer::{TokenGrad, TokenStats};

use super::{Grad, LossError, LossOutput, Tokens};

/// Where one sequence lies in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index of the micro-batch.
    pub micro: usize,
    /// First flat position in its `[b*t]`.
    pub start: usize,
    /// One past the last flat position.
    pub end: usize,
}

/// Per-token values of one micro-batch, each `[b*t]` row-major.
#[derive(Clone, Copy, Debug)]
pub struct MicroView<'a> {
    /// Log-probs of the targets, in nats.
    pub logprob: &'a [f32],
    /// Entropies, in nats; empty = not measured.
    pub entropy: &'a [f32],
    /// 1 at loss tokens, 0 elsewhere.
    pub loss_mask: &'a [f32],
}

/// Gradients of one micro-batch, each `[b*t]` row-major; 0 outside the loss tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct MicroGrad {
    /// d loss / d log-prob.
    pub d_logprob: Vec<f32>,
    /// d loss / d entropy; `None` if no sequence has one.
    pub d_entropy: Option<Vec<f32>>,
}

impl<'a> MicroView<'a> {
    /// The statistics of a micro-batch with its loss mask.
    pub fn new(stats: &'a TokenStats, loss_mask: &'a [f32]) -> Self {
        Self { logprob: &stats.logprob, entropy: &stats.entropy, loss_mask }
    }
}

impl From<MicroGrad> for TokenGrad {
    fn from(grad: MicroGrad) -> Self {
        Self { d_logprob: grad.d_logprob, d_entropy: grad.d_entropy }
    }
}

impl From<LossError> for trainer::Error {
    fn from(error: LossError) -> Self {
        Self::Loss(error.to_string())
    }
}

/// A loss over sequences, as the loss over micro-batches that a trainer's step asks for: gather, `loss`, scatter.
/// `loss_masks[m]` is the `[b*t]` mask of micro-batch m; `loss` must give one gradient per segment, in their order.
pub fn through(
    stats: &[TokenStats],
    loss_masks: &[&[f32]],
    segments: &[Segment],
    loss: impl FnOnce(Vec<Tokens>) -> Result<LossOutput, LossError>,
) -> Result<(LossOutput, Vec<TokenGrad>), LossError> {
    let views: Vec<_> = stats.iter().zip(loss_masks).map(|(stats, mask)| MicroView::new(stats, mask)).collect();
    let output = loss(gather(&views, segments)?)?;
    let sizes: Vec<_> = stats.iter().map(|s| s.logprob.len()).collect();
    let grads = scatter(&sizes, segments, &output.grads)?;
    Ok((output, grads.into_iter().map(TokenGrad::from).collect()))
}

/// One segment per row of a `[b, t]` micro-batch.
pub fn rows(micro: usize, b: usize, t: usize) -> Vec<Segment> {
    (0..b).map(|row| Segment { micro, start: row * t, end: (row + 1) * t }).collect()
}

/// The sequences of a step, in the order of `segments`.
pub fn gather(micro: &[MicroView<'_>], segments: &[Segment]) -> Result<Vec<Tokens>, LossError> {
    segments.iter().enumerate().map(|(index, segment)| gather_one(micro, index, *segment)).collect()
}

fn gather_one(micro: &[MicroView<'_>], index: usize, at: Segment) -> Result<Tokens, LossError> {
    let fault = |reason: String| LossError::Segment { segment: index, reason };
    let view = micro
        .get(at.micro)
        .ok_or_else(|| fault(format!("micro-batch {} of {} does not exist", at.micro, micro.len())))?;
    let size = view.logprob.len();
    if at.start > at.end || at.end > size {
        return Err(fault(format!("{}..{} lies outside its micro-batch of {size} tokens", at.start, at.end)));
    }
    if view.loss_mask.len() != size || (!view.entropy.is_empty() && view.entropy.len() != size) {
        return Err(fault(format!(
            "{size} log-probs, {} mask values, {} entropies",
            view.loss_mask.len(),
            view.entropy.len()
        )));
    }
    let range = at.start..at.end;
    let mut mask = Vec::with_capacity(range.len());
    for &value in &view.loss_mask[range.clone()] {
        if value != 0.0 && value != 1.0 {
            return Err(fault(format!("loss mask value {value} is neither 0 nor 1")));
        }
        mask.push(value == 1.0);
    }
    let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let entropy = if view.entropy.is_empty() { Vec::new() } else { wide(&view.entropy[range.clone()]) };
    Ok(Tokens { logprob: wide(&view.logprob[range]), entropy, mask })
}

/// The gradients of each micro-batch; `sizes[m]` is its `b*t`. Segments must be those that [`gather`] was given.
pub fn scatter(sizes: &[usize], segments: &[Segment], grads: &[Grad]) -> Result<Vec<MicroGrad>, LossError> {
    if segments.len() != grads.len() {
        let reason = format!("{} segments but {} gradients", segments.len(), grads.len());
        return Err(LossError::Segment { segment: segments.len().min(grads.len()), reason });
    }
    let with_entropy = grads.iter().any(|g| g.d_entropy.is_some());
    let zeros =
        |&size: &usize| MicroGrad { d_logprob: vec![0.0; size], d_entropy: with_entropy.then(|| vec![0.0; size]) };
    let mut out: Vec<MicroGrad> = sizes.iter().map(zeros).collect();
    for (index, (at, grad)) in segments.iter().zip(grads).enumerate() {
        let fits = sizes.get(at.micro).is_some_and(|&size| at.end <= size)
            && at.start.checked_add(grad.d_logprob.len()) == Some(at.end);
        if !fits {
            return Err(LossError::Segment {
                segment: index,
                reason: "gradient and segment differ in size".to_owned(),
            });
        }
        let target = &mut out[at.micro];
        add(&mut target.d_logprob[at.start..at.end], &grad.d_logprob);
        if let (Some(target), Some(values)) = (&mut target.d_entropy, &grad.d_entropy) {
            add(&mut target[at.start..at.end], values);
        }
    }
    Ok(out)
}

fn add(target: &mut [f32], values: &[f64]) {
    for (t, v) in target.iter_mut().zip(values) {
        *t += *v as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::super::sft::{SftConfig, sft};
    use super::*;

    #[test]
    fn one_loss_token_set_gives_equal_bits_for_any_split_into_micro_batches() {
        let logprob: Vec<f32> = (0..24).map(|i| -0.1 * (i as f32 + 1.0)).collect();
        let mask: Vec<f32> = (0..24).map(|i| f32::from(u8::from(i % 3 != 0))).collect();
        let run = |rows_per_micro: usize| {
            let size = rows_per_micro * 4;
            let views: Vec<_> = logprob
                .chunks(size)
                .zip(mask.chunks(size))
                .map(|(logprob, loss_mask)| MicroView { logprob, entropy: &[], loss_mask })
                .collect();
            let segments: Vec<_> = (0..views.len()).flat_map(|m| rows(m, rows_per_micro, 4)).collect();
            let out = sft(&SftConfig::default(), &gather(&views, &segments).unwrap()).unwrap();
            let sizes: Vec<_> = views.iter().map(|v| v.logprob.len()).collect();
            let grads = scatter(&sizes, &segments, &out.grads).unwrap();
            (out.loss.to_bits(), grads.into_iter().flat_map(|g| g.d_logprob).collect::<Vec<_>>())
        };
        assert_eq!(run(6), run(1));
        assert_eq!(run(6), run(2));
        assert_eq!(run(6), run(3));
    }

    #[test]
    fn several_sequences_packed_in_one_row_stay_apart() {
        let view =
            MicroView { logprob: &[-1.0, -2.0, -3.0, -4.0], entropy: &[0.0; 4], loss_mask: &[1.0, 1.0, 0.0, 1.0] };
        let segments = [Segment { micro: 0, start: 0, end: 2 }, Segment { micro: 0, start: 2, end: 4 }];
        let tokens = gather(&[view], &segments).unwrap();
        assert_eq!((tokens[0].sum(), tokens[1].sum()), (-3.0, -4.0));
        let grads = [tokens[0].spread(1.0), tokens[1].spread(2.0)].map(|d_logprob| Grad { d_logprob, d_entropy: None });
        assert_eq!(scatter(&[4], &segments, &grads).unwrap()[0].d_logprob, [1.0, 1.0, 0.0, 2.0]);
    }

    #[test]
    fn a_trainer_step_gets_one_gradient_per_micro_batch() {
        let stats = |logprob: &[f32]| TokenStats {
            logprob: logprob.to_vec(),
            entropy: vec![0.0; logprob.len()],
            logsumexp: vec![0.0; logprob.len()],
        };
        let all = [stats(&[-1.0, -2.0]), stats(&[-4.0, 0.0])];
        let segments = [rows(0, 1, 2), rows(1, 1, 2)].concat();
        let masks: [&[f32]; 2] = [&[1.0, 1.0], &[1.0, 0.0]];
        let (output, grads) = through(&all, &masks, &segments, |tokens| sft(&SftConfig::default(), &tokens)).unwrap();
        let third = -1.0_f32 / 3.0;
        assert!((output.loss - 7.0 / 3.0).abs() < 1e-15);
        assert_eq!((grads[0].d_logprob.clone(), grads[1].d_logprob.clone()), (vec![third; 2], vec![third, 0.0]));
    }

    #[test]
    fn segments_that_do_not_fit_and_soft_masks_are_refused() {
        let view = MicroView { logprob: &[-1.0; 4], entropy: &[], loss_mask: &[0.5; 4] };
        let all = |start, end, micro| gather(&[view], &[Segment { micro, start, end }]);
        assert!(all(0, 5, 0).is_err() && all(0, 4, 1).is_err() && all(0, 4, 0).is_err());
        assert!(scatter(&[4], &[Segment { micro: 0, start: 0, end: 4 }], &[]).is_err());
    }
}
