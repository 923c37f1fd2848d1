//! Training state as files and back: the same bits, or an error that says what is wrong.
//!
//! In and out: a [`Trainer`] or a [`Model`], and `(file name, bytes)` pairs that the caller writes (durably, into a
//! folder of their own). Weights and moments are safetensors, the rest is JSON. Each JSON file names the BLAKE3 of the
//! safetensors file beside it, so a truncated, damaged or mixed folder is refused. The loader's and the sampler's state
//! is the step number, which is here; nothing else needs saving.
//!
//! | file | holds |
//! |---|---|
//! | `model.json` | format, sizes, hash of `model.safetensors` |
//! | `model.safetensors` | weights by Hugging Face name, f32 |
//! | `state.json` | format, step, optimizer settings, hash of `optimizer.safetensors` |
//! | `optimizer.safetensors` | f32: `m.NAME` (momentum or first moment), `v.NAME` (second moment); 8 bits: `m8.NAME`, `v8.NAME` (u8 codes) with `m8.NAME.scale`, `v8.NAME.scale` |
//! | `ema.safetensors` | running mean of the weights, if one is kept |
//!
//! Encoding what was decoded gives the same bytes.

use crate::optim::{Blocks, Ema, NoiseScale, OptimConfig, RuleConfig, Slot};
use crate::trainer::Trainer;
use crate::{Error, Model, ModelConfig, Result};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Version of the layout above; a checkpoint of another one is refused.
pub const FORMAT: u32 = 1;

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const EMA: &str = "ema.safetensors";

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelFile {
    format: u32,
    config: ModelConfig,
    model_blake3: String,
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    format: u32,
    step: u64,
    optim: OptimConfig,
    /// Binds the folder: moments of one step beside weights of another are refused.
    model_blake3: String,
    optimizer_blake3: String,
    /// Absent for plain AdamW.
    #[serde(default, skip_serializing_if = "is_plain")]
    rule: RuleConfig,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    noise: Option<NoiseScale>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ema: Option<EmaFile>,
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EmaFile {
    decay: f64,
    ema_blake3: String,
}

fn is_plain(rule: &RuleConfig) -> bool {
    *rule == RuleConfig::default()
}

/// All files of a training state.
pub fn encode(trainer: &Trainer) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = encode_model(&trainer.model)?;
    assert!(trainer.owned.is_none(), "state is spread over ranks: `Team::whole` brings it together");
    let optimizer = slot_bytes(trainer.model.names(), &trainer.state)?;
    let ema = trainer.ema.as_ref().map(|ema| weight_bytes(&ema.model)).transpose()?;
    let state = StateFile {
        format: FORMAT,
        step: trainer.step,
        optim: trainer.optim.clone(),
        model_blake3: hash(&files[1].1),
        optimizer_blake3: hash(&optimizer),
        rule: trainer.rule.clone(),
        noise: trainer.noise,
        ema: trainer.ema.as_ref().zip(ema.as_ref()).map(|(e, b)| EmaFile { decay: e.decay, ema_blake3: hash(b) }),
    };
    files.push(("state.json".into(), json_bytes(&state)?));
    files.push((OPTIMIZER.into(), optimizer));
    files.extend(ema.map(|bytes| (EMA.into(), bytes)));
    Ok(files)
}

/// Tensors by name.
pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// Optimizer state of some parameters as a safetensors file.
pub(crate) fn slot_bytes(names: &[String], state: &[Slot]) -> Result<Vec<u8>> {
    safetensors_bytes(names.iter().zip(state).flat_map(|(name, slot)| parts(name, slot)))
}

/// State of these parameters, shaped like `empty`, out of `tensors`.
pub(crate) fn take_slots(tensors: &mut Tensors, names: &[String], empty: &[Slot]) -> Result<Vec<Slot>> {
    names.iter().zip(empty).map(|(name, empty)| take_slot(tensors, name, empty)).collect()
}

/// The tensors of a slot by name, in a fixed order.
fn parts<'t>(name: &str, slot: &'t Slot) -> Vec<(String, &'t Tensor)> {
    let blocks = |prefix: &str, blocks: &'t Blocks| {
        [(format!("{prefix}.{name}"), &blocks.codes), (format!("{prefix}.{name}.scale"), &blocks.scales)]
    };
    match slot {
        Slot::Empty => Vec::new(),
        Slot::Momentum(m) => vec![(format!("m.{name}"), m)],
        Slot::Moments { m, v } => vec![(format!("m.{name}"), m), (format!("v.{name}"), v)],
        Slot::Moments8 { m, v } => blocks("m8", m).into_iter().chain(blocks("v8", v)).collect(),
    }
}

