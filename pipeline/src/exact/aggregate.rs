//! Exact statistics as aggregates of DataFusion, under the names of the engine's own, which they leave to it for other types than
//! floats: `sum avg var var_pop stddev stddev_pop covar_samp covar_pop corr min max` and their aliases.
//!
//! A partial result is one binary value: the count of rows as u64, little-endian, and the sums (`Exact::write`); with DISTINCT, the
//! values seen, 8 bytes each. So it can be spilled, sent and merged, and what comes out depends on the set of rows alone.

use super::extreme::Extreme;
use super::statistic::Term;
use super::{Exact, Statistic};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::functions_aggregate::all_default_aggregate_functions;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature,
};
use std::collections::HashSet;
use std::sync::Arc;

/// The aggregates, to be registered over the engine's.
pub fn functions() -> Vec<AggregateUDF> {
    let exact = |engine: Arc<AggregateUDF>| match Statistic::named(engine.name()) {
        Some(statistic) => Some(AggregateUDF::from(OverFloats { statistic, engine })),
        None => matches!(engine.name(), "min" | "max").then(|| AggregateUDF::from(Extreme(engine))),
    };
    all_default_aggregate_functions().into_iter().filter_map(exact).collect()
}

/// An aggregate that is exact over floats and the engine's own over anything else.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OverFloats {
    statistic: Statistic,
    engine: Arc<AggregateUDF>,
}

fn is_float(field: &FieldRef) -> bool {
    *field.data_type() == DataType::Float64
}

impl AggregateUDFImpl for OverFloats {
    fn name(&self) -> &str {
        self.engine.name()
    }

    fn aliases(&self) -> &[String] {
        self.engine.aliases()
    }

    fn signature(&self) -> &Signature {
        self.engine.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.engine.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if !is_float(&args.expr_fields[0]) {
            return self.engine.accumulator(args);
        }
        match (args.is_distinct, self.statistic.terms().contains(&Term::Y)) {
            (false, _) => Ok(Box::new(Groups::one(self.statistic))),
            (true, false) => Ok(Box::new(Distinct { statistic: self.statistic, seen: HashSet::new() })),
            (true, true) => plan_err!("{} has no DISTINCT: group by both columns in a subquery first", self.name()),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        if !is_float(&args.input_fields[0]) {
            return self.engine.state_fields(args);
        }
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "exact"), DataType::Binary, true))])
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        if is_float(&args.expr_fields[0]) { !args.is_distinct } else { self.engine.groups_accumulator_supported(args) }
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        match is_float(&args.expr_fields[0]) {
            true => Ok(Box::new(Groups::new(self.statistic))),
            false => self.engine.create_groups_accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if is_float(&args.expr_fields[0]) {
            self.accumulator(args)
        } else {
            self.engine.create_sliding_accumulator(args)
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.engine.documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.engine.inner().set_monotonicity(data_type)
    }
}

/// Sums of any number of groups.
#[derive(Debug)]
struct Groups {
    statistic: Statistic,
    counts: Vec<u64>,
    /// Those of a group lie together, one a term.
    sums: Vec<Exact>,
    /// Bytes behind `sums`.
    heap: usize,
}

impl Groups {
    fn new(statistic: Statistic) -> Self {
        Self { statistic, counts: Vec::new(), sums: Vec::new(), heap: 0 }
    }

    fn one(statistic: Statistic) -> Self {
        let mut groups = Self::new(statistic);
        groups.grow(1);
        groups
    }

    fn grow(&mut self, groups: usize) {
        self.counts.resize(groups, 0);
        self.sums.resize(groups * self.statistic.terms().len(), Exact::default());
    }

    /// Adds one row (`sign` 1), or takes it away (-1).
    #[inline(always)]
    fn row(&mut self, group: usize, x: f64, y: f64, sign: i64) {
        let terms = self.statistic.terms();
        self.counts[group] = self.counts[group].wrapping_add_signed(sign);
        let sums = &mut self.sums[group * terms.len()..(group + 1) * terms.len()];
        for (sum, term) in sums.iter_mut().zip(terms) {
            let before = sum.heap();
            match (term, sign) {
                (Term::X, 1) => sum.add(x),
                (Term::X, _) => sum.subtract(x),
                (Term::Y, 1) => sum.add(y),
                (Term::Y, _) => sum.subtract(y),
                (Term::Xx, _) => sum.add_product(x, x, sign),
                (Term::Xy, _) => sum.add_product(x, y, sign),
                (Term::Yy, _) => sum.add_product(y, y, sign),
            }
            self.heap = self.heap + sum.heap() - before;
        }
    }

    /// Adds or takes away rows without nulls; `group` of a row's index.
    fn rows(&mut self, values: &[ArrayRef], sign: i64, keep: Option<&BooleanArray>, group: impl Fn(usize) -> usize) {
        let columns: Vec<&Float64Array> = values.iter().map(|v| v.as_primitive::<Float64Type>()).collect();
        let (x, y) = (columns[0], columns[columns.len() - 1]);
        let plain = keep.is_none() && columns.iter().all(|c| c.null_count() == 0);
        for i in 0..x.len() {
            if plain || (keep.is_none_or(|k| k.is_valid(i) && k.value(i)) && x.is_valid(i) && y.is_valid(i)) {
                self.row(group(i), x.value(i), y.value(i), sign);
            }
        }
    }

