//! What a `sql` stage may ask: only queries that give the same rows in the same order on any day and with any memory.
//!
//! In: a planned query. Out: the same query with its ties broken (`ties.rs`), or an error that names a way out. Refused are volatile
//! functions, aggregates that depend on the order of rows but state none, LIMIT without ORDER BY, DISTINCT ON, and what no memory
//! limit bounds (windows, joins without an equality) unless the stage says `unbounded = true`. Sums of floats need no refusal:
//! sessions have exact ones (`crate::exact`).

use crate::error::{Error, Result};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Distinct, LogicalPlan, Volatility};
use datafusion::prelude::{DataFrame, Expr};

/// Aggregates whose value depends on the order in which rows arrive, unless an ORDER BY inside them states one.
pub(super) const ORDERED_AGGREGATES: &[&str] = &["array_agg", "first_value", "last_value", "nth_value", "string_agg"];
/// Aggregates whose value depends on that order and that take no ORDER BY, with what to use in their place. Slopes are of rows in which
/// neither column is null.
const UNORDERED_AGGREGATES: &[(&str, &str)] = &[
    ("any_value", "min(x), or first_value(x ORDER BY id)"),
    ("approx_median", "median(x)"),
    ("approx_percentile_cont", "percentile_cont(x, p)"),
    ("approx_percentile_cont_with_weight", "percentile_cont(x, p)"),
    ("regr_avgx", "avg(x)"),
    ("regr_avgy", "avg(y)"),
    ("regr_intercept", "avg(y) - covar_pop(y, x) / var_pop(x) * avg(x)"),
    ("regr_r2", "power(corr(y, x), 2)"),
    ("regr_slope", "covar_pop(y, x) / var_pop(x)"),
    ("regr_sxx", "count(x) * var_pop(x)"),
    ("regr_sxy", "count(x) * covar_pop(y, x)"),
    ("regr_syy", "count(y) * var_pop(y)"),
];

/// The query as it will run, or why it may not.
pub fn check(frame: DataFrame, unbounded: bool) -> Result<DataFrame> {
    stable(frame.logical_plan())?;
    if !unbounded {
        // Joins get their equalities only when the plan is optimised: before, `FROM a, b WHERE a.id = b.id` looks like a cross join.
        bounded(&frame.clone().into_optimized_plan()?)?;
    }
    let (state, plan) = frame.into_parts();
    Ok(DataFrame::new(state, super::ties::break_ties(plan)?))
}

fn refuse(what: &str, hint: &str) -> Result<()> {
    Err(Error::Manifest(format!("error: the query uses {what}\nhint: {hint}")))
}

/// Refuses what would give other rows on another day or in another order of rows.
fn stable(plan: &LogicalPlan) -> Result<()> {
    let mut found = Ok(());
    plan.apply_with_subqueries(|node| {
        for expression in node.expressions() {
            expression.apply(|e| {
                if let Err(e) = stable_expression(e) {
                    found = Err(e);
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        match node {
            LogicalPlan::Limit(limit) if !sorted_below(&limit.input) => {
                found = refuse("LIMIT without ORDER BY", "say which rows you want with ORDER BY, e.g. ORDER BY id");
            }
            LogicalPlan::TableScan(scan) if scan.table_name.schema() == Some("information_schema") => {
                found = refuse("the engine's own catalogue, which is no input", "name the stages it reads in `inputs`");
            }
            LogicalPlan::Distinct(Distinct::On(_)) => {
                let hint = "group by these columns and take the others with first_value(… ORDER BY id)";
                found = refuse("DISTINCT ON, which keeps any of the rows that tie", hint);
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    found
}

fn stable_expression(expression: &Expr) -> Result<()> {
    unstable(expression).map_or(Ok(()), |(what, hint)| refuse(&what, &hint))
}

/// What in an expression of an option would give other values on another day or in another order of rows, and a way out.
pub fn unstable_in(expression: &Expr) -> Option<(String, String)> {
    let mut found = None;
    let walked = expression.apply(|e| {
        found = unstable(e);
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    walked.expect("the walk ends because its closure never fails");
    found
}

/// The same at the top of an expression.
fn unstable(expression: &Expr) -> Option<(String, String)> {
    match expression {
        Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable => Some((
            format!("`{}`, whose value changes from call to call", f.func.name()),
            "derive numbers from `id`, e.g. with text_hash(id)".into(),
        )),
        Expr::ScalarFunction(f) if f.func.name() == "version" => Some((
            "`version`, whose value changes with the program".into(),
            "leave it out; receipts hold versions".into(),
        )),
        Expr::AggregateFunction(f) => unstable_aggregate(f.func.name(), !f.params.order_by.is_empty()),
        Expr::WindowFunction(f) => super::ties::is_of_rows(f.fun.name(), &f.params)
            .err()
            .or_else(|| unstable_aggregate(f.fun.name(), !f.params.order_by.is_empty())),
        _ => None,
    }
}

fn unstable_aggregate(name: &str, ordered: bool) -> Option<(String, String)> {
    let what = format!("`{name}`, which depends on the order of rows");
    if ORDERED_AGGREGATES.contains(&name) && !ordered {
        return Some((what, format!("state an order, e.g. {name}(… ORDER BY id)")));
    }
    let other = UNORDERED_AGGREGATES.iter().find(|(known, _)| *known == name);
    other.map(|(_, other)| (what, format!("use {other}")))
}

/// Refuses operators of an optimised plan whose memory no limit bounds.
fn bounded(plan: &LogicalPlan) -> Result<()> {
    let mut found = Ok(());
    let hint = "set  unbounded = true  on the stage to allow it";
    plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::Window(_) => found = refuse("a window function, whose memory no limit bounds", hint),
            LogicalPlan::Join(join) => {
                let one_row = |side: &LogicalPlan| side.max_rows().is_some_and(|n| n <= 1);
                if join.on.is_empty() && !one_row(&join.left) && !one_row(&join.right) {
                    found = refuse("a join without an equality, whose memory no limit bounds", hint);
                }
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    found
}

/// Whether the rows of a plan are in a stated order.
pub fn sorted_below(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(p) => sorted_below(&p.input),
        LogicalPlan::SubqueryAlias(a) => sorted_below(&a.input),
        _ => false,
    }
}