/// The tensors of a slot like `empty`, out of `tensors`.
fn take_slot(tensors: &mut Tensors, name: &str, empty: &Slot) -> Result<Slot> {
    let mut found = Vec::new();
    for (part, like) in parts(name, empty) {
        found.push(take(tensors, part, like)?);
    }
    let mut next = found.into_iter();
    let mut one = || next.next().expect("as many tensors as the slot has because its own list was walked");
    Ok(match empty {
        Slot::Empty => Slot::Empty,
        Slot::Momentum(_) => Slot::Momentum(one()),
        Slot::Moments { .. } => Slot::Moments { m: one(), v: one() },
        Slot::Moments8 { .. } => {
            let mut blocks = || Blocks { codes: one(), scales: one() };
            Slot::Moments8 { m: blocks(), v: blocks() }
        }
    })
}

/// `model.json` and `model.safetensors`: the weights alone.
pub fn encode_model(model: &Model) -> Result<Vec<(String, Vec<u8>)>> {
    let weights = weight_bytes(model)?;
    let file = ModelFile { format: FORMAT, config: model.config().clone(), model_blake3: hash(&weights) };
    Ok(vec![("model.json".into(), json_bytes(&file)?), (MODEL.into(), weights)])
}

fn weight_bytes(model: &Model) -> Result<Vec<u8>> {
    safetensors_bytes(model.params().map(|(name, tensor)| (name.to_owned(), tensor)))
}

/// The training state in folder `dir`; `recompute` is off, as it changes no bits.
pub fn decode(dir: &Path) -> Result<Trainer> {
    let (model, model_blake3) = read_model(dir)?;
    let state: StateFile = read_json(&dir.join("state.json"))?;
    check_format(dir, state.format)?;
    let bytes = read(&dir.join(OPTIMIZER))?;
    check_hash(&dir.join(OPTIMIZER), &bytes, &state.optimizer_blake3)?;
    if state.model_blake3 != model_blake3 {
        return Err(fault(dir, "state.json belongs to other weights than model.json"));
    }
    let mut tensors = tensors_of(&dir.join(OPTIMIZER), &bytes)?;
    let mut trainer = Trainer::with_rule(model, &state.optim, &state.rule)?;
    trainer.state = take_slots(&mut tensors, trainer.model.names(), &trainer.state)?;
    if let Some(name) = tensors.into_keys().next() {
        return Err(Error::UnknownTensor { name });
    }
    (trainer.step, trainer.noise) = (state.step, state.noise);
    if let Some(file) = state.ema {
        let mean = Model::from_tensors(trainer.model.config().clone(), read_mean(dir, &file)?)?;
        trainer.ema = Some(Ema::new(&mean, file.decay)?);
    }
    Ok(trainer)
}

/// The weights in folder `dir`, be it a whole training state or a model alone.
pub fn decode_model(dir: &Path) -> Result<Model> {
    Ok(read_model(dir)?.0)
}

/// The running mean of the weights in folder `dir`; None if that run kept none.
pub fn decode_ema(dir: &Path) -> Result<Option<Model>> {
    let file: ModelFile = read_json(&dir.join("model.json"))?;
    check_format(dir, file.format)?;
    let state: StateFile = read_json(&dir.join("state.json"))?;
    let mean = |ema: EmaFile| Model::from_tensors(file.config, read_mean(dir, &ema)?);
    state.ema.map(mean).transpose()
}

fn read_mean(dir: &Path, file: &EmaFile) -> Result<Tensors> {
    let path = dir.join(EMA);
    let bytes = read(&path)?;
    check_hash(&path, &bytes, &file.ema_blake3)?;
    tensors_of(&path, &bytes)
}

/// Tensors as one safetensors file with metadata `format = pt`: f32 (or u8), contiguous, ordered by name, so bytes are a
/// function of the tensors alone.
pub fn safetensors_bytes<'t>(tensors: impl Iterator<Item = (String, &'t Tensor)>) -> Result<Vec<u8>> {
    let mut columns = Vec::new();
    for (name, tensor) in tensors {
        let flat = tensor.flatten_all()?;
        let (kind, bytes) = match tensor.dtype() {
            DType::U8 => (Dtype::U8, flat.to_vec1::<u8>()?),
            _ => (Dtype::F32, flat.to_vec1::<f32>()?.iter().flat_map(|x| x.to_le_bytes()).collect()),
        };
        columns.push((name, kind, tensor.dims().to_vec(), bytes));
    }
    let views =
        columns.iter().map(|(name, kind, shape, bytes)| Ok((name, TensorView::new(*kind, shape.clone(), bytes)?)));
    let views: Vec<_> =
        views.collect::<std::result::Result<_, safetensors::SafeTensorError>>().map_err(format_error)?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(format_error)
}

