//! Plans as bytes: our operator under a mark of its own, all others as Ballista writes them.

use super::fragment::FragmentExec;
use ballista_core::serde::BallistaPhysicalExtensionCodec;
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use std::sync::Arc;

/// First bytes of our operator: field 12 with wire type 7, which no protobuf message begins with.
const MARK: &[u8] = b"gristmill.fragment\0";

/// Ballista's codec and our operator.
#[derive(Debug, Default)]
pub struct Codec(BallistaPhysicalExtensionCodec);

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match bytes.strip_prefix(MARK) {
            None => self.0.try_decode(bytes, inputs, context, converter),
            Some(task) => {
                let task = serde_json::from_slice(task).map_err(|e| internal_datafusion_err!("no task: {e}"))?;
                Ok(Arc::new(FragmentExec::new(task)))
            }
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        match node.downcast_ref::<FragmentExec>() {
            None => self.0.try_encode(node, bytes, converter),
            Some(fragment) => {
                bytes.extend_from_slice(MARK);
                serde_json::to_writer(bytes, fragment.task()).map_err(|e| internal_datafusion_err!("{e}"))
            }
        }
    }
}
