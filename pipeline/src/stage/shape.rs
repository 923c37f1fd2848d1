//! The tables that stages will make, before there is any data.
//!
//! In: the stages of a manifest, each after those it reads. Out: what their columns make wrong: columns that are missing, queries and
//! conditions that cannot be planned. The columns come from the code that will make the rows, called with none; a stage whose tables
//! cannot be known in advance (its own options are wrong, or those of a stage it reads) is passed over.

use super::*;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::datasource::MemTable;
use datafusion::prelude::DataFrame;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The columns of what a stage makes.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Of its rows.
    pub rows: SchemaRef,
    /// Of its verdicts, if it gives some.
    pub verdicts: Option<SchemaRef>,
    /// Of its edits, if it makes some.
    pub edits: Option<SchemaRef>,
}

impl Shape {
    fn table(rows: SchemaRef) -> Self {
        Self { rows, verdicts: None, edits: None }
    }

    fn decided(rows: &rowlocal::Decided) -> Self {
        let edits = rows.edits.as_ref().map(RecordBatch::schema);
        Self { rows: rows.rows.schema(), verdicts: Some(rows.verdicts.schema()), edits }
    }

    fn judged(rows: SchemaRef) -> Self {
        Self { rows, verdicts: Some(crate::schema::verdicts(Vec::new())), edits: None }
    }
}

/// A named table without rows.
pub fn empty(session: &SessionContext, schema: &SchemaRef) -> Result<DataFrame> {
    Ok(session.read_table(Arc::new(MemTable::try_new(schema.clone(), vec![Vec::new()])?))?)
}

/// What is wrong, by stage; stages in `skip` are passed over.
pub fn check(stages: &[Stage], skip: &BTreeSet<String>) -> Vec<(String, OptionFault)> {
    shapes(stages, skip).1
}

/// The tables of stages, and what is wrong with those that have none.
pub fn shapes(stages: &[Stage], skip: &BTreeSet<String>) -> (BTreeMap<String, Shape>, Vec<(String, OptionFault)>) {
    let mut known: BTreeMap<String, Shape> = BTreeMap::new();
    let mut faults = Vec::new();
    for stage in stages.iter().filter(|s| !skip.contains(&s.name)) {
        let mut found = missing_columns(stage, &known);
        found.extend(wrong_models(stage, stages));
        match &stage.options {
            StageOptions::Export(o) => {
                found.extend(export::check_references(stage));
                found.extend(model::check_weights(o.weights, "model", stage, stages));
            }
            StageOptions::Eval(o) => found.extend(model::check_weights(o.weights, "models", stage, stages)),
            _ => {}
        }
        let inputs: Option<Vec<(&str, Shape)>> =
            stage.inputs.iter().map(|n| Some((n.as_str(), known.get(n)?.clone()))).collect();
        if let (true, Some(inputs)) = (found.is_empty(), inputs) {
            match shape(stage, &inputs) {
                Ok(Some(shape)) => drop(known.insert(stage.name.clone(), shape)),
                Ok(None) => {}
                Err((key, e)) => found.push(fault(stage, key, &e)),
            }
        }
        faults.extend(found.into_iter().map(|f| (stage.name.clone(), f)));
    }
    (known, faults)
}

/// An error of a stage's own code as a fault of an option.
fn fault(stage: &Stage, key: &str, e: &Error) -> OptionFault {
    let text = e.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let (message, hint) = text.split_once("\nhint: ").map_or((text, None), |(m, h)| (m, Some(h.to_string())));
    let own = format!("`{key}` of stage `{}`: ", stage.name);
    let message = message.strip_prefix(&own).unwrap_or(message);
    let message = match message.contains(&format!("stage `{}`", stage.name)) {
        true => message.to_string(),
        false => format!("`{key}` in stage `{}`: {message}", stage.name),
    };
    OptionFault { key: key.to_string(), message, hint }
}

