//! `gristmill verify-parallel`

use super::Place;
use crate::error::{Error, Result};
use crate::estimate;
use crate::manifest::kinds::StageOptions;
use crate::verify_parallel::{Setup, check};
use trainer::parallel::Mesh;

/// Train the model of a manifest for a few steps on one rank and on several, and compare every bit.
#[derive(clap::Args)]
#[command(
    after_help = "Loss, every gradient and every parameter must be equal, with the optimizer's state whole and spread (zero 0 and 1). The
ranks are threads; batches are made up, so nothing has to be run before. A difference ends in exit code 1.

Example:
  gristmill verify-parallel manifests/quickstart.toml --mesh dp2 --mesh dp3"
)]
pub struct VerifyParallel {
    #[command(flatten)]
    place: Place,
    /// A mesh of ranks, such as dp2; may be repeated. Default: dp2, dp3 and dp4.
    #[arg(long = "mesh", value_name = "MESH")]
    meshes: Vec<String>,
    /// Optimizer steps.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
}

impl VerifyParallel {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        let (manifest, _) = self.place.load()?;
        let asked =
            if self.meshes.is_empty() { ["dp2", "dp3", "dp4"].map(String::from).to_vec() } else { self.meshes.clone() };
        let mut meshes = Vec::new();
        for text in &asked {
            let mesh: Mesh = text.parse().map_err(|e| Error::Manifest(format!("error: --mesh {text}: {e}")))?;
            check(&mesh)?;
            meshes.push(mesh);
        }
        let (mut seen, mut faults) = (0, 0);
        for stage in &manifest.stages {
            let StageOptions::Pretrain(options) = &stage.options else { continue };
            let Some(sizes) = estimate::sizes(stage, &manifest) else { continue };
            let setup = Setup { options, sizes, seed: stage.seed, steps: self.steps };
            let alone = setup.alone()?;
            for mesh in &meshes {
                for zero in [0, 1] {
                    let report = setup.on(mesh, zero, &alone)?;
                    (seen, faults) = (seen + 1, faults + usize::from(!report.differ.is_empty()));
                    if json {
                        say!("{}", serde_json::json!({ "stage": stage.name, "report": report }));
                        continue;
                    }
                    let verdict = match report.differ.as_slice() {
                        [] => "all equal".to_string(),
                        [first, ..] => format!("{} differ, first {first}", report.differ.len()),
                    };
                    say!("{:12} {:6} zero {zero}  {} compared, {verdict}", stage.name, report.mesh, report.compared);
                }
            }
        }
        match (seen, faults) {
            (0, _) => Err(Error::Manifest("error: the manifest has no `pretrain` stage whose sizes are known".into())),
            (_, 0) => Ok(()),
            _ => Err(Error::Model(format!(
                "{faults} of {seen} meshes are not exact\nhint: this is a fault of gristmill; please report it with the manifest"
            ))),
        }
    }
}
