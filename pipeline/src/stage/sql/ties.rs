//! Ties broken: wherever a query orders rows, the other columns become last keys, so that rows which its own keys call equal come in
//! an order that no memory limit, batch size or thread can change.
//!
//! ORDER BY gets all columns of its rows, `id` first. An aggregate with an ORDER BY inside gets its own arguments: rows that tie in
//! these too give the same value. A window function that counts rows gets all columns; one that looks at peers (`rank`, a sum over
//! RANGE) is left as it is, for equal rows are what it is about; one that picks a row among peers is refused.

use super::check::ORDERED_AGGREGATES;
use crate::error::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::logical_expr::expr::{Sort as Key, WindowFunctionParams};
use datafusion::logical_expr::{
    Aggregate, ExprSchemable, LogicalPlan, Sort, Window, WindowFrameBound, WindowFrameUnits,
};
use datafusion::prelude::{Expr, col};
use std::sync::Arc;

/// Window functions about rows that tie: the same for all of them.
const OF_PEERS: &[&str] = &["rank", "dense_rank", "percent_rank", "cume_dist"];
/// Window functions that number or shift rows, whatever their frame.
const OF_ROWS: &[&str] = &["row_number", "ntile", "lag", "lead"];
/// Window functions that pick a row of their frame.
const OF_FRAME: &[&str] = &["first_value", "last_value", "nth_value"];

/// The query with its ties broken.
pub fn break_ties(plan: LogicalPlan) -> Result<LogicalPlan> {
    let changed = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Sort(Sort { mut expr, input, fetch }) => {
            add(&mut expr, columns(input.schema()));
            Ok(Transformed::yes(LogicalPlan::Sort(Sort { expr, input, fetch })))
        }
        LogicalPlan::Aggregate(aggregate) => {
            let schema = aggregate.input.schema().clone();
            let inner: Vec<Expr> =
                aggregate.aggr_expr.into_iter().map(|e| ordered_inside(e, &schema)).collect::<EngineResult<_>>()?;
            let aggregate = Aggregate::try_new(aggregate.input, aggregate.group_expr, inner)?;
            Ok(Transformed::yes(LogicalPlan::Aggregate(aggregate)))
        }
        LogicalPlan::Window(window) => {
            let keys = columns(window.input.schema());
            let over: Vec<Expr> =
                window.window_expr.iter().map(|e| over(e.clone(), &keys)).collect::<EngineResult<_>>()?;
            let (same, broken): (Vec<_>, Vec<_>) =
                over.into_iter().zip(&window.window_expr).partition(|(now, before)| now == *before);
            // Functions of one node share one order.
            let mut input = window.input;
            for group in [broken, same].into_iter().filter(|g| !g.is_empty()) {
                let group = group.into_iter().map(|(e, _)| e).collect();
                input = Arc::new(LogicalPlan::Window(Window::try_new(group, input)?));
            }
            Ok(Transformed::yes(Arc::unwrap_or_clone(input)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(changed.data)
}

/// Columns that can be sorted by, `id` first.
fn columns(schema: &DFSchema) -> Vec<Expr> {
    let all = schema.columns();
    let mut plain: Vec<_> =
        all.into_iter().zip(schema.fields()).filter(|(_, f)| !f.data_type().is_nested()).map(|(c, _)| c).collect();
    plain.sort_by_key(|c| c.name != "id");
    plain.into_iter().map(col).collect()
}

fn add(keys: &mut Vec<Key>, last: Vec<Expr>) {
    for key in last {
        if !keys.iter().any(|k| k.expr == key) {
            keys.push(key.sort(true, true));
        }
    }
}

type EngineResult<T> = std::result::Result<T, DataFusionError>;

/// An aggregate with its arguments as last keys of the ORDER BY inside it.
fn ordered_inside(expression: Expr, schema: &DFSchema) -> EngineResult<Expr> {
    let name = expression.schema_name().to_string();
    let changed = expression.transform(|e| match e {
        Expr::AggregateFunction(mut f) if !f.params.order_by.is_empty() => {
            let sortable = |e: &Expr| {
                !matches!(e, Expr::Literal(..)) && e.get_type(schema).is_ok_and(|data_type| !data_type.is_nested())
            };
            let arguments = f.params.args.iter().filter(|e| sortable(e)).cloned().collect();
            add(&mut f.params.order_by, arguments);
            Ok(Transformed::yes(Expr::AggregateFunction(f)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(named(changed, name))
}

/// A window function with all columns as last keys, if it is about rows and not about peers.
fn over(expression: Expr, keys: &[Expr]) -> EngineResult<Expr> {
    let name = expression.schema_name().to_string();
    let changed = expression.transform(|e| {
        let Expr::WindowFunction(mut f) = e else { return Ok(Transformed::no(e)) };
        let of_rows = is_of_rows(f.fun.name(), &f.params).expect("what cannot be ordered was refused before");
        if of_rows {
            add(&mut f.params.order_by, keys.to_vec());
        }
        Ok(Transformed::new_transformed(Expr::WindowFunction(f), of_rows))
    })?;
    Ok(named(changed, name))
}

/// A changed expression under the name that the rest of the plan knows.
fn named(changed: Transformed<Expr>, name: String) -> Expr {
    match (changed.transformed, &changed.data) {
        (true, Expr::Alias(_)) | (false, _) => changed.data,
        (true, _) => changed.data.alias(name),
    }
}

/// Whether a window function's value depends on the order of rows that tie; what it uses and a way out if no order can be
/// given to them.
pub fn is_of_rows(name: &str, over: &WindowFunctionParams) -> std::result::Result<bool, (String, String)> {
    let unbounded = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::Preceding(n) | WindowFrameBound::Following(n) => n.is_null(),
        WindowFrameBound::CurrentRow => false,
    };
    let frame = &over.window_frame;
    let (from_start, to_end) = (unbounded(&frame.start_bound), unbounded(&frame.end_bound));
    let whole = from_start && to_end;
    let rows = frame.units == WindowFrameUnits::Rows;
    let picks = OF_FRAME.contains(&name) || ORDERED_AGGREGATES.contains(&name);
    let of_rows = match name {
        _ if OF_PEERS.contains(&name) => false,
        _ if OF_ROWS.contains(&name) || picks => true,
        _ => rows && !whole,
    };
    if of_rows && over.order_by.is_empty() {
        let hint = format!("state an order, e.g. {name}(…) OVER (… ORDER BY id)");
        return Err((format!("`{name}` over rows in no order"), hint));
    }
    let sure = rows || whole || (name == "first_value" && from_start);
    if picks && !sure {
        let hint = "say which rows: … ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)";
        return Err((format!("`{name}` over a frame that ends among rows with equal keys"), hint.into()));
    }
    Ok(of_rows)
}
