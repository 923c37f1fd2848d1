//! Every plan of every shipped manifest comes back from the codecs as it was.

use super::codec::Codec;
use super::fragment::FragmentExec;
use super::{config, state};
use crate::engine::task::Task;
use crate::manifest::Manifest;
use crate::manifest::kinds::StageOptions;
use crate::session::{block_on, register};
use crate::sink::write_table;
use crate::stage::{pairs, shape, sql};
use ballista_core::serde::BallistaLogicalExtensionCodec;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::SessionContext;
use datafusion_proto::logical_plan::AsLogicalPlan;
use datafusion_proto::physical_plan::AsExecutionPlan;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn session() -> SessionContext {
    SessionContext::new_with_state(
        state(config().with_target_partitions(4)).expect("the state is made of parts that are there"),
    )
}

/// A physical plan through bytes and back.
fn there_and_back(session: &SessionContext, plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let codec = Codec::default();
    let mut bytes = Vec::new();
    PhysicalPlanNode::try_from_physical_plan(plan, &codec).unwrap().try_encode(&mut bytes).unwrap();
    PhysicalPlanNode::try_decode(&bytes).unwrap().try_into_physical_plan(&session.task_ctx(), &codec).unwrap()
}

/// The shipped manifests that can be read without what a reader brings along.
fn manifests() -> Vec<Manifest> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository");
    let shipped = std::fs::read_dir(root.join("manifests")).unwrap();
    let mut paths: Vec<PathBuf> = shipped.map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "toml"));
    paths.push(root.join("tests/micro.toml"));
    paths.iter().filter_map(|p| Manifest::load(p, &[]).ok()).collect()
}

#[test]
fn the_fragments_of_every_stage_come_back_from_the_codec() {
    let session = session();
    let mut plans = 0;
    for manifest in manifests() {
        for stage in &manifest.stages {
            let task = Task::example(stage);
            let back = there_and_back(&session, Arc::new(FragmentExec::new(task.clone())));
            let fragment = back.downcast_ref::<FragmentExec>().expect("a fragment comes back as one");
            assert_eq!(fragment.task(), &task, "{}", stage.name);
            plans += 1;
        }
    }
    assert!(plans > 60, "only {plans} plans were looked at");
}

#[test]
fn the_queries_of_every_manifest_come_back_from_the_codecs() {
    let codec = BallistaLogicalExtensionCodec::default();
    let mut plans = 0;
    for manifest in manifests() {
        let (shapes, _) = shape::shapes(&manifest.stages, &BTreeSet::new());
        for stage in &manifest.stages {
            let (query, unbounded) = match &stage.options {
                StageOptions::Sql(o) => (o.query.clone(), o.unbounded),
                StageOptions::Pairs(o) => (pairs::query(&stage.inputs[0], &stage.inputs[1], o), true),
                _ => continue,
            };
            if stage.inputs.iter().any(|i| !shapes.contains_key(i)) {
                continue;
            }
            let folder = tempfile::tempdir().unwrap();
            let session = session();
            block_on(async {
                for input in &stage.inputs {
                    let shape = &shapes[input];
                    table(&session, folder.path(), input, &shape.rows).await;
                    for (kind, schema) in [("verdicts", &shape.verdicts), ("edits", &shape.edits)] {
                        if let Some(schema) = schema {
                            table(&session, folder.path(), &format!("{input}_{kind}"), schema).await;
                        }
                    }
                }
                let (frame, _) = sql::planned(&session, &query, unbounded).await.unwrap();
                let logical = frame.logical_plan().clone();
                let mut bytes = Vec::new();
                LogicalPlanNode::try_from_logical_plan(&logical, &codec).unwrap().try_encode(&mut bytes).unwrap();
                let back = LogicalPlanNode::try_decode(&bytes).unwrap();
                let back = back.try_into_logical_plan(&session.task_ctx(), &codec).unwrap();
                assert_eq!(back.display_indent().to_string(), logical.display_indent().to_string(), "{}", stage.name);
                let physical = session.state().create_physical_plan(&back).await.unwrap();
                assert_eq!(shown(&there_and_back(&session, physical.clone())), shown(&physical), "{}", stage.name);
            });
            plans += 1;
        }
    }
    assert!(plans >= 8, "only {plans} queries were looked at");
}

/// A plan as text, without the order in which a scan would best read its row groups: a hint that the engine's encoding leaves out.
fn shown(plan: &Arc<dyn ExecutionPlan>) -> String {
    let text = displayable(plan.as_ref()).indent(true).to_string();
    let lines = text.lines().map(|l| l.split(", sort_order_for_reorder=").next().unwrap_or(l));
    lines.collect::<Vec<_>>().join("\n")
}

/// A table of no rows in a file.
async fn table(session: &SessionContext, folder: &Path, name: &str, schema: &SchemaRef) {
    let file = format!("{name}.parquet");
    write_table(folder, &file, &RecordBatch::new_empty(schema.clone())).unwrap();
    register(session, name, &[folder.join(file)]).await.unwrap();
}