    fn merge(&mut self, states: &BinaryArray, group: impl Fn(usize) -> usize) -> Result<()> {
        let terms = self.statistic.terms().len();
        for (i, state) in states.iter().enumerate().filter_map(|(i, s)| Some((i, s?))) {
            let Some((count, mut bytes)) = state.split_first_chunk::<8>() else { return no_state() };
            let group = group(i);
            self.counts[group] += u64::from_le_bytes(*count);
            for sum in &mut self.sums[group * terms..(group + 1) * terms] {
                let Some(other) = Exact::read(&mut bytes) else { return no_state() };
                let before = sum.heap();
                sum.merge(&other);
                self.heap = self.heap + sum.heap() - before;
            }
        }
        Ok(())
    }

    fn take(&mut self, emit: EmitTo) -> (Vec<u64>, Vec<Exact>) {
        let terms = self.statistic.terms().len();
        let sums = match emit {
            EmitTo::All => EmitTo::All,
            EmitTo::First(n) => EmitTo::First(n * terms),
        };
        let taken = (emit.take_needed(&mut self.counts), sums.take_needed(&mut self.sums));
        self.heap = self.sums.iter().map(Exact::heap).sum();
        taken
    }

    fn bytes(&self) -> usize {
        size_of_val(self) + self.counts.capacity() * 8 + self.sums.capacity() * size_of::<Exact>() + self.heap
    }
}

fn no_state<T>() -> Result<T> {
    exec_err!("a partial sum of floats is cut short")
}

fn state(count: u64, sums: &mut [Exact]) -> Vec<u8> {
    let mut bytes = count.to_le_bytes().to_vec();
    sums.iter_mut().for_each(|sum| sum.write(&mut bytes));
    bytes
}

impl Accumulator for Groups {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let x = values[0].as_primitive::<Float64Type>();
        if self.statistic.terms() != [Term::X] {
            self.rows(values, 1, None, |_| 0);
        } else if x.null_count() == 0 {
            self.counts[0] += x.len() as u64;
            self.sums[0].add_all(x.values());
        } else {
            let valid: Vec<f64> = x.iter().flatten().collect();
            self.counts[0] += valid.len() as u64;
            self.sums[0].add_all(&valid);
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.rows(values, -1, None, |_| 0);
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.statistic.value(self.counts[0], &self.sums)))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Binary(Some(state(self.counts[0], &mut self.sums)))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.merge(states[0].as_binary(), |_| 0)
    }

    fn size(&self) -> usize {
        self.bytes()
    }
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        keep: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.grow(total);
        self.rows(values, 1, keep, |i| groups[i]);
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.grow(total);
        self.merge(states[0].as_binary(), |i| groups[i])
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let (counts, sums) = self.take(emit);
        let of_groups = counts.iter().zip(sums.chunks(self.statistic.terms().len()));
        Ok(Arc::new(of_groups.map(|(n, sums)| self.statistic.value(*n, sums)).collect::<Float64Array>()))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let (counts, mut sums) = self.take(emit);
        let of_groups = counts.iter().zip(sums.chunks_mut(self.statistic.terms().len()));
        Ok(vec![Arc::new(of_groups.map(|(n, sums)| Some(state(*n, sums))).collect::<BinaryArray>())])
    }

    fn convert_to_state(&self, values: &[ArrayRef], keep: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let mut each = Groups::new(self.statistic);
        each.grow(values[0].len());
        each.rows(values, 1, keep, |i| i);
        GroupsAccumulator::state(&mut each, EmitTo::All)
    }

    fn size(&self) -> usize {
        self.bytes()
    }
}

/// A statistic of different values of one column: both zeros are one value, and so are all NaN.
#[derive(Debug)]
struct Distinct {
    statistic: Statistic,
    seen: HashSet<u64>,
}

impl Accumulator for Distinct {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let canonical = |x: f64| if x.is_nan() { f64::NAN.to_bits() } else { (x + 0.0).to_bits() };
        self.seen.extend(values[0].as_primitive::<Float64Type>().iter().flatten().map(canonical));
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut groups = Groups::one(self.statistic);
        self.seen.iter().for_each(|bits| groups.row(0, f64::from_bits(*bits), 0.0, 1));
        Accumulator::evaluate(&mut groups)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let mut seen: Vec<u64> = self.seen.iter().copied().collect();
        seen.sort_unstable();
        Ok(vec![ScalarValue::Binary(Some(seen.iter().flat_map(|bits| bits.to_le_bytes()).collect()))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for state in states[0].as_binary::<i32>().iter().flatten() {
            let (seen, rest) = state.as_chunks::<8>();
            if !rest.is_empty() {
                return no_state();
            }
            self.seen.extend(seen.iter().map(|bits| u64::from_le_bytes(*bits)));
        }
        Ok(())
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.seen.capacity() * 9
    }
}