/// Columns that a stage reads from its inputs, each of text.
fn reads(options: &StageOptions) -> Vec<&str> {
    const PROMPTS: [&str; 5] = ["id", "prompt", "answer", "task", "verifier"];
    match options {
        StageOptions::Extract(_) => vec!["id", "content_type", "url", "text"],
        StageOptions::Language(_)
        | StageOptions::Filter(_)
        | StageOptions::Edit(_)
        | StageOptions::Dedup(_)
        | StageOptions::Decontaminate(_)
        | StageOptions::Mix(_)
        | StageOptions::Tasks(_) => vec!["id", "text"],
        StageOptions::Tokenizer(_) => vec!["text"],
        StageOptions::Classifier(o) => match o.method {
            classifier::ClassifierMethod::Fasttext => vec![&o.label, &o.text],
            classifier::ClassifierMethod::Ngram => vec![&o.text],
        },
        StageOptions::Sft(_) => vec!["id", "prompt", "completion"],
        StageOptions::Rollout(_) | StageOptions::Grpo(_) | StageOptions::Eval(_) => PROMPTS.to_vec(),
        StageOptions::Verdict(_) => vec!["id", "parent_id", "task", "completion", "answer", "verifier"],
        StageOptions::Preference(_) => PAIRS.to_vec(),
        _ => Vec::new(),
    }
}

/// Columns of preference pairs.
const PAIRS: [&str; 4] = ["id", "prompt", "chosen", "rejected"];

fn missing_columns(stage: &Stage, known: &BTreeMap<String, Shape>) -> Vec<OptionFault> {
    let mut faults = Vec::new();
    let mut lacks = |key: &str, input: &str, wanted: &[&str]| {
        let Some(shape) = known.get(input) else { return };
        for column in wanted {
            let found = shape.rows.field_with_name(column).ok().map(|f| f.data_type());
            if found == Some(&DataType::Utf8) {
                continue;
            }
            let columns: Vec<String> = shape.rows.fields().iter().map(|f| f.name().clone()).collect();
            let what = found.map_or("has not".to_string(), |t| format!("has as {t}, not as text"));
            let near = crate::manifest::nearest(column, &columns).filter(|n| n != column);
            let hint = match near {
                Some(near) => format!(
                    "make it before with a stage of kind sql:  SELECT id, \"{near}\" AS {column}, ... FROM {input}"
                ),
                None => format!("make it before with a stage of kind sql, or name another stage in `{key}`"),
            };
            faults.push(OptionFault {
                key: key.to_string(),
                message: format!(
                    "stage `{}` (kind {}) needs the column `{column}`, which `{input}` {what}   (known: {})",
                    stage.name,
                    stage.kind,
                    columns.join(", ")
                ),
                hint: Some(hint),
            });
        }
    };
    let wanted = reads(&stage.options);
    for input in &stage.inputs {
        if let StageOptions::Tokenize(_) = &stage.options {
            let has = |name: &str| known.get(input).is_some_and(|s| s.rows.column_with_name(name).is_some());
            let conversation = has("prompt") && has("completion");
            lacks("input", input, if conversation { &["id", "prompt", "completion"] } else { &["id", "text"] });
        } else {
            lacks("input", input, &wanted);
        }
    }
    if let StageOptions::Eval(_) = &stage.options {
        stage.references.get("pairs").into_iter().flatten().for_each(|name| lacks("pairs", name, &PAIRS));
    }
    if let StageOptions::Decontaminate(o) = &stage.options {
        for name in stage.references.get("against").into_iter().flatten() {
            let Some(shape) = known.get(name) else { continue };
            if let Err(e) = decontaminate::known_columns(&stage.name, name, &shape.rows, o) {
                faults.push(fault(stage, "against", &e));
            }
        }
    }
    faults
}

/// Models named by options that are of the other kind of classifier, or named twice.
fn wrong_models(stage: &Stage, stages: &[Stage]) -> Vec<OptionFault> {
    use classifier::ClassifierMethod::{Fasttext, Ngram};
    let mut faults = Vec::new();
    for (key, method, word) in [("classifier", Fasttext, "fasttext"), ("perplexity", Ngram, "ngram")] {
        for name in stage.references.get(key).into_iter().flatten() {
            if let Some(StageOptions::Classifier(o)) = stages.iter().find(|s| s.name == *name).map(|s| &s.options)
                && o.method != method
            {
                faults.push(OptionFault {
                    key: key.to_string(),
                    message: format!("`{key}` in stage `{}`: `{name}` trains another kind of model", stage.name),
                    hint: Some(format!("give `{name}`  method = \"{word}\"")),
                });
            }
        }
    }
    if let StageOptions::Language(o) = &stage.options
        && o.model.is_some()
        && stage.references.contains_key("classifier")
    {
        faults.push(OptionFault {
            key: "classifier".into(),
            message: format!("stage `{}` names both `model` and `classifier`", stage.name),
            hint: Some("keep one of them".into()),
        });
    }
    faults
}

