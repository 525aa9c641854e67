//! The mean of a few runs, and how far it can be trusted.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// A mean with the half width of its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MeanInterval {
    /// The mean.
    pub mean: f64,
    /// Student's t at 97.5 % times the standard error; `None` of a single value.
    pub half_width: Option<f64>,
}

impl MeanInterval {
    /// Of values that are independent, such as one a seed; `None` without any.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let half_width = (values.len() > 1)
            .then(|| student_quantile_975(n - 1.0) * (squares / (n - 1.0) / n).sqrt());
        Some(Self { mean, half_width })
    }
}

/// Student's t at 97.5 %.
pub(crate) fn student_quantile_975(degrees_of_freedom: f64) -> f64 {
    // Callers have one degree of freedom at least, so the distribution always exists.
    StudentsT::new(0.0, 1.0, degrees_of_freedom).map_or(f64::NAN, |t| t.inverse_cdf(0.975))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn student_quantiles_match_the_tables() {
        for (degrees, quantile) in [(1.0, 12.706_205), (10.0, 2.228_139), (238.0, 1.969_982)] {
            assert!((student_quantile_975(degrees) - quantile).abs() < 1e-5);
        }
    }

    #[test]
    fn a_mean_of_three_worked_by_hand() {
        // Standard deviation 1, standard error 1/√3, t of two degrees 4.302653.
        let found = MeanInterval::of(&[1.0, 2.0, 3.0]).unwrap();
        assert!((found.mean - 2.0).abs() < 1e-12);
        assert!((found.half_width.unwrap() - 4.302_653 / 3.0_f64.sqrt()).abs() < 1e-5);
        assert_eq!(MeanInterval::of(&[5.0]).unwrap().half_width, None);
        assert_eq!(MeanInterval::of(&[]), None);
    }
}