fn read_model(dir: &Path) -> Result<(Model, String)> {
    let file: ModelFile = read_json(&dir.join("model.json"))?;
    check_format(dir, file.format)?;
    let path = dir.join(MODEL);
    let bytes = read(&path)?;
    check_hash(&path, &bytes, &file.model_blake3)?;
    let model = Model::from_tensors(file.config, tensors_of(&path, &bytes)?)?;
    Ok((model, file.model_blake3))
}

fn take(tensors: &mut Tensors, name: String, like: &Tensor) -> Result<Tensor> {
    let tensor = tensors.remove(&name).ok_or_else(|| Error::MissingTensor { name: name.clone() })?;
    if tensor.dims() != like.dims() {
        return Err(Error::Shape { name, expected: like.dims().to_vec(), got: tensor.dims().to_vec() });
    }
    if tensor.dtype() != like.dtype() {
        let what = format!("tensor `{name}` is {:?}, expected {:?}", tensor.dtype(), like.dtype());
        return Err(Error::Format(what));
    }
    Ok(tensor)
}

/// The tensors of a safetensors file; `path` is for messages.
pub(crate) fn tensors_of(path: &Path, bytes: &[u8]) -> Result<Tensors> {
    let parsed = SafeTensors::deserialize(bytes).map_err(|e| fault(path, &e.to_string()))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in parsed.iter() {
        let tensor = match view.dtype() {
            Dtype::F32 => {
                let (chunks, _) = view.data().as_chunks::<4>();
                let numbers: Vec<f32> = chunks.iter().map(|c| f32::from_le_bytes(*c)).collect();
                Tensor::from_vec(numbers, view.shape(), &Device::Cpu)?
            }
            Dtype::U8 => Tensor::from_vec(view.data().to_vec(), view.shape(), &Device::Cpu)?,
            other => return Err(fault(path, &format!("tensor `{name}` is {other}, expected F32 or U8"))),
        };
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}

fn check_format(dir: &Path, got: u32) -> Result<()> {
    let expected = format!("checkpoint format {got}, expected {FORMAT}: made by another version, run the stage again");
    if got == FORMAT { Ok(()) } else { Err(fault(dir, &expected)) }
}

fn check_hash(path: &Path, bytes: &[u8], expected: &str) -> Result<()> {
    let got = hash(bytes);
    let what =
        format!("{} bytes with blake3 {got}, expected {expected}: truncated, damaged or from elsewhere", bytes.len());
    if got == expected { Ok(()) } else { Err(fault(path, &what)) }
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// JSON that reads back as the same value: serde_json may miss the last bit of numbers with more than 15 digits.
fn json_bytes<T: Serialize + DeserializeOwned + PartialEq>(value: &T) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| Error::Format(e.to_string()))?;
    if serde_json::from_slice::<T>(&bytes).ok().as_ref() != Some(value) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        return Err(Error::Format(format!("a setting has more digits than JSON keeps; write at most 15: {text}")));
    }
    bytes.push(b'\n');
    Ok(bytes)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| fault(path, &e.to_string()))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_slice(&read(path)?).map_err(|e| fault(path, &e.to_string()))
}

fn fault(path: &Path, what: &str) -> Error {
    Error::Format(format!("{}: {what}", path.display()))
}

