//! Golden models of `tests/parity/goldens/family` through our loader and back into folders that transformers can open:
//! `cargo run --release -p trainer --example hf_round_trip GOLDENS OUT`.
//!
//! Each folder also gets `logits.safetensors` (`ids`, and the logits that our blocks compute), which
//! `tests/parity/check_export.py OUT/*` compares with what transformers computes from the folder.

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::path::Path;
use trainer::export::{SpecialIds, hf_files};
use trainer::tape::score;
use trainer::{Batch, Error, Model, Result, hf};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(goldens), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err(Error::Format("usage: hf_round_trip GOLDENS OUT".into()));
    };
    let mut names: Vec<_> = std::fs::read_dir(&goldens).map_err(io)?.flatten().map(|entry| entry.path()).collect();
    names.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    names.sort();
    for path in names {
        let facts: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).map_err(io)?).map_err(other)?;
        if facts.get("config").is_some() {
            convert(&facts["config"], &path, Path::new(&out))?;
        }
    }
    Ok(())
}

fn convert(config: &serde_json::Value, path: &Path, out: &Path) -> Result<()> {
    let bytes = std::fs::read(path.with_extension("safetensors")).map_err(io)?;
    let parsed = SafeTensors::deserialize(&bytes).map_err(other)?;
    let mut weights = BTreeMap::new();
    for (name, view) in parsed.iter().filter(|(_, view)| view.dtype() == Dtype::F32) {
        if let Some(name) = name.strip_prefix("weight.") {
            weights
                .insert(name.to_owned(), Tensor::from_raw_buffer(view.data(), DType::F32, view.shape(), &Device::Cpu)?);
        }
    }
    let model = hf::from_parts(config, weights)?;
    let stored = parsed.tensor("ids").map_err(other)?;
    let ids: Vec<u32> = stored.data().as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let (b, t) = (stored.shape()[0], stored.shape()[1]);
    let batch = Batch::from_rows(b, t, ids.clone(), ids)?;
    let folder = out.join(path.file_stem().expect("it ends in .json"));
    std::fs::create_dir_all(&folder).map_err(io)?;
    for (name, bytes) in hf_files(&model, &SpecialIds::default())? {
        std::fs::write(folder.join(name), bytes).map_err(io)?;
    }
    let logits: Vec<u8> = logits(&model, &batch)?.iter().flat_map(|x| x.to_le_bytes()).collect();
    let views = [
        ("ids", TensorView::new(Dtype::U32, vec![b, t], stored.data()).map_err(other)?),
        ("logits", TensorView::new(Dtype::F32, vec![b, t, model.config().vocab_size], &logits).map_err(other)?),
    ];
    let bytes = safetensors::serialize(views, None).map_err(other)?;
    std::fs::write(folder.join("logits.safetensors"), bytes).map_err(io)
}

/// Logits of every position, `[b, t, v]`, from log-prob and logsumexp of each possible target.
fn logits(model: &Model, batch: &Batch) -> Result<Vec<f32>> {
    let vocab_size = model.config().vocab_size;
    let mut out = vec![0.0; batch.len() * vocab_size];
    for id in 0..vocab_size {
        let stats = score(model, &Batch { targets: vec![id as u32; batch.len()], ..batch.clone() })?;
        for at in 0..batch.len() {
            out[at * vocab_size + id] = stats.logprob[at] + stats.logsumexp[at];
        }
    }
    Ok(out)
}

fn io(e: std::io::Error) -> Error {
    other(e)
}

fn other(e: impl std::fmt::Display) -> Error {
    Error::Format(e.to_string())
}
