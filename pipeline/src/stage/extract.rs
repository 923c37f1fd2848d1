//! `extract`: HTML to main text. Rows without text are dropped with the fault as their rule.

use super::rowlocal::{self, Decided};
use super::{Context, Output};
use crate::dataset::string_column;
use crate::error::Result;
use crate::udf;
use crate::verdict::{Finding, Status, Verdicts};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{Float64Type, Schema};
use datafusion::prelude::{DataFrame, col};
use filters::extract::ExtractConfig;
use std::sync::Arc;

/// Name of the struct column between plan and decision.
const PAGE: &str = "page";

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &ExtractConfig) -> Result<Output> {
    let fragments = rowlocal::run(context, plan(config), decide)?;
    let note = rowlocal::summary(&fragments);
    Ok(Output { fragments, note, ..Output::default() })
}

/// What the stage makes of a table without rows.
pub fn dry(input: DataFrame, config: &ExtractConfig) -> Result<Decided> {
    rowlocal::dry(input, plan(config), decide)
}

fn plan(config: &ExtractConfig) -> impl Fn(DataFrame) -> Result<DataFrame> + Sync {
    let extract = udf::extract(config.clone());
    move |frame| {
        let page = extract.call(vec![col("html"), col("content_type"), col("url"), col("text")]);
        Ok(frame.with_column(PAGE, page)?)
    }
}

/// Columns out: those in without `html` and `text`, then title, author, published, site_name, html_lang, charset,
/// links, text_hash, text.
fn decide(batch: RecordBatch) -> Result<Decided> {
    let page = batch.column_by_name(PAGE).expect("the plan added it").as_struct().clone();
    let field = |name: &str| -> ArrayRef { page.column_by_name(name).expect("page_fields lists it").clone() };
    let (rule, reason) = (field("rule"), field("reason"));
    let (rule, reason) = (rule.as_string::<i32>(), reason.as_string::<i32>());
    let (value, threshold) = (field("value"), field("threshold"));
    let (value, threshold) = (value.as_primitive::<Float64Type>(), threshold.as_primitive::<Float64Type>());
    let text = field("text");
    let text = text.as_string::<i32>();
    let ids = string_column(&batch, "id")?;
    let mut verdicts = Verdicts::default();
    let mut keep = Vec::with_capacity(batch.num_rows());
    for i in 0..batch.num_rows() {
        let empty = text.is_null(i) || text.value(i).is_empty();
        if empty {
            let named = !rule.is_null(i);
            let finding = Finding {
                rule: format!("extract.{}", if named { rule.value(i) } else { "no_text" }),
                value: (!value.is_null(i)).then(|| value.value(i)),
                threshold: (!threshold.is_null(i)).then(|| threshold.value(i)),
                reason: Some(if named {
                    reason.value(i).to_string()
                } else {
                    "the row has neither html nor text".into()
                }),
            };
            verdicts.push(ids.value(i), Status::Dropped, &[finding]);
        } else {
            verdicts.keep(ids.value(i));
            verdicts.counts.add("text_bytes", text.value(i).len() as u64);
        }
        keep.push(!empty);
    }
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for (i, f) in batch.schema().fields().iter().enumerate() {
        if ![PAGE, "html", "text"].contains(&f.name().as_str()) {
            columns.push((f.name().clone(), batch.column(i).clone()));
        }
    }
    for name in ["title", "author", "published", "site_name", "html_lang", "charset", "links", "text_hash", "text"] {
        columns.push((name.to_string(), field(name)));
    }
    let counts = std::mem::take(&mut verdicts.counts);
    Ok(Decided {
        rows: table(columns)?,
        keep: keep.into(),
        verdicts: verdicts.finish(Vec::new())?,
        edits: None,
        counts,
    })
}

/// A batch of named columns; every column but `id` may hold nulls.
pub fn table(columns: Vec<(String, ArrayRef)>) -> Result<RecordBatch> {
    use datafusion::arrow::datatypes::Field;
    let fields: Vec<Field> = columns.iter().map(|(n, a)| Field::new(n, a.data_type().clone(), n != "id")).collect();
    let arrays = columns.into_iter().map(|(_, a)| a).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}
