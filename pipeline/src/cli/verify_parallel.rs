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
    after_help = "Loss, every gradient and every parameter are compared with one rank's: to the bit for data (dp), pipeline (pp) and spread state (zero 1
to 3), to 1e-12 in f64 and 1e-5 in f32 for tensor with sequence parallelism (tp). Manifests train with dp and zero 0 or 1; the rest
is not an option of theirs yet. The ranks are threads; batches are made up, so nothing has to be run before. A difference ends in
exit code 1.

Example:
  gristmill verify-parallel manifests/quickstart.toml --mesh dp2 --mesh \"dp2 tp2\""
)]
pub struct VerifyParallel {
    #[command(flatten)]
    place: Place,
    /// A mesh of ranks, such as dp2 or "dp2 tp2 pp2"; may be repeated. Default: dp2, dp3 and dp4.
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
                for report in setup.all_on(mesh, &alone)? {
                    (seen, faults) = (seen + 1, faults + usize::from(!report.differ.is_empty()));
                    if json {
                        say!("{}", serde_json::json!({ "stage": stage.name, "report": report }));
                        continue;
                    }
                    let verdict = match report.differ.as_slice() {
                        [] if report.allowed == 0.0 => "all equal".to_string(),
                        [] => format!(
                            "at most {:.1e} apart, {:.0e} allowed",
                            report.worst.unwrap_or_default(),
                            report.allowed
                        ),
                        [first, ..] => format!("{} differ, first {first}", report.differ.len()),
                    };
                    let (mesh, zero, kind) = (&report.mesh, report.zero, report.precision);
                    say!("{:12} {mesh:12} zero {zero}  {kind}  {} compared, {verdict}", stage.name, report.compared);
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
