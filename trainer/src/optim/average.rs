//! Means of weights: a running one over steps, and a plain one of checkpoints.
//!
//! In: models of equal sizes. Out: a model. The running mean is exponential (Polyak & Juditsky 1992 in spirit; its first
//! value is the weights it starts from); the mean of checkpoints is a sum in the given order in f64, rounded once
//! (Wortsman et al. 2022, "Model soups", uniform soup).

use crate::ops::{Scalar, View, view};
use crate::{Error, Model, Result};
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// Exponential running mean of weights.
#[derive(Clone, Debug)]
pub struct Ema<T = f32> {
    /// Share of the old mean that stays in each step, 0 to below 1.
    pub decay: f64,
    /// The mean.
    pub model: Model<T>,
}

impl<T: Scalar> Ema<T> {
    /// A mean that starts at these weights.
    pub fn new(model: &Model<T>, decay: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&decay) {
            let expected = "expected 0 to below 1".to_owned();
            return Err(Error::Config { field: "ema_decay", got: decay.to_string(), expected });
        }
        Ok(Self { decay, model: model.clone() })
    }

    /// The mean after one more step: `decay * mean + (1 - decay) * weights` in the weights' type.
    pub fn add(&self, model: &Model<T>) -> Result<Self> {
        let (keep, rest) = (T::of(self.decay), T::of(1.0 - self.decay));
        let mixed = |(mean, tensor): (&Tensor, &Tensor)| -> Result<Tensor> {
            let (mean, new) = (view::<T>(mean)?, view::<T>(tensor)?);
            let (mean, new): (&[T], &[T]) = (&mean, &new);
            let data: Vec<T> = mean.par_iter().zip(new).map(|(m, w)| *m * keep + *w * rest).collect();
            Ok(Tensor::from_vec(data, tensor.dims(), &Device::Cpu)?)
        };
        let pairs = self.model.tensors().iter().zip(model.tensors());
        let tensors = pairs.map(mixed).collect::<Result<Vec<_>>>()?;
        Ok(Self { decay: self.decay, model: model.with_tensors(tensors)? })
    }
}

/// The mean of the weights of models of equal sizes; at least one.
pub fn average(models: &[Model]) -> Result<Model> {
    let first = models.first().ok_or_else(|| Error::Format("a mean of no checkpoints: name at least one".into()))?;
    if let Some(other) = models.iter().find(|m| m.config() != first.config()) {
        let what = format!("expected {:?}, got {:?}: only checkpoints of one model", first.config(), other.config());
        return Err(Error::Format(format!("a mean of models of different sizes: {what}")));
    }
    let n = models.len() as f64;
    let mean = |i: usize| -> Result<Tensor> {
        let views: Vec<View> = models.iter().map(|m| m.slice(i)).collect();
        let columns: Vec<&[f32]> = views.iter().map(|v| &**v).collect();
        let sum = |at: usize| columns.iter().map(|c| f64::from(c[at])).sum::<f64>();
        let data: Vec<f32> = (0..columns[0].len()).into_par_iter().map(|at| (sum(at) / n) as f32).collect();
        Ok(Tensor::from_vec(data, first.tensors()[i].dims(), &Device::Cpu)?)
    };
    first.with_tensors((0..first.tensors().len()).map(mean).collect::<Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelConfig;

    fn model(seed: u64) -> Model {
        let sizes = ModelConfig { vocab_size: 9, n_layer: 1, n_embd: 16, n_ffn: 8, ..ModelConfig::default() };
        Model::init(sizes, seed).unwrap()
    }

    #[test]
    fn the_running_mean_follows_the_formula() {
        let (a, b, c) = (model(1), model(2), model(3));
        let ema = Ema::new(&a, 0.9).unwrap().add(&b).unwrap().add(&c).unwrap();
        let [x, y, z] = [&a, &b, &c].map(|m| f64::from(m.slice(0)[5]));
        let want = 0.9 * (0.9 * x + 0.1 * y) + 0.1 * z;
        assert!((f64::from(ema.model.slice(0)[5]) - want).abs() < 1e-7);
        assert!(Ema::new(&a, 1.0).is_err());
    }

    #[test]
    fn the_mean_of_checkpoints_is_their_mean_and_one_is_itself() {
        let models = [model(1), model(2), model(3)];
        let mean = average(&models).unwrap();
        let want = models.iter().map(|m| f64::from(m.slice(2)[7])).sum::<f64>() / 3.0;
        assert_eq!(mean.slice(2)[7], want as f32);
        assert_eq!(average(&models[..1]).unwrap().slice(0).to_vec(), models[0].slice(0).to_vec());
    }

    #[test]
    fn none_and_models_of_other_sizes_are_refused() {
        assert!(average(&[]).is_err());
        let wide = ModelConfig { n_ffn: 16, ..model(1).config().clone() };
        let error = average(&[model(1), Model::init(wide, 1).unwrap()]).unwrap_err().to_string();
        assert!(error.contains("different sizes"), "{error}");
    }
}
