//! The law `R = -a·e^H + b`, fitted and used to forecast.

use serde::{Deserialize, Serialize};

use crate::{EntropyError, interval::student_quantile_975};

/// Two coefficients and one degree of freedom for their intervals.
const FEWEST_POINTS: usize = 3;
/// Entropies count as one value where e^H spreads by less than rounding does.
const LEAST_RELATIVE_SPREAD: f64 = 1e-12;
/// The square of e^H overflows f64 beyond 354.
const LARGEST_ENTROPY_NATS: f64 = 350.0;
/// So that 0.15·20 is 3 points however its product rounds.
const COUNT_SLACK: f64 = 1e-9;

/// One step of a run: its policy entropy and its downstream performance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LawPoint {
    /// Policy entropy H, in nats.
    pub entropy: f64,
    /// Downstream performance R, such as an accuracy.
    pub reward: f64,
}

/// The fitted law `R = -a·e^H + b`, with 95 % Student-t intervals.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LawFit {
    /// How much reward is gained per unit of e^H given up.
    pub a: f64,
    /// The intercept.
    pub b: f64,
    /// `√(Σ residual² / n)`.
    pub rmse: f64,
    /// Share of the reward's variance explained; 0 where the reward is constant.
    pub r_squared: f64,
    /// The same of a line in H itself, `R = -a·H + b`: what the exponential has to beat for its shape to be seen.
    pub linear_r_squared: f64,
    /// 95 % interval of `a`.
    pub a_ci95: [f64; 2],
    /// 95 % interval of `b`.
    pub b_ci95: [f64; 2],
    /// The reward at zero entropy, `-a + b`: what the run saturates at.
    pub ceiling: f64,
    /// 95 % interval of the ceiling.
    pub ceiling_ci95: [f64; 2],
    /// Correlation of each residual with the one before, in the points' order. The intervals assume none.
    pub residual_correlation: f64,
    /// What the intervals of predictions follow from.
    #[serde(skip)]
    scatter: Scatter,
}

/// The points' scatter about a fitted line in x = e^H.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scatter {
    points: f64,
    x_mean: f64,
    sxx: f64,
    /// Σ residual² / (n - 2).
    variance: f64,
    /// Student's t at 97.5 %, of n - 2 degrees of freedom.
    quantile: f64,
}

/// Why a fitted law should not be believed.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LawDoubt {
    /// The interval of `a` has no sign.
    #[error("reward does not fall with e^H for sure: a lies in {low:.3}..{high:.3}")]
    NoSlope {
        /// Lower end of the interval of `a`.
        low: f64,
        /// Its upper end.
        high: f64,
    },
    /// Reward rises with entropy.
    #[error(
        "reward rises with entropy here: a = {a:.3} is below 0, so there is no ceiling at zero entropy"
    )]
    WrongSign {
        /// The coefficient.
        a: f64,
    },
    /// What the law leaves over is not noise: the points drift away from it and back.
    #[error(
        "its residuals follow one another (correlation {correlation:.2}): something else moves reward too, and the intervals are too narrow"
    )]
    Drift {
        /// Of each residual with the one before.
        correlation: f64,
    },
    /// Most of the reward's variance is left over.
    #[error("entropy explains only {:.0} % of the reward's variance", 100.0 * r_squared)]
    LittleExplained {
        /// The share explained.
        r_squared: f64,
    },
}

/// Least share of the reward's variance that a law worth the name explains.
const LEAST_R_SQUARED: f64 = 0.5;

/// By how much R² must be above a line's in H for the law's shape to be seen.
const LEAST_GAIN_OVER_A_LINE: f64 = 0.01;

/// Largest error of a residual, relative to the terms that cancel in it.
const ROUNDING: f64 = 1e-12;

impl LawFit {
    /// The reward that the law expects at an entropy, `-a·e^H + b`.
    pub fn predict(&self, entropy_nats: f64) -> f64 {
        self.b - self.a * entropy_nats.exp()
    }

    /// The 95 % interval of the law's line at an entropy.
    pub fn line_ci95(&self, entropy_nats: f64) -> [f64; 2] {
        self.interval(entropy_nats, 0.0)
    }

    /// The 95 % interval of one more measurement at an entropy: wider than the line's by the points' own scatter.
    pub fn prediction_ci95(&self, entropy_nats: f64) -> [f64; 2] {
        self.interval(entropy_nats, 1.0)
    }

