//! `filter`: measures every rule on every row, then one decision: the first rule missed in the written order.

use super::rowlocal::{self, Decided};
use super::{Context, Output};
use crate::dataset::string_column;
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use crate::source::files::Asset;
use crate::stage::extract::table;
use crate::udf;
use crate::verdict::{Finding, Status, Verdicts};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::ExprSchemable;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::prelude::{DataFrame, Expr, SessionContext, cast, col, ident, lit};
use filters::rules::{FilterConfig, Lists, Measurer, Rule, RuleError};
use std::path::Path;
use std::sync::Arc;

const MEASURES: &str = "measures_found";
/// The column that chooses thresholds.
const LANGUAGE: &str = "language";

impl Options for FilterConfig {
    fn check(&self) -> Vec<OptionFault> {
        let fault = |e: RuleError| {
            let key = match &e {
                // The model may be a stage's: whether one is named is seen once all stages are read.
                RuleError::MissingList { list: PERPLEXITY, .. } => return None,
                RuleError::UnknownDialect { .. } => "dialect",
                RuleError::UnknownRecipe { .. } => "recipe",
                RuleError::NotInFilter { .. } => "languages",
                RuleError::List { .. } => "lists",
                RuleError::Nothing => "kind",
                _ => "rules",
            };
            Some(OptionFault::new(key, e.to_string()))
        };
        filters::rules::faults(self).into_iter().filter_map(fault).collect()
    }
}

/// The option of `lists` that a stage may stand in for.
const PERPLEXITY: &str = "perplexity_model";

/// The files of a filter's lists, by option.
pub fn files(config: &FilterConfig, folder: &Path) -> Vec<(String, Asset)> {
    let named = config.lists.files().into_iter();
    named.map(|(name, file)| (format!("lists.{name}"), Asset::Local(folder.join(file)))).collect()
}