fn format_error(e: safetensors::SafeTensorError) -> Error {
    Error::Format(e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Batch;
    use crate::tape::TokenGrad;

    fn trained() -> Trainer {
        let config = ModelConfig { vocab_size: 13, n_layer: 2, n_embd: 16, n_ffn: 24, ..ModelConfig::default() };
        let mut trainer = Trainer::new(Model::init(config, 3).unwrap(), &OptimConfig::default()).unwrap();
        for _ in 0..2 {
            step(&mut trainer);
        }
        trainer
    }

    fn step(trainer: &mut Trainer) {
        let ids: Vec<u32> = (0..16).map(|i| (i * 5 + trainer.step as u32) % 13).collect();
        let batch = Batch::from_rows(2, 8, ids.clone(), ids.iter().map(|i| (i + 1) % 13).collect()).unwrap();
        let loss = |stats: &[crate::TokenStats]| {
            let d = stats[0].logprob.iter().map(|_| -1.0 / 16.0).collect();
            Ok(vec![TokenGrad { d_logprob: d, d_entropy: None }])
        };
        trainer.step(&[batch], 1e-2, loss).unwrap();
    }

    fn save(files: &[(String, Vec<u8>)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    #[test]
    fn saving_what_was_loaded_gives_the_same_bytes() {
        let files = encode(&trained()).unwrap();
        let loaded = decode(save(&files).path()).unwrap();
        assert_eq!(loaded.step, 2);
        assert_eq!(encode(&loaded).unwrap(), files);
    }

    #[test]
    fn training_goes_on_to_the_same_bits_after_a_restart() {
        let mut straight = trained();
        let mut resumed = decode(save(&encode(&straight).unwrap()).path()).unwrap();
        for trainer in [&mut straight, &mut resumed] {
            step(trainer);
        }
        assert_eq!(encode(&straight).unwrap(), encode(&resumed).unwrap());
    }

    #[test]
    fn every_rule_goes_on_to_the_same_bits_with_its_noise_scale_and_running_mean() {
        use crate::optim::Rule::{Adamw, Lion, Muon, Sgd};
        let config = ModelConfig { vocab_size: 13, n_layer: 1, n_embd: 64, n_ffn: 72, ..ModelConfig::default() };
        for (optimizer, state_bits, momentum) in [
            (Adamw, Some(8), None),
            (Muon, None, None),
            (Muon, Some(8), Some(0.9)),
            (Lion, None, None),
            (Sgd, None, None),
            (Sgd, None, Some(0.0)),
        ] {
            let rule = RuleConfig { optimizer, state_bits, momentum, ..RuleConfig::default() };
            let model = Model::init(config.clone(), 3).unwrap();
            let mut straight = Trainer::with_rule(model, &OptimConfig::default(), &rule).unwrap();
            straight.noise = Some(NoiseScale::default());
            straight.ema = Some(Ema::new(&straight.model, 0.9).unwrap());
            step(&mut straight);
            let files = encode(&straight).unwrap();
            let mut resumed = decode(save(&files).path()).unwrap();
            assert!(encode(&resumed).unwrap() == files, "{rule:?}");
            for trainer in [&mut straight, &mut resumed] {
                step(trainer);
            }
            assert!(encode(&straight).unwrap() == encode(&resumed).unwrap(), "{rule:?}");
        }
    }

    #[test]
    fn a_state_of_plain_adamw_names_no_rule_and_a_damaged_mean_is_named() {
        let mut trainer = trained();
        let state = String::from_utf8(encode(&trainer).unwrap()[2].1.clone()).unwrap();
        assert!(!["rule", "noise", "ema"].iter().any(|word| state.contains(word)), "{state}");
        trainer.ema = Some(Ema::new(&trainer.model, 0.9).unwrap());
        let mut files = encode(&trainer).unwrap();
        *files[4].1.last_mut().unwrap() ^= 1;
        let error = decode(save(&files).path()).unwrap_err().to_string();
        assert!(error.contains(EMA) && error.contains("blake3"), "{error}");
    }

    #[test]
    fn weights_alone_can_be_saved_and_read_from_either_folder() {
        let trainer = trained();
        let alone = encode_model(&trainer.model).unwrap();
        for files in [alone.clone(), encode(&trainer).unwrap()] {
            let model = decode_model(save(&files).path()).unwrap();
            assert_eq!(encode_model(&model).unwrap(), alone);
        }
        let error = decode(save(&alone).path()).unwrap_err().to_string();
        assert!(error.contains("state.json"), "{error}");
    }

    #[test]
    fn a_file_that_is_missing_truncated_or_changed_is_named() {
        let files = encode(&trained()).unwrap();
        for (victim, _) in &files {
            let dir = save(&files);
            let path = dir.path().join(victim);
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
            let error = decode(dir.path()).unwrap_err().to_string();
            assert!(error.contains(victim.as_str()), "{error}");
            std::fs::remove_file(&path).unwrap();
            let error = decode(dir.path()).unwrap_err().to_string();
            assert!(error.contains(victim.as_str()), "{error}");
        }
        let dir = save(&files);
        let path = dir.path().join(MODEL);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(decode(dir.path()).unwrap_err().to_string().contains("blake3"));
    }

    #[test]
    fn weights_and_moments_of_different_steps_are_refused() {
        let mut trainer = trained();
        let old = encode(&trainer).unwrap();
        step(&mut trainer);
        let new = encode(&trainer).unwrap();
        let mixed: Vec<_> = old[..2].iter().chain(&new[2..]).cloned().collect();
        assert!(decode(save(&mixed).path()).unwrap_err().to_string().contains("other weights"));
    }
}