    /// Whether these points tell the exponential from a line in H. Where entropy spans little, as near 0, e^H is next to a line.
    pub fn shows_its_shape(&self) -> bool {
        self.r_squared - self.linear_r_squared >= LEAST_GAIN_OVER_A_LINE
    }

    /// Whether a line in H explains clearly more than the law does.
    pub fn is_straight(&self) -> bool {
        self.linear_r_squared - self.r_squared >= LEAST_GAIN_OVER_A_LINE
    }

    /// Two standard errors of a correlation that is 0, and a third at least.
    fn largest_residual_correlation(&self) -> f64 {
        (2.0 / self.scatter.points.sqrt()).max(1.0 / 3.0)
    }

    fn interval(&self, entropy_nats: f64, own_scatter: f64) -> [f64; 2] {
        let (
            Scatter {
                points,
                x_mean,
                sxx,
                variance,
                quantile,
            },
            center,
        ) = (self.scatter, self.predict(entropy_nats));
        let away = (entropy_nats.exp() - x_mean).powi(2) / sxx;
        let half = quantile * (variance * (own_scatter + points.recip() + away)).sqrt();
        [center - half, center + half]
    }

    /// Why the law should not be believed of these points, if so. The paper does not claim that it is universal.
    pub fn doubt(&self) -> Option<LawDoubt> {
        let [low, high] = self.a_ci95;
        if high < 0.0 {
            Some(LawDoubt::WrongSign { a: self.a })
        } else if low <= 0.0 {
            Some(LawDoubt::NoSlope { low, high })
        } else if self.r_squared < LEAST_R_SQUARED {
            Some(LawDoubt::LittleExplained {
                r_squared: self.r_squared,
            })
        } else if self.residual_correlation > self.largest_residual_correlation() {
            Some(LawDoubt::Drift {
                correlation: self.residual_correlation,
            })
        } else {
            None
        }
    }
}

/// The law fitted to a whole run and to its first part, and how well the part predicted the rest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Forecast {
    /// The fit to all points.
    pub all: LawFit,
    /// The fit to the first part.
    pub early: LawFit,
    /// `√mean (R - predicted R)²` of the early fit over the points that it has not seen.
    pub early_prediction_rmse: f64,
    /// `|R - predicted R|` of the early fit at the last point.
    pub final_error: f64,
    /// Points of the first part.
    pub early_points: usize,
    /// Share of the points not seen that lie within the early fit's 95 % interval of a prediction.
    pub early_coverage: f64,
    /// That interval at the last point's entropy.
    pub final_prediction_ci95: [f64; 2],
}

/// Fits `R = -a·e^H + b` by least squares, which is linear in e^H.
///
/// # Errors
/// Fewer than three points, a point that is not finite, or entropies that are all the same.
///
/// # References
/// arXiv 2505.22617, Section 2.
pub fn fit_law(points: &[LawPoint]) -> Result<LawFit, EntropyError> {
    let moments = Moments::of(points)?;
    let Moments {
        n,
        x_mean,
        y_mean,
        sxx,
        sxy,
        syy,
    } = moments;
    let slope = sxy / sxx;
    let (a, b) = (-slope, y_mean - slope * x_mean);
    let residual = |p: &LawPoint| p.reward - b - slope * p.entropy.exp();
    let squared_error: f64 = points.iter().map(|p| residual(p).powi(2)).sum();
    let rmse = (squared_error / n).sqrt();
    // What rounding alone leaves of exact points: whether it follows a pattern says nothing, and differs between machines.
    let rounding = ROUNDING * (b.abs() + slope.abs() * (x_mean.abs() + sxx.sqrt()));
    let neighbours = points.windows(2);
    let products: f64 = neighbours
        .map(|pair| residual(&pair[0]) * residual(&pair[1]))
        .sum();
    let variance = squared_error / (n - 2.0);
    let quantile = student_quantile_975(n - 2.0);
    let scatter = Scatter {
        points: n,
        x_mean,
        sxx,
        variance,
        quantile,
    };
    // The line's standard error at abscissa x; the intercept lies at 0, the ceiling at e^0 = 1.
    let half_width =
        |x: f64| quantile * (variance * (n.recip() + (x - x_mean).powi(2) / sxx)).sqrt();
    let interval = |center: f64, half: f64| [center - half, center + half];
    Ok(LawFit {
        a,
        b,
        rmse,
        r_squared: if syy > 0.0 {
            1.0 - squared_error / syy
        } else {
            0.0
        },
        linear_r_squared: linear_r_squared(points, y_mean, syy),
        a_ci95: interval(a, quantile * (variance / sxx).sqrt()),
        b_ci95: interval(b, half_width(0.0)),
        ceiling: b - a,
        ceiling_ci95: interval(b - a, half_width(1.0)),
        residual_correlation: if rmse > rounding {
            products / squared_error
        } else {
            0.0
        },
        scatter,
    })
}

