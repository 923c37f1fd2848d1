//! The operator that makes one fragment: no input, one partition, one row with what became of it.

use crate::engine::task::{Outcome, Task};
use crate::stage::Settings;
use datafusion::arrow::array::{RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use std::sync::Arc;

/// What an executor lets one task use; an extension of its sessions.
#[derive(Clone, Debug)]
pub struct Share(pub Settings);

/// Makes one fragment where it is executed.
#[derive(Debug)]
pub struct FragmentExec {
    task: Task,
    properties: Arc<PlanProperties>,
}

impl FragmentExec {
    /// The plan of a task.
    pub fn new(task: Task) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Self::columns()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { task, properties: Arc::new(properties) }
    }

    /// The task.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// One text column: the outcome as JSON.
    fn columns() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("outcome", DataType::Utf8, false)]))
    }
}

impl DisplayAs for FragmentExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FragmentExec: {}", serde_json::to_string(&self.task).map_err(|_| std::fmt::Error)?)
    }
}

impl ExecutionPlan for FragmentExec {
    fn name(&self) -> &str {
        "FragmentExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let task = self.task.clone();
        let share = context.session_config().get_extension::<Share>().ok_or_else(|| {
            exec_datafusion_err!(
                "a fragment can only be made by `gristmill executor`, whose sessions say how much it may use"
            )
        })?;
        let (send, receive) = tokio::sync::oneshot::channel::<Outcome>();
        // A thread of its own: the work plans and waits by itself, which a worker of the cluster's runtime must not.
        std::thread::Builder::new()
            .name("fragment".into())
            .stack_size(crate::stage::STACK)
            .spawn(move || drop(send.send(task.run(&share.0))))?;
        let rows = async {
            let outcome = receive.await.map_err(|_| exec_datafusion_err!("the thread of a fragment died"))?;
            let text = serde_json::to_string(&outcome).map_err(|e| exec_datafusion_err!("{e}"))?;
            Ok(RecordBatch::try_new(Self::columns(), vec![Arc::new(StringArray::from(vec![text]))])?)
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(Self::columns(), futures::stream::once(rows))))
    }
}
