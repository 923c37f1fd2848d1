//! `filter`: measures every rule on every row, then one decision: the first rule missed in the written order.

use super::rowlocal::{self, Decided};
use super::{Context, Output};
use crate::dataset::string_column;
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use crate::stage::extract::table;
use crate::udf;
use crate::verdict::{Finding, Status, Verdicts};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Float64Type};
use datafusion::common::DFSchema;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::prelude::{DataFrame, Expr, col, ident};
use filters::rules::{FilterConfig, Rule};
use std::sync::Arc;

const MEASURES: &str = "measures_found";

impl Options for FilterConfig {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults = Vec::new();
        if let Err(e) = filters::rules::resolve(self) {
            faults.push(OptionFault::new(if self.rules.is_empty() { "recipe" } else { "rules" }, e.to_string()));
        }
        if self.recipe.is_none() && self.rules.is_empty() && self.r#where.is_none() {
            faults.push(OptionFault::new("kind", "a filter needs a `recipe`, `rules` or `where`"));
        }
        faults
    }
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &FilterConfig) -> Result<Output> {
    let rules: Arc<[Rule]> = filters::rules::resolve(config).map_err(|e| Error::Manifest(e.to_string()))?.into();
    let measures = udf::measures(rules.clone());
    let conjuncts = match &config.r#where {
        Some(sql) => conjuncts(context, sql, &rules)?,
        None => Vec::new(),
    };
    let plan = |frame: DataFrame| -> Result<DataFrame> {
        let mut frame = frame.with_column(MEASURES, measures.call(vec![col("text")]))?;
        if conjuncts.is_empty() {
            return Ok(frame);
        }
        // Conditions see the input's columns and every measure under its rule's name.
        let names: Vec<String> = frame.schema().fields().iter().map(|f| f.name().clone()).collect();
        let mut shown: Vec<Expr> = names.iter().map(ident).collect();
        for rule in rules.iter() {
            shown.push(
                datafusion::functions::core::expr_fn::get_field(ident(MEASURES), rule.name.as_str()).alias(&rule.name),
            );
        }
        frame = frame.select(shown)?;
        let mut out: Vec<Expr> = names.iter().map(ident).collect();
        out.extend(conjuncts.iter().enumerate().map(|(i, c)| c.clone().alias(format!("where_{i}"))));
        Ok(frame.select(out)?)
    };
    let named: Vec<String> = conjuncts.iter().map(|c| format!("where {c}")).collect();
    let fragments = rowlocal::run(context, plan, |batch| decide(batch, &rules, &named))?;
    let note = rowlocal::summary(&fragments);
    Ok(Output { fragments, note, ..Output::default() })
}

/// The conditions of a `where`, one rule each.
fn conjuncts(context: &Context<'_>, sql: &str, rules: &[Rule]) -> Result<Vec<Expr>> {
    let mut fields: Vec<Field> = context.input().schema()?.fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.extend(rules.iter().map(|r| Field::new(&r.name, DataType::Float64, true)));
    let schema = DFSchema::try_from(datafusion::arrow::datatypes::Schema::new(fields))?;
    let expression = context.session()?.parse_sql_expr(sql, &schema).map_err(|e| {
        Error::Manifest(format!(
            "error: `where` of stage `{}`: {e}\nhint: columns of the input and rule names in double quotes may be used",
            context.name()
        ))
    })?;
    Ok(split_conjunction_owned(expression))
}

fn decide(batch: RecordBatch, rules: &[Rule], conjuncts: &[String]) -> Result<Decided> {
    let found = batch.column_by_name(MEASURES).expect("the plan added it").as_struct().clone();
    let measured: Vec<&Float64Array> = found.columns().iter().map(|c| c.as_primitive::<Float64Type>()).collect();
    let holds: Vec<ArrayRef> = (0..conjuncts.len())
        .map(|i| batch.column_by_name(&format!("where_{i}")).expect("the plan added it").clone())
        .collect();
    let ids = string_column(&batch, "id")?;
    let mut verdicts = Verdicts::default();
    let mut keep = Vec::with_capacity(batch.num_rows());
    for i in 0..batch.num_rows() {
        let mut findings = Vec::new();
        for (rule, column) in rules.iter().zip(&measured) {
            let value = (!column.is_null(i)).then(|| column.value(i));
            if value.is_some_and(|v| !rule.keeps(v)) {
                findings.push(Finding {
                    rule: rule.name.clone(),
                    value,
                    threshold: Some(rule.threshold),
                    reason: None,
                });
            }
        }
        for (name, column) in conjuncts.iter().zip(&holds) {
            let column = column.as_boolean();
            if column.is_null(i) || !column.value(i) {
                findings.push(Finding { rule: name.clone(), ..Finding::default() });
            }
        }
        let status = if findings.is_empty() { Status::Kept } else { Status::Dropped };
        verdicts.push(ids.value(i), status, &findings);
        for finding in &findings {
            verdicts.counts.add(&format!("missed:{}", finding.rule), 1);
        }
        keep.push(findings.is_empty());
    }
    let own = |name: &str| name != MEASURES && !name.starts_with("where_");
    let schema = batch.schema();
    let columns = schema.fields().iter().enumerate().filter(|(_, f)| own(f.name()));
    let rows = table(columns.map(|(i, f)| (f.name().clone(), batch.column(i).clone())).collect())?;
    let more = rules
        .iter()
        .zip(found.columns())
        .map(|(r, c)| (Field::new(&r.name, DataType::Float64, true), c.clone()))
        .collect();
    let counts = std::mem::take(&mut verdicts.counts);
    Ok(Decided { rows, keep: keep.into(), verdicts: verdicts.finish(more)?, counts })
}