/// Share of the reward's variance that a line in H explains, by the square of their correlation.
fn linear_r_squared(points: &[LawPoint], y_mean: f64, syy: f64) -> f64 {
    let h_mean = points.iter().map(|p| p.entropy).sum::<f64>() / points.len() as f64;
    let sum = |f: &dyn Fn(&LawPoint) -> f64| points.iter().map(f).sum::<f64>();
    let shh = sum(&|p| (p.entropy - h_mean).powi(2));
    let shy = sum(&|p| (p.entropy - h_mean) * (p.reward - y_mean));
    if syy > 0.0 && shh > 0.0 {
        shy * shy / (shh * syy)
    } else {
        0.0
    }
}

/// Fits the first ⌊`first_fraction`·n⌋ points and predicts the rest of the run with that fit.
///
/// # Errors
/// As [`fit_law`], for all points and for the first part; or a fraction outside (0, 1).
pub fn forecast(points: &[LawPoint], first_fraction: f64) -> Result<Forecast, EntropyError> {
    if !(first_fraction > 0.0 && first_fraction < 1.0) {
        return Err(EntropyError::FractionOutOfRange {
            fraction: first_fraction,
        });
    }
    let all = fit_law(points)?;
    let early_count = (points.len() as f64 * first_fraction + COUNT_SLACK) as usize;
    let (seen, unseen) = points.split_at(early_count.min(points.len() - 1));
    let early = fit_law(seen)?;
    let error = |p: &LawPoint| (p.reward - early.predict(p.entropy)).abs();
    let mean_square = unseen.iter().map(|p| error(p).powi(2)).sum::<f64>() / unseen.len() as f64;
    let is_within = |p: &&LawPoint| {
        let [low, high] = early.prediction_ci95(p.entropy);
        (low..=high).contains(&p.reward)
    };
    // The part is a proper one: a point is left.
    let last = unseen[unseen.len() - 1];
    Ok(Forecast {
        all,
        early,
        early_prediction_rmse: mean_square.sqrt(),
        final_error: error(&last),
        early_points: seen.len(),
        early_coverage: unseen.iter().filter(is_within).count() as f64 / unseen.len() as f64,
        final_prediction_ci95: early.prediction_ci95(last.entropy),
    })
}

/// Centred sums of x = e^H and y = R.
struct Moments {
    n: f64,
    x_mean: f64,
    y_mean: f64,
    sxx: f64,
    sxy: f64,
    syy: f64,
}

impl Moments {
    fn of(points: &[LawPoint]) -> Result<Self, EntropyError> {
        check(points)?;
        let n = points.len() as f64;
        let pairs = || points.iter().map(|p| (p.entropy.exp(), p.reward));
        let x_mean = pairs().map(|(x, _)| x).sum::<f64>() / n;
        let y_mean = pairs().map(|(_, y)| y).sum::<f64>() / n;
        let product_sum = |f: fn(f64, f64) -> f64| -> f64 {
            pairs().map(|(x, y)| f(x - x_mean, y - y_mean)).sum()
        };
        let sxx = product_sum(|x, _| x * x);
        if sxx <= (LEAST_RELATIVE_SPREAD * x_mean).powi(2) * n {
            let entropy_nats = points[0].entropy;
            return Err(EntropyError::ConstantEntropy {
                points: points.len(),
                entropy_nats,
            });
        }
        let (sxy, syy) = (product_sum(|x, y| x * y), product_sum(|_, y| y * y));
        Ok(Self {
            n,
            x_mean,
            y_mean,
            sxx,
            sxy,
            syy,
        })
    }
}

