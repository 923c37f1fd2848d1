//! What a `sql` stage may ask: only queries that give the same rows in the same order on any day and with any memory.
//!
//! In: a planned query. Out: the same query with ties in its sorts broken, or an error that names a way out. Refused are volatile
//! functions, aggregates that depend on the order of rows but state none, LIMIT without ORDER BY, and what no memory limit bounds
//! (windows, joins without an equality) unless the stage says `unbounded = true`.

use crate::error::{Error, Result};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{LogicalPlan, Sort, Volatility};
use datafusion::prelude::{DataFrame, Expr, col};

/// Aggregates whose value depends on the order in which rows arrive, unless an ORDER BY inside them states one.
const ORDERED_AGGREGATES: &[&str] = &["array_agg", "first_value", "last_value", "nth_value", "string_agg"];
/// Aggregates whose value depends on that order and that take no ORDER BY, with what to use in their place.
const APPROXIMATE_AGGREGATES: &[(&str, &str)] = &[
    ("approx_median", "median"),
    ("approx_percentile_cont", "percentile_cont"),
    ("approx_percentile_cont_with_weight", "percentile_cont"),
];

/// The query as it will run, or why it may not.
pub fn check(frame: DataFrame, unbounded: bool) -> Result<DataFrame> {
    stable(frame.logical_plan())?;
    if !unbounded {
        // Joins get their equalities only when the plan is optimised: before, `FROM a, b WHERE a.id = b.id` looks like a cross join.
        bounded(&frame.clone().into_optimized_plan()?)?;
    }
    let (state, plan) = frame.into_parts();
    Ok(DataFrame::new(state, break_ties(plan)?))
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
        if let LogicalPlan::Limit(limit) = node
            && !sorted_below(&limit.input)
        {
            found = refuse("LIMIT without ORDER BY", "say which rows you want with ORDER BY, e.g. ORDER BY id");
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
        Expr::AggregateFunction(f) => {
            let name = f.func.name();
            let what = format!("`{name}`, which depends on the order of rows");
            if ORDERED_AGGREGATES.contains(&name) && f.params.order_by.is_empty() {
                return Some((what, format!("state an order, e.g. {name}(… ORDER BY id)")));
            }
            let exact = APPROXIMATE_AGGREGATES.iter().find(|(known, _)| *known == name);
            exact.map(|(_, exact)| (what, format!("use `{exact}`")))
        }
        _ => None,
    }
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

/// Every sort with the other columns of its rows as last keys: a spill may reorder rows that its own keys call equal.
fn break_ties(plan: LogicalPlan) -> Result<LogicalPlan> {
    let changed = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Sort(Sort { mut expr, input, fetch }) = node else { return Ok(Transformed::no(node)) };
        let columns = input.schema().columns();
        let plain = columns.iter().zip(input.schema().fields()).filter(|(_, f)| !f.data_type().is_nested());
        let mut keys: Vec<_> = plain.map(|(c, _)| c.clone()).collect();
        keys.sort_by_key(|c| c.name != "id");
        for key in keys {
            if !expr.iter().any(|s| matches!(&s.expr, Expr::Column(c) if *c == key)) {
                expr.push(col(key).sort(true, true));
            }
        }
        Ok(Transformed::yes(LogicalPlan::Sort(Sort { expr, input, fetch })))
    })?;
    Ok(changed.data)
}
