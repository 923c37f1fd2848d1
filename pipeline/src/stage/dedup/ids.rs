//! Documents by number: who comes first when one of several may stay.
//!
//! In: the input of a stage and the SQL of its survivor order. Out: [`Ids`], in which a document's number is its rank in that order.
//! Memory: 20 bytes a document.

use super::DedupStage;
use crate::dataset::string_column;
use crate::error::{Error, Result};
use crate::session::{block_on, register};
use crate::stage::Context;
use crate::stage::sql::check::unstable_in;
use datafusion::arrow::datatypes::Schema;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::prelude::{DataFrame, SessionContext};
use futures::StreamExt;
use std::collections::HashMap;
use xxhash_rust::xxh3::xxh3_128;

/// Ids in survivor order.
#[derive(Default)]
pub struct Ids {
    /// By rank; ids are 32 hex digits, others are in `named`.
    ranked: Vec<u128>,
    /// Ranks in order of id.
    sorted: Vec<u32>,
    named: HashMap<u128, String>,
}

impl Ids {
    /// Orders the documents of the input; an error if two have one id.
    pub fn read(context: &Context<'_>, config: &DedupStage) -> Result<Self> {
        let mut ids = Self::default();
        let session = context.session()?;
        block_on(async {
            register(&session, "input", &context.input().parts()).await?;
            let frame = survivors(&session, context.name(), &*context.input().schema()?, config).await?;
            let mut stream = frame.execute_stream().await?;
            while let Some(batch) = stream.next().await {
                for id in string_column(&batch?, "id")?.iter().flatten() {
                    let number = number(id);
                    if format!("{number:032x}") != id {
                        ids.named.insert(number, id.to_string());
                    }
                    ids.ranked.push(number);
                }
            }
            Ok::<_, Error>(())
        })?;
        if ids.ranked.len() > u32::MAX as usize {
            return Err(Error::Resources(format!(
                "stage `{}` has {} documents, more than the 2^32 it can number\nhint: deduplicate parts and name their indexes in `against`",
                context.name(),
                ids.ranked.len()
            )));
        }
        ids.sorted = (0..ids.ranked.len() as u32).collect();
        ids.sorted.sort_unstable_by_key(|rank| ids.ranked[*rank as usize]);
        if ids.sorted.windows(2).any(|pair| ids.ranked[pair[0] as usize] == ids.ranked[pair[1] as usize]) {
            return Err(Error::InputData(format!("the input of stage `{}` holds an id twice", context.name())));
        }
        Ok(ids)
    }

    /// How many documents there are.
    pub fn len(&self) -> usize {
        self.ranked.len()
    }

    /// The rank of a document of the input.
    pub fn rank(&self, id: &str) -> u32 {
        let number = number(id);
        let place = self.sorted.binary_search_by_key(&number, |rank| self.ranked[*rank as usize]);
        self.sorted[place.expect("every id of the input was read because its fragments are committed")]
    }

    /// The number of a document's id.
    pub fn number(&self, rank: u32) -> u128 {
        self.ranked[rank as usize]
    }

    /// The id of a document.
    pub fn id(&self, rank: u32) -> String {
        let number = self.number(rank);
        self.named.get(&number).cloned().unwrap_or_else(|| format!("{number:032x}"))
    }
}

/// What breaks ties of `survivor` before `id` does: how a document's files are split must not decide which of two stays.
const CONTENT: [&str; 3] = ["url", "date", "source_id"];

/// Plans the order of `survivor` over the table `input`.
pub async fn survivors(
    session: &SessionContext,
    stage: &str,
    input: &Schema,
    config: &DedupStage,
) -> Result<DataFrame> {
    let bytes = if input.column_with_name("text_bytes").is_some() { "" } else { ", octet_length(text) AS text_bytes" };
    let hash = if input.column_with_name("text_hash").is_some() { "text_hash" } else { "text_hash(text)" };
    let known = CONTENT.into_iter().filter(|c| input.column_with_name(c).is_some());
    let ties: String = known.map(|c| format!(", {c}")).collect();
    let order = format!("{}, {hash}{ties}, id", config.dedup.survivor);
    let query = format!("SELECT id FROM (SELECT *{bytes} FROM input) ORDER BY {order}");
    let frame = crate::stage::sql::select_only(session, &query).await.map_err(|e| {
        let e = e.strip_backtrace();
        Error::Manifest(format!(
            "error: `survivor` of stage `{stage}`: {e}\nhint: expected a SQL ORDER BY list such as \"text_bytes DESC\""
        ))
    })?;
    let mut unstable = None;
    frame.logical_plan().apply_with_subqueries(|node| {
        unstable = unstable.take().or_else(|| node.expressions().iter().find_map(unstable_in));
        Ok(TreeNodeRecursion::Continue)
    })?;
    match unstable {
        None => Ok(frame),
        Some((what, hint)) => {
            Err(Error::Manifest(format!("error: `survivor` of stage `{stage}`: it uses {what}\nhint: {hint}")))
        }
    }
}

/// An id of 32 hex digits as the number it is, any other by its hash.
fn number(id: &str) -> u128 {
    let plain = id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let parsed = if plain { u128::from_str_radix(id, 16).ok() } else { None };
    parsed.unwrap_or_else(|| xxh3_128(id.as_bytes()))
}
