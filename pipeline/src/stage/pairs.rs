//! `pairs`: preference pairs as a SQL view over rollouts and verdicts, made a dataset.

use super::{Context, Output, sql};
use crate::error::Result;
use crate::manifest::kinds::{OptionFault, Options};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Options of a `pairs` stage. Its inputs are the rollouts and their verdicts, in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PairsConfig {
    /// Most pairs of one prompt; the i-th different right completion is paired with the i-th different wrong one.
    pub max_pairs_per_prompt: u32,
    /// A SELECT of one's own instead, over the tables `rollouts` and `verdicts`, giving `id`, `prompt`, `chosen`, `rejected`.
    pub query: Option<String>,
}

impl Default for PairsConfig {
    fn default() -> Self {
        Self { max_pairs_per_prompt: 1, query: None }
    }
}

impl Options for PairsConfig {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults = Vec::new();
        if self.max_pairs_per_prompt == 0 {
            faults.push(OptionFault::new("max_pairs_per_prompt", "expected at least 1"));
        }
        if self.query.is_some() && self.max_pairs_per_prompt != 1 {
            faults.push(OptionFault::new(
                "max_pairs_per_prompt",
                "a `query` of your own does not read it; say it in the query",
            ));
        }
        faults
    }
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &PairsConfig) -> Result<Output> {
    let (rollouts, verdicts) = (&context.inputs[0].name, &context.inputs[1].name);
    let fragments = sql::select(context, &query(rollouts, verdicts, config), true)?;
    let note = format!("{} pairs", fragments[0].files[0].rows.unwrap_or_default());
    Ok(Output { fragments, note, ..Output::default() })
}

/// The SELECT over the two inputs.
pub fn query(rollouts: &str, verdicts: &str, config: &PairsConfig) -> String {
    match &config.query {
        Some(query) => format!(
            "WITH rollouts AS (SELECT * FROM \"{rollouts}\"), verdicts AS (SELECT * FROM \"{verdicts}\") SELECT * FROM ({query}) AS pairs ORDER BY id"
        ),
        None => default_query(rollouts, verdicts, config.max_pairs_per_prompt),
    }
}

fn default_query(rollouts: &str, verdicts: &str, most: u32) -> String {
    format!(
        "WITH judged AS (
           SELECT r.parent_id, r.task, r.prompt, r.completion, v.reward, min(r.sample) AS sample
           FROM \"{rollouts}\" r JOIN \"{verdicts}\" v ON r.id = v.id
           WHERE v.reward IS NOT NULL
           GROUP BY r.parent_id, r.task, r.prompt, r.completion, v.reward),
         ranked AS (
           SELECT judged.*, r.id AS rollout_id,
                  row_number() OVER (PARTITION BY judged.parent_id, judged.reward ORDER BY judged.sample) AS place
           FROM judged JOIN \"{rollouts}\" r ON judged.parent_id = r.parent_id AND judged.sample = r.sample)
         SELECT text_hash(concat(c.rollout_id, r.rollout_id)) AS id, c.parent_id AS parent_id, c.task AS task, c.prompt AS prompt,
                c.completion AS chosen, r.completion AS rejected, c.rollout_id AS chosen_id, r.rollout_id AS rejected_id
         FROM ranked c JOIN ranked r ON c.parent_id = r.parent_id AND c.place = r.place
         WHERE c.reward = 1.0 AND r.reward = 0.0 AND c.place <= {most}
         ORDER BY id"
    )
}
