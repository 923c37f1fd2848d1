//! `stats`: how many documents, bytes and words per domain, suffix, language or any other column.

use super::{Context, Output, sql};
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use datafusion::arrow::datatypes::Schema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Options of a `stats` stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StatsConfig {
    /// What to group by: `host`, `domain` (registrable) and `suffix` (public) of `url`, or any column. Names that the input
    /// has no column for are left out as long as one is left.
    pub by: Vec<String>,
    /// Numeric columns to give least, mean and greatest value of, e.g. `["language_score"]`.
    pub measures: Vec<String>,
    /// Least documents of a group to be listed; smaller groups are summed up under the value `(other)`.
    pub min_documents: u64,
}

impl Default for StatsConfig {
    fn default() -> Self {
        Self { by: ["domain", "suffix", "language"].map(String::from).to_vec(), measures: Vec::new(), min_documents: 1 }
    }
}

impl Options for StatsConfig {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults = Vec::new();
        if self.by.is_empty() {
            faults.push(OptionFault::new("by", "expected at least one column"));
        }
        faults
    }
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &StatsConfig) -> Result<Output> {
    let input = context.input();
    let query = query(context.name(), &input.name, &*input.schema()?, config)?;
    let fragments = sql::select(context, &query, false)?;
    let rows = fragments[0].files[0].rows.unwrap_or_default();
    Ok(Output { fragments, note: format!("{rows} groups"), ..Output::default() })
}

/// One SELECT over the input for all groupings.
pub fn query(stage: &str, input: &str, schema: &Schema, config: &StatsConfig) -> Result<String> {
    let has = |name: &str| schema.column_with_name(name).is_some();
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let refuse = |what: String| {
        let known: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        Error::Manifest(format!("error: stage `{stage}`: {what}   (known: {})", known.join(", ")))
    };
    if let Some(missing) =
        config.measures.iter().find(|m| schema.field_with_name(m).map_or(true, |f| !f.data_type().is_numeric()))
    {
        return Err(refuse(format!("`measures` names `{missing}`, which is no numeric column")));
    }
    let key = |by: &String| match by.as_str() {
        name if has(name) => Some(format!("CAST({} AS VARCHAR)", quoted(name))),
        "host" | "domain" | "suffix" if has("url") => Some(format!("{by}(url)")),
        _ => None,
    };
    let groupings: Vec<(&String, String)> = config.by.iter().filter_map(|by| Some((by, key(by)?))).collect();
    if groupings.is_empty() {
        return Err(refuse(format!("the input has none of the columns by = [{}]", config.by.join(", "))));
    }
    let text = if has("text") { "text" } else { "''" };
    let plain: String =
        config.measures.iter().map(|m| format!(", CAST({} AS DOUBLE) AS {}", quoted(m), quoted(m))).collect();
    let summed: String = config
        .measures
        .iter()
        .map(|m| {
            let named = |what: &str| quoted(&format!("{what}_{m}"));
            let (m, least, mean, most) = (quoted(m), named("min"), named("mean"), named("max"));
            format!(", min({m}) AS {least}, avg({m}) AS {mean}, max({m}) AS {most}")
        })
        .collect();
    let least = config.min_documents;
    let one = |(by, key): &(&String, String)| {
        let by = by.replace('\'', "''");
        // Groups that are too small are renamed first, so that their measures are summed up with the others'.
        let rows = format!(
            "SELECT coalesce({key}, '(none)') AS value, octet_length({text}) AS size, words({text}) AS n{plain} FROM {}",
            quoted(input)
        );
        let sizes = format!("SELECT value AS key, count(*) AS held FROM ({rows}) GROUP BY value");
        format!(
            "SELECT '{by}' AS \"by\", CASE WHEN held >= {least} THEN value ELSE '(other)' END AS value, \
             count(*) AS documents, sum(size) AS bytes, sum(n) AS words, min(size) AS min_bytes, max(size) AS max_bytes{summed} \
             FROM ({rows}) JOIN ({sizes}) ON value = key GROUP BY 1, 2"
        )
    };
    let all: Vec<String> = groupings.iter().map(one).collect();
    Ok(format!("SELECT * FROM ({}) ORDER BY \"by\", bytes DESC, value", all.join(" UNION ALL ")))
}