/// The tables of one stage: None if it makes no table that others read; else the option that is wrong.
fn shape(stage: &Stage, inputs: &[(&str, Shape)]) -> std::result::Result<Option<Shape>, (&'static str, Error)> {
    let session = session::session(None, None).map_err(|e| ("kind", e))?;
    let schemas: Vec<SchemaRef> = inputs.iter().map(|(_, s)| s.rows.clone()).collect();
    let frame = || empty(&session, &schemas[0]);
    let decided = |made: Result<rowlocal::Decided>| made.map(|d| Some(Shape::decided(&d)));
    let of_rows = |made: Result<RecordBatch>| made.map(|b| Some(Shape::table(b.schema())));
    let of_query = |query: Result<String>, unbounded: bool| {
        query.and_then(|query| sql::columns(&session, inputs, &query, unbounded)).map(|s| Some(Shape::table(s)))
    };
    match &stage.options {
        StageOptions::Ingest(o) => Ok(Some(Shape::judged(crate::schema::ingested(&o.columns)))),
        StageOptions::Extract(o) => decided(frame().and_then(|f| extract::dry(f, o))).map_err(|e| ("input", e)),
        StageOptions::Language(o) => {
            let builtin = o.model.is_none() && !stage.references.contains_key("classifier");
            decided(frame().and_then(|f| language::dry(f, o, &stage.name, builtin))).map_err(|e| ("keep", e))
        }
        StageOptions::Filter(o) => {
            let (rows, perplexity) = (&schemas[0], stage.references.get("perplexity").and_then(|n| n.first()));
            filter::dry(&session, rows, o, &stage.name, perplexity)
                .map(|verdicts| Some(Shape { rows: rows.clone(), verdicts: Some(verdicts), edits: None }))
        }
        StageOptions::Edit(o) => decided(frame().and_then(|f| edit::dry(f, o))).map_err(|e| ("input", e)),
        StageOptions::Dedup(o) => {
            block_on(dedup::check_survivor(&session, &stage.name, &schemas[0], o)).map_err(|e| ("survivor", e))?;
            decided(frame().and_then(|f| dedup::dry(f, o))).map_err(|e| ("input", e))
        }
        StageOptions::Decontaminate(o) => {
            decided(frame().and_then(|f| decontaminate::dry(f, o))).map_err(|e| ("input", e))
        }
        StageOptions::Mix(o) => {
            mix::check_sources(&stage.name, &stage.inputs, &schemas, o)?;
            Ok(Some(Shape::judged(mix::common_columns(&schemas))))
        }
        StageOptions::Stats(o) => {
            let query = stats::query(&stage.name, inputs[0].0, &schemas[0], o);
            of_query(query, false).map_err(|e| ("by", e))
        }
        StageOptions::Sql(o) => of_query(Ok(o.query.clone()), o.unbounded).map_err(|e| ("query", e)),
        StageOptions::Pairs(o) => {
            let key = if o.query.is_some() { "query" } else { "inputs" };
            of_query(Ok(pairs::query(inputs[0].0, inputs[1].0, o)), true).map_err(|e| (key, e))
        }
        StageOptions::Tasks(_) => of_rows(tasks::table(&[])).map_err(|e| ("kind", e)),
        StageOptions::Rollout(_) => of_rows(rollout::Rows::default().finish()).map_err(|e| ("kind", e)),
        StageOptions::Verdict(_) => {
            of_rows(verdict::table(Default::default(), Default::default())).map_err(|e| ("kind", e))
        }
        StageOptions::Eval(_) => of_rows(eval::table("", Vec::new())).map_err(|e| ("kind", e)),
        StageOptions::Tokenizer(o) => tokenizer::check_inputs(&stage.inputs, o).map(|()| None),
        StageOptions::Classifier(_)
        | StageOptions::Tokenize(_)
        | StageOptions::Pretrain(_)
        | StageOptions::Sft(_)
        | StageOptions::Preference(_)
        | StageOptions::Grpo(_)
        | StageOptions::Export(_) => Ok(None),
    }
}
