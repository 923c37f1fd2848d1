//! `min` and `max` over floats in one total order: below numbers negative infinity, -0 before +0, above infinity NaN.
//!
//! The engine's own compare with `<` within groups, so that with a NaN, or both zeros, in a group the last or the first row wins. Here
//! a float is turned into the integer of the same rank, the engine finds the extreme integer, and the result is turned back. Partial
//! results are these integers.

use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray, Float64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature,
};
use std::sync::Arc;

/// `min` or `max`: the engine's own over anything but floats.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Extreme(pub(super) Arc<AggregateUDF>);

fn is_float(field: &FieldRef) -> bool {
    field.data_type().is_floating()
}

/// The integer with a float's rank; all NaN have that of the greatest.
fn rank(x: f64) -> i64 {
    let bits = (if x.is_nan() { f64::NAN.abs() } else { x }).to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

fn float(rank: i64) -> f64 {
    f64::from_bits((rank ^ (((rank >> 63) as u64) >> 1) as i64) as u64)
}

fn ranks(values: &[ArrayRef]) -> Result<[ArrayRef; 1]> {
    let floats = cast(&values[0], &DataType::Float64)?;
    Ok([Arc::new(floats.as_primitive::<Float64Type>().unary::<_, Int64Type>(rank))])
}

/// Arguments as the engine has them for a column of integers.
fn over_ranks<T>(args: AccumulatorArgs, make: impl FnOnce(AccumulatorArgs) -> Result<T>) -> Result<T> {
    let field: FieldRef = Arc::new(Field::new(args.return_field.name(), DataType::Int64, true));
    let fields = [field.clone()];
    make(AccumulatorArgs { return_field: field, expr_fields: &fields, ..args })
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.0.coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.0.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if !is_float(&args.expr_fields[0]) {
            return self.0.accumulator(args);
        }
        let data_type = args.return_field.data_type().clone();
        let ranks = over_ranks(args, |args| self.0.accumulator(args))?;
        Ok(Box::new(OfRanks { ranks, data_type }))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if !is_float(&args.expr_fields[0]) {
            return self.0.create_sliding_accumulator(args);
        }
        let data_type = args.return_field.data_type().clone();
        let ranks = over_ranks(args, |args| self.0.create_sliding_accumulator(args))?;
        Ok(Box::new(OfRanks { ranks, data_type }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        if !is_float(&args.input_fields[0]) {
            return self.0.state_fields(args);
        }
        let field: FieldRef = Arc::new(Field::new(args.return_field.name(), DataType::Int64, true));
        let fields = [field.clone()];
        self.0.state_fields(StateFieldsArgs { input_fields: &fields, return_field: field, ..args })
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        is_float(&args.expr_fields[0]) || self.0.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        if !is_float(&args.expr_fields[0]) {
            return self.0.create_groups_accumulator(args);
        }
        let data_type = args.return_field.data_type().clone();
        let ranks = over_ranks(args, |args| self.0.create_groups_accumulator(args))?;
        Ok(Box::new(OfRanks { ranks, data_type }))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.0.inner().set_monotonicity(data_type)
    }
}

/// The engine's accumulator over ranks, with floats going in and coming out.
#[derive(Debug)]
struct OfRanks<A> {
    ranks: A,
    data_type: DataType,
}

impl Accumulator for OfRanks<Box<dyn Accumulator>> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.ranks.update_batch(&ranks(values)?)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.ranks.retract_batch(&ranks(values)?)
    }

    fn supports_retract_batch(&self) -> bool {
        self.ranks.supports_retract_batch()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let ScalarValue::Int64(found) = self.ranks.evaluate()? else {
            unreachable!("the extreme of integers is one because the engine keeps types")
        };
        ScalarValue::Float64(found.map(float)).cast_to(&self.data_type)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.ranks.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.ranks.merge_batch(states)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.ranks.size()
    }
}

impl GroupsAccumulator for OfRanks<Box<dyn GroupsAccumulator>> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        keep: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.ranks.update_batch(&ranks(values)?, groups, keep, total)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.ranks.merge_batch(states, groups, total)
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let found = self.ranks.evaluate(emit)?;
        let floats: Float64Array = found.as_primitive::<Int64Type>().unary(float);
        Ok(cast(&floats, &self.data_type)?)
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        self.ranks.state(emit)
    }

    fn convert_to_state(&self, values: &[ArrayRef], keep: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.ranks.convert_to_state(&ranks(values)?, keep)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.ranks.size()
    }
}

#[cfg(test)]
mod tests {
    use super::{float, rank};

    #[test]
    fn ranks_are_in_the_order_of_their_floats_and_lead_back_to_them() {
        let ordered = [f64::NEG_INFINITY, -1.5, -5e-324, -0.0, 0.0, 5e-324, 1.0, f64::MAX, f64::INFINITY, f64::NAN];
        assert!(ordered.windows(2).all(|w| rank(w[0]) < rank(w[1])));
        assert!(ordered.iter().all(|x| float(rank(*x)).to_bits() == x.to_bits()));
        assert_eq!(rank(-f64::NAN), rank(f64::NAN));
    }
}