/// Reads the lists; a stage named by `perplexity` gives the model that `lists` would name.
fn measurer(context: &Context<'_>, config: &FilterConfig) -> Result<Measurer> {
    let manifest = |e: RuleError| {
        Error::Manifest(format!(
            "error: stage `{}`: {e}\nhint: a model for perplexity comes from `lists.perplexity_model` or from a stage of kind \
             classifier with  method = \"ngram\",  named by `perplexity`",
            context.name()
        ))
    };
    let (mut config, mut lists) = (config.clone(), Lists::default());
    for (name, file) in config.lists.files() {
        let path = context.folder.join(file);
        lists.add(&name, &std::fs::read(&path).map_err(Error::io("read", &path))?).map_err(manifest)?;
    }
    if let Some(stage) = context.reference("perplexity") {
        let path = stage.path.join(super::classifier::NGRAM_MODEL);
        let bytes = std::fs::read(&path).map_err(|_| {
            Error::Manifest(format!(
                "error: stage `{}` is no n-gram model\nhint: give it  method = \"ngram\"",
                stage.name
            ))
        })?;
        lists.add(PERPLEXITY, &bytes).map_err(manifest)?;
        config.lists.perplexity_model = Some(stage.name.clone());
    }
    Measurer::new(&config, lists).map_err(manifest)
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &FilterConfig) -> Result<Output> {
    let measurer = Arc::new(measurer(context, config)?);
    let measures = udf::measures(measurer.clone(), context.name().to_string());
    let conjuncts = match &config.r#where {
        Some(sql) => {
            conjuncts(&context.session()?, context.name(), &*context.input().schema()?, sql, measurer.rules())?
        }
        None => Vec::new(),
    };
    let plan = |frame: DataFrame| -> Result<DataFrame> {
        let names: Vec<String> = frame.schema().fields().iter().map(|f| f.name().clone()).collect();
        let column = |name: &str| {
            if names.iter().any(|n| n == name) {
                ident(name)
            } else {
                cast(lit(ScalarValue::Utf8(None)), DataType::Utf8)
            }
        };
        let arguments = vec![col("text"), column("url"), column(LANGUAGE)];
        let mut frame = frame.with_column(MEASURES, measures.call(arguments))?;
        if conjuncts.is_empty() {
            return Ok(frame);
        }
        // Conditions see the input's columns and every measure under its rule's name.
        let names: Vec<String> = frame.schema().fields().iter().map(|f| f.name().clone()).collect();
        let mut shown: Vec<Expr> = names.iter().map(ident).collect();
        for rule in measurer.rules() {
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
    let fragments = rowlocal::run(context, plan, |batch| decide(batch, &measurer, &named))?;
    let note = rowlocal::summary(&fragments);
    Ok(Output { fragments, note, ..Output::default() })
}

/// The conditions of a `where`, one rule each.
fn conjuncts(session: &SessionContext, stage: &str, input: &Schema, sql: &str, rules: &[Rule]) -> Result<Vec<Expr>> {
    let mut fields: Vec<Field> = input.fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.extend(measured(rules));
    let schema = DFSchema::try_from(Schema::new(fields))?;
    let wrong = |what: String| {
        Error::Manifest(format!(
            "error: `where` of stage `{stage}`: {what}\nhint: columns of the input and rule names in double quotes may be used"
        ))
    };
    let expression = session.parse_sql_expr(sql, &schema).map_err(|e| wrong(e.strip_backtrace()))?;
    let conjuncts = split_conjunction_owned(expression);
    for conjunct in &conjuncts {
        let kind = conjunct.get_type(&schema).map_err(|e| wrong(e.strip_backtrace()))?;
        if kind != DataType::Boolean {
            return Err(wrong(format!("expected a condition, but {conjunct} is {kind}")));
        }
        if let Some((what, hint)) = super::sql::check::unstable_in(conjunct) {
            return Err(Error::Manifest(format!("error: `where` of stage `{stage}`: it uses {what}\nhint: {hint}")));
        }
    }
    Ok(conjuncts)
}

/// The columns of verdicts that hold the measures.
fn measured(rules: &[Rule]) -> Vec<Field> {
    rules.iter().map(|r| Field::new(&r.name, DataType::Float64, true)).collect()
}

/// The columns of the verdicts over an input with these columns, or the option that is wrong; `perplexity` is the stage that gives
/// the model.
pub fn dry(
    session: &SessionContext,
    input: &Schema,
    config: &FilterConfig,
    stage: &str,
    perplexity: Option<&String>,
) -> std::result::Result<SchemaRef, (&'static str, Error)> {
    let mut config = config.clone();
    if perplexity.is_some() {
        config.lists.perplexity_model = perplexity.cloned();
    }
    let rules = filters::rules::resolve(&config).map_err(|e| {
        let hint = "a model comes from `lists.perplexity_model` or from a stage of kind classifier with  method = \"ngram\",  named by `perplexity`";
        ("rules", Error::Manifest(format!("error: `rules` of stage `{stage}`: {e}\nhint: {hint}")))
    })?;
    if let Some(sql) = &config.r#where {
        conjuncts(session, stage, input, sql, &rules).map_err(|e| ("where", e))?;
    }
    Ok(crate::schema::verdicts(measured(&rules)))
}

fn decide(batch: RecordBatch, measurer: &Measurer, conjuncts: &[String]) -> Result<Decided> {
    let languages = batch.column_by_name(LANGUAGE).and_then(|c| c.as_string_opt::<i32>().cloned());
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
        let language = languages.as_ref().filter(|l| !l.is_null(i)).map(|l| l.value(i));
        for (rule, column) in measurer.rules_of(language).iter().zip(&measured) {
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
    let more = self::measured(measurer.rules()).into_iter().zip(found.columns().iter().cloned()).collect();
    let counts = std::mem::take(&mut verdicts.counts);
    Ok(Decided { rows, keep: keep.into(), verdicts: verdicts.finish(more)?, edits: None, counts })
}
