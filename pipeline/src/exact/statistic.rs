//! What is made of exact sums: the aggregates of SQL whose values are floats.
//!
//! With n rows and the sums X, Y, XX, XY, YY of values and products: mean = X / n, variance = (n XX - X^2) / (n d) with d = n for a
//! population and n - 1 for a sample, covariance = (n XY - X Y) / (n d), correlation = (n XY - X Y) / sqrt((n XX - X^2)(n YY - Y^2)).
//! Differences are of exact integers, so nothing cancels; sums, means, variances and covariances are the nearest f64 to the exact
//! value, deviations and correlations within two units of the last place of it.

use super::{Big, Exact, LOWEST};

/// An aggregate over floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Statistic {
    /// Null of no rows.
    Sum,
    /// Null of no rows.
    Mean,
    /// Null of no rows, or of one if `sample`.
    Variance {
        /// Over n - 1 in place of n.
        sample: bool,
    },
    /// The root of the variance.
    Deviation {
        /// Over n - 1 in place of n.
        sample: bool,
    },
    /// Of two columns, rows with a null in either left out.
    Covariance {
        /// Over n - 1 in place of n.
        sample: bool,
    },
    /// Pearson's, -1 to 1; null of fewer than two rows and if a column does not vary.
    Correlation,
}

/// A term that is summed: a column, or a product of two.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Term {
    X,
    Y,
    Xx,
    Xy,
    Yy,
}

impl Statistic {
    /// The aggregate that the engine knows under this name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "sum" => Self::Sum,
            "avg" => Self::Mean,
            "var" => Self::Variance { sample: true },
            "var_pop" => Self::Variance { sample: false },
            "stddev" => Self::Deviation { sample: true },
            "stddev_pop" => Self::Deviation { sample: false },
            "covar_samp" => Self::Covariance { sample: true },
            "covar_pop" => Self::Covariance { sample: false },
            "corr" => Self::Correlation,
            _ => return None,
        })
    }

    /// The sums it needs.
    pub(super) fn terms(self) -> &'static [Term] {
        match self {
            Self::Sum | Self::Mean => &[Term::X],
            Self::Variance { .. } | Self::Deviation { .. } => &[Term::X, Term::Xx],
            Self::Covariance { .. } => &[Term::X, Term::Y, Term::Xy],
            Self::Correlation => &[Term::X, Term::Y, Term::Xy, Term::Xx, Term::Yy],
        }
    }

    /// Its value over `n` rows with these sums.
    pub(super) fn value(self, n: u64, sums: &[Exact]) -> Option<f64> {
        let least = match self {
            Self::Variance { sample: true } | Self::Deviation { sample: true } | Self::Covariance { sample: true } => 2,
            Self::Correlation => 2,
            _ => 1,
        };
        if n < least {
            return None;
        }
        if let Some(value) = sums.iter().find_map(Exact::not_finite) {
            let plain = matches!(self, Self::Sum | Self::Mean);
            return Some(if plain { value } else { f64::NAN });
        }
        let of = |term: Term| {
            let at = self.terms().iter().position(|t| *t == term).expect("a statistic reads only sums it asked for");
            let lowest = if matches!(term, Term::X | Term::Y) { LOWEST } else { 2 * LOWEST };
            sums[at].big(lowest).expect("sums that are not finite were handled above")
        };
        // n * sum(ab) - sum(a) * sum(b)
        let spread = |product: Term, a: Term, b: Term| Big::count(n).times(&of(product)).minus(&of(a).times(&of(b)));
        let over = |sample: bool| n - u64::from(sample);
        match self {
            Self::Sum => Some(of(Term::X).round()),
            Self::Mean => Some(of(Term::X).over(n).round()),
            Self::Variance { sample } => Some(spread(Term::Xx, Term::X, Term::X).over(n).over(over(sample)).round()),
            Self::Covariance { sample } => Some(spread(Term::Xy, Term::X, Term::Y).over(n).over(over(sample)).round()),
            Self::Deviation { sample } => {
                let (m, e) = root(spread(Term::Xx, Term::X, Term::X).over(n).over(over(sample)).scaled());
                Some(Big::of(m, e).round())
            }
            Self::Correlation => {
                let (x, y) = (spread(Term::Xx, Term::X, Term::X), spread(Term::Yy, Term::Y, Term::Y));
                if x.is_zero() || y.is_zero() {
                    return None;
                }
                let ((m, e), (below, d)) = (spread(Term::Xy, Term::X, Term::Y).scaled(), root(x.times(&y).scaled()));
                Some(Big::of(m / below, e - d).round().clamp(-1.0, 1.0))
            }
        }
    }
}

/// The square root of m * 2^e, in the same form.
fn root((m, e): (f64, i64)) -> (f64, i64) {
    let odd = e.rem_euclid(2);
    ((m * (1 + odd) as f64).sqrt(), (e - odd) / 2)
}
