//! The law's coefficients over model sizes.

use serde::Serialize;

use crate::{EntropyError, LawFit};

/// A coefficient as a line in the logarithm of the model's size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LogLinear {
    /// Change for each factor e in the number of parameters.
    pub slope: f64,
    /// Value at one parameter, where the line starts: of no meaning by itself.
    pub intercept: f64,
    /// Share of the coefficient's variance explained; 0 where it is constant.
    pub r_squared: f64,
}

impl LogLinear {
    /// The coefficient expected of a model with so many parameters.
    pub fn at(&self, parameters: f64) -> f64 {
        self.intercept + self.slope * parameters.ln()
    }
}

/// How `a`, `b` and the ceiling go with the size of the model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scaling {
    /// Of the coefficient `a`.
    pub a: LogLinear,
    /// Of the intercept `b`.
    pub b: LogLinear,
    /// Of the ceiling `-a + b`.
    pub ceiling: LogLinear,
}

/// Fits each coefficient as a line in ln(parameters), from runs of models of one family.
///
/// # Errors
/// Fewer than two runs, a size that is not positive and finite, or sizes that are all the same.
///
/// # References
/// arXiv 2505.22617, Section 2: the coefficients are log-linear in the size of the model.
pub fn fit_scaling(runs: &[(f64, LawFit)]) -> Result<Scaling, EntropyError> {
    let found = runs.len();
    if found < 2 {
        return Err(EntropyError::TooFewPoints { found, needed: 2 });
    }
    if let Some(&(parameters, _)) = runs.iter().find(|(n, _)| !(n.is_finite() && *n > 0.0)) {
        return Err(EntropyError::SizeOutOfRange { parameters });
    }
    let line = |pick: fn(&LawFit) -> f64| {
        let pairs: Vec<(f64, f64)> = runs.iter().map(|(n, fit)| (n.ln(), pick(fit))).collect();
        log_linear(&pairs).ok_or(EntropyError::ConstantSize { runs: found })
    };
    Ok(Scaling {
        a: line(|fit| fit.a)?,
        b: line(|fit| fit.b)?,
        ceiling: line(|fit| fit.ceiling)?,
    })
}

/// Least squares; `None` where x never changes.
fn log_linear(pairs: &[(f64, f64)]) -> Option<LogLinear> {
    let n = pairs.len() as f64;
    let x_mean = pairs.iter().map(|p| p.0).sum::<f64>() / n;
    let y_mean = pairs.iter().map(|p| p.1).sum::<f64>() / n;
    let sum = |f: fn(f64, f64) -> f64| -> f64 {
        pairs.iter().map(|(x, y)| f(x - x_mean, y - y_mean)).sum()
    };
    let (sxx, syy, sxy) = (sum(|x, _| x * x), sum(|_, y| y * y), sum(|x, y| x * y));
    (sxx > 0.0).then(|| LogLinear {
        slope: sxy / sxx,
        intercept: y_mean - sxy / sxx * x_mean,
        r_squared: if syy > 0.0 {
            sxy * sxy / (sxx * syy)
        } else {
            0.0
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LawPoint, fit_law};

    fn law(a: f64, b: f64) -> LawFit {
        let entropies: [f64; 4] = [0.2, 0.5, 0.9, 1.4];
        let points = entropies.map(|entropy| LawPoint {
            entropy,
            reward: b - a * entropy.exp(),
        });
        fit_law(&points).unwrap()
    }

    #[test]
    fn coefficients_on_a_line_in_the_logarithm_of_size_are_found_again() {
        let runs = [0.5e9, 1.5e9, 3e9, 7e9]
            .map(|n: f64| (n, law(1.2 - 0.05 * n.ln(), 0.1 + 0.02 * n.ln())));
        let scaling = fit_scaling(&runs).unwrap();
        assert!((scaling.a.slope + 0.05).abs() < 1e-9 && (scaling.b.slope - 0.02).abs() < 1e-9);
        assert!((scaling.ceiling.slope - 0.07).abs() < 1e-9);
        assert!((scaling.a.at(7e9) - (1.2 - 0.05 * 7e9_f64.ln())).abs() < 1e-9);
        assert!((scaling.a.r_squared - 1.0).abs() < 1e-9);
    }

    #[test]
    fn sizes_must_differ_and_be_positive() {
        let fit = law(0.2, 0.7);
        assert!(matches!(
            fit_scaling(&[(1e9, fit)]),
            Err(EntropyError::TooFewPoints { .. })
        ));
        assert!(matches!(
            fit_scaling(&[(1e9, fit), (0.0, fit)]),
            Err(EntropyError::SizeOutOfRange { .. })
        ));
        assert!(matches!(
            fit_scaling(&[(1e9, fit), (1e9, fit)]),
            Err(EntropyError::ConstantSize { .. })
        ));
    }
}