fn check(points: &[LawPoint]) -> Result<(), EntropyError> {
    if points.len() < FEWEST_POINTS {
        return Err(EntropyError::TooFewPoints {
            found: points.len(),
            needed: FEWEST_POINTS,
        });
    }
    let usable = |p: &LawPoint| {
        p.reward.is_finite() && p.entropy.is_finite() && p.entropy < LARGEST_ENTROPY_NATS
    };
    match points.iter().position(|p| !usable(p)) {
        None => Ok(()),
        Some(index) => Err(EntropyError::UnusablePoint {
            index,
            entropy_nats: points[index].entropy,
            reward: points[index].reward,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_told_from_a_line_where_entropy_spans_enough() {
        let law = |largest: f64| -> Vec<LawPoint> {
            let entropies = (0..=20).map(|i| largest * f64::from(i) / 20.0);
            let point = |entropy: f64| LawPoint {
                entropy,
                reward: 2.0 - entropy.exp(),
            };
            entropies.map(point).collect()
        };
        let near_zero = fit_law(&law(0.1)).unwrap();
        assert!(!near_zero.shows_its_shape() && near_zero.linear_r_squared > 0.999);
        let wide = fit_law(&law(2.0)).unwrap();
        assert!(wide.shows_its_shape() && !wide.is_straight());
        let straight: Vec<LawPoint> = law(2.0)
            .into_iter()
            .map(|point| LawPoint {
                reward: 2.0 - point.entropy,
                ..point
            })
            .collect();
        let straight = fit_law(&straight).unwrap();
        assert!(straight.is_straight() && !straight.shows_its_shape());
        // numpy.corrcoef(h, 2 - exp(h))[0, 1] ** 2
        assert!(
            (wide.linear_r_squared - 0.934_078_639_924_509_6).abs() < 1e-9,
            "{}",
            wide.linear_r_squared
        );
    }

    fn points(pairs: &[(f64, f64)]) -> Vec<LawPoint> {
        pairs
            .iter()
            .map(|&(entropy, reward)| LawPoint { entropy, reward })
            .collect()
    }

    fn on_the_law(a: f64, b: f64, entropies: &[f64]) -> Vec<LawPoint> {
        let at = |&h: &f64| LawPoint {
            entropy: h,
            reward: b - a * h.exp(),
        };
        entropies.iter().map(at).collect()
    }

    #[test]
    fn exact_points_give_back_their_coefficients() {
        let fit = fit_law(&on_the_law(0.2, 0.7, &[1.2, 0.8, 0.4, 0.1])).unwrap();
        assert!((fit.a - 0.2).abs() < 1e-12 && (fit.b - 0.7).abs() < 1e-12);
        assert!((fit.ceiling - 0.5).abs() < 1e-12);
        assert!((fit.r_squared - 1.0).abs() < 1e-12);
        assert!((fit.predict(0.0) - fit.ceiling).abs() < 1e-15);
    }

    #[test]
    fn what_rounding_leaves_of_exact_points_is_no_pattern() {
        for count in 3..60 {
            let entropies: Vec<f64> = (0..count).map(|step| 0.9_f64.powi(step)).collect();
            let fit = fit_law(&on_the_law(0.3, 0.9, &entropies)).unwrap();
            assert_eq!((fit.residual_correlation, fit.doubt()), (0.0, None));
        }
    }

    #[test]
    fn intervals_worked_by_hand() {
        // x = 1, 2, 3 and y = 0, 1, 1: slope 1/2, residuals -1/6, 1/3, -1/6, so s² = 1/6 and
        // the slope's standard error is √(1/12); t(0.975, 1) = tan(0.475π).
        let h: Vec<f64> = [1.0_f64, 2.0, 3.0].iter().map(|x| x.ln()).collect();
        let fit = fit_law(&points(&[(h[0], 0.0), (h[1], 1.0), (h[2], 1.0)])).unwrap();
        let half = (0.475 * std::f64::consts::PI).tan() * (1.0_f64 / 12.0).sqrt();
        assert!((fit.a + 0.5).abs() < 1e-12);
        assert!(
            (fit.a_ci95[1] - (-0.5 + half)).abs() < 1e-6,
            "{:?}",
            fit.a_ci95
        );
        assert!((fit.rmse - (1.0_f64 / 18.0).sqrt()).abs() < 1e-12);
        assert!((fit.r_squared - 0.75).abs() < 1e-12);
    }

    #[test]
    fn forecast_measures_the_unseen_points_only() {
        let mut run = on_the_law(0.2, 0.7, &[1.2, 1.0, 0.8, 0.6, 0.4, 0.2]);
        run[4].reward += 0.03;
        run[5].reward -= 0.04;
        let forecast = forecast(&run, 0.5).unwrap();
        assert!((forecast.final_error - 0.04).abs() < 1e-12);
        let expected = ((0.03_f64.powi(2) + 0.04_f64.powi(2)) / 3.0).sqrt();
        assert!((forecast.early_prediction_rmse - expected).abs() < 1e-12);
    }

    #[test]
    fn degenerate_input_is_a_typed_error() {
        let two = points(&[(1.0, 0.1), (0.5, 0.2)]);
        assert_eq!(
            fit_law(&two),
            Err(EntropyError::TooFewPoints {
                found: 2,
                needed: 3
            })
        );
        let flat = points(&[(0.3, 0.1), (0.3, 0.2), (0.3, 0.4)]);
        assert!(matches!(
            fit_law(&flat),
            Err(EntropyError::ConstantEntropy { points: 3, .. })
        ));
        for (entropy, reward) in [(f64::NAN, 0.1), (0.2, f64::INFINITY), (800.0, 0.1)] {
            let run = points(&[(1.0, 0.1), (0.5, 0.2), (entropy, reward), (0.1, 0.3)]);
            assert!(matches!(
                fit_law(&run),
                Err(EntropyError::UnusablePoint { index: 2, .. })
            ));
        }
    }

    #[test]
    fn forecast_refuses_a_part_that_is_none_or_too_short() {
        let run = on_the_law(0.2, 0.7, &[1.2, 1.0, 0.8, 0.6]);
        for fraction in [0.0, 1.0, f64::NAN, -0.5] {
            let error = forecast(&run, fraction).unwrap_err();
            assert!(matches!(error, EntropyError::FractionOutOfRange { .. }));
        }
        let error = forecast(&run, 0.5).unwrap_err();
        assert_eq!(
            error,
            EntropyError::TooFewPoints {
                found: 2,
                needed: 3
            }
        );
    }

    #[test]
    fn the_ceilings_interval_is_the_lines_at_zero_entropy_and_predictions_scatter_more() {
        let mut run = on_the_law(0.2, 0.7, &[1.2, 1.0, 0.8, 0.6, 0.4, 0.2]);
        run[1].reward += 0.02;
        let fit = fit_law(&run).unwrap();
        for (found, expected) in fit.line_ci95(0.0).iter().zip(fit.ceiling_ci95) {
            assert!((found - expected).abs() < 1e-12);
        }
        // At the mean abscissa: t·s·√(1 + 1/n) against t·s·√(1/n).
        let center = fit.scatter.x_mean.ln();
        let width = |[low, high]: [f64; 2]| high - low;
        let ratio = width(fit.prediction_ci95(center)) / width(fit.line_ci95(center));
        assert!((ratio - 7.0_f64.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn a_law_that_does_not_hold_is_doubted() {
        let doubt = |rewards: [f64; 5]| {
            let pairs: Vec<(f64, f64)> =
                [0.1, 0.3, 0.5, 0.7, 0.9].into_iter().zip(rewards).collect();
            fit_law(&points(&pairs)).unwrap().doubt()
        };
        assert_eq!(doubt([0.8, 0.7, 0.58, 0.44, 0.25]), None);
        assert!(matches!(
            doubt([0.1, 0.2, 0.31, 0.4, 0.5]),
            Some(LawDoubt::WrongSign { .. })
        ));
        // A wave about the line, slower than the points.
        let wave = |i: i32| LawPoint {
            entropy: 0.1 * f64::from(i),
            reward: 0.9 - 0.3 * (0.1 * f64::from(i)).exp() + 0.05 * (0.6 * f64::from(i)).sin(),
        };
        let drifting: Vec<LawPoint> = (0..30).map(wave).collect();
        let fit = fit_law(&drifting).unwrap();
        assert!(fit.r_squared > 0.9 && matches!(fit.doubt(), Some(LawDoubt::Drift { .. })));
        assert!(matches!(
            doubt([0.3, 0.5, 0.2, 0.5, 0.3]),
            Some(LawDoubt::NoSlope { .. })
        ));
    }

    #[test]
    fn a_constant_reward_has_no_variance_to_explain() {
        let fit = fit_law(&points(&[(1.0, 0.5), (0.5, 0.5), (0.1, 0.5)])).unwrap();
        assert!(fit.a.abs() < 1e-12 && fit.r_squared == 0.0);
    }
}
