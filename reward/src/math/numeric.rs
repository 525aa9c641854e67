//! Values in floating point with a bound on their error, at chosen points.

use num_bigint::BigInt;
use num_traits::ToPrimitive;
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{Budget, Expr, Rational, Undecided, expr::Constant};

/// A complex number and how far it may lie from the true value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ball {
    re: f64,
    im: f64,
    error: f64,
}

/// What an operation rounds away, relative to its result.
const ROUNDING: f64 = 4.0 * f64::EPSILON;
/// Values that agree to this share of their size, within their bounds, are taken as equal.
const AGREEMENT: f64 = 1e-11;
/// A bound past this share of the value tells nothing.
const LOOSEST: f64 = 1e-7;

impl Ball {
    fn new(re: f64, im: f64, error: f64) -> Option<Self> {
        let size = re.hypot(im);
        let error = error + ROUNDING * size;
        (re.is_finite() && im.is_finite() && error.is_finite()).then_some(Self { re, im, error })
    }

    fn real(value: f64) -> Option<Self> {
        Self::new(value, 0.0, 0.0)
    }

    fn size(self) -> f64 {
        self.re.hypot(self.im)
    }

    /// The value where it is real, up to its error.
    pub(super) fn as_real(self) -> Option<f64> {
        (self.im.abs() <= self.error + AGREEMENT * self.size()).then_some(self.re)
    }

    /// Whether two values agree; `None` where their bounds are too wide to tell.
    pub(super) fn agrees(self, other: Self) -> Option<bool> {
        let distance = (self.re - other.re).hypot(self.im - other.im);
        let size = self.size().max(other.size());
        let bound = self.error + other.error;
        if distance > bound + AGREEMENT * size.max(1e-300) {
            return Some(false);
        }
        (bound <= LOOSEST * size.max(1e-3)).then_some(true)
    }

    fn plus(self, other: Self) -> Option<Self> {
        // Terms that cancel leave the error of the larger ones.
        let lost = ROUNDING * (self.size() + other.size());
        Self::new(
            self.re + other.re,
            self.im + other.im,
            self.error + other.error + lost,
        )
    }

    fn times(self, other: Self) -> Option<Self> {
        let error =
            self.size() * other.error + other.size() * self.error + self.error * other.error;
        let re = self.re * other.re - self.im * other.im;
        let im = self.re * other.im + self.im * other.re;
        Self::new(re, im, error + ROUNDING * self.size() * other.size())
    }

    fn reciprocal(self) -> Option<Self> {
        let size = self.size();
        if size <= 2.0 * self.error || size == 0.0 {
            return None;
        }
        let square = size * size;
        Self::new(
            self.re / square,
            -self.im / square,
            2.0 * self.error / square,
        )
    }

    fn exp(self) -> Option<Self> {
        let size = self.re.exp();
        Self::new(
            size * self.im.cos(),
            size * self.im.sin(),
            2.0 * size * (self.error + ROUNDING * self.size()),
        )
    }

    fn ln(self) -> Option<Self> {
        let size = self.size();
        if size <= 2.0 * self.error || size == 0.0 {
            return None;
        }
        Self::new(
            size.ln(),
            self.im.atan2(self.re),
            2.0 * self.error / size + ROUNDING,
        )
    }

    fn power(self, exponent: Self) -> Option<Self> {
        if self.size() == 0.0 {
            return if exponent.re > 0.0 {
                Self::real(0.0)
            } else {
                None
            };
        }
        let is_whole =
            exponent.im == 0.0 && exponent.re.fract() == 0.0 && exponent.re.abs() <= 64.0;
        if is_whole {
            let mut result = Self::real(1.0)?;
            for _ in 0..exponent.re.abs() as u32 {
                result = result.times(self)?;
            }
            return if exponent.re < 0.0 {
                result.reciprocal()
            } else {
                Some(result)
            };
        }
        self.ln()?.times(exponent)?.exp()
    }

    /// The real odd root of a negative number is meant, not the principal one.
    fn root(self, degree: Self) -> Option<Self> {
        let is_odd = degree.im == 0.0 && (degree.re.rem_euclid(2.0) - 1.0).abs() < f64::EPSILON;
        if is_odd && self.im == 0.0 && self.re < 0.0 {
            let positive = Self {
                re: -self.re,
                ..self
            };
            let root = positive.power(degree.reciprocal()?)?;
            return Some(Self {
                re: -root.re,
                im: -root.im,
                ..root
            });
        }
        self.power(degree.reciprocal()?)
    }

    /// A real function with a bound on its derivative near the value.
    fn map(self, function: impl Fn(f64) -> f64, slope: f64) -> Option<Self> {
        let x = self.as_real()?;
        Self::new(
            function(x),
            0.0,
            2.0 * slope * self.error + slope * ROUNDING * x.abs(),
        )
    }
}

/// The nearest floating-point number, infinite where it is too large.
pub(super) fn to_f64(value: &Rational) -> f64 {
    // 64 leading bits of each are more than a float holds.
    let leading = |number: &BigInt| {
        let excess = number.bits().saturating_sub(64);
        let mantissa = (number >> excess).to_f64().unwrap_or(0.0);
        (mantissa, excess as i64)
    };
    let ((above, up), (below, down)) = (leading(value.numer()), leading(value.denom()));
    let exponent = (up - down).clamp(-4000, 4000) as i32;
    // In two halves: 2^exponent alone may overflow where the quotient does not.
    above / below * 2_f64.powi(exponent / 2) * 2_f64.powi(exponent - exponent / 2)
}

/// Values of variables: every name has its own, the same in both expressions, by the trial's number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    pub(super) trial: u64,
}

impl Point {
    fn value(self, name: &str) -> f64 {
        let mut key = [0; 32];
        for (place, byte) in name.bytes().enumerate() {
            key[place % 24] ^= byte.rotate_left((place / 24) as u32 % 8);
        }
        key[24..].copy_from_slice(&self.trial.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        let size: f64 = rng.random_range(0.2..2.8);
        if rng.random_bool(0.4) { -size } else { size }
    }

    /// The value of an expression here; `None` where it has none, or none that is known.
    pub(super) fn evaluate(self, expr: &Expr, budget: &Budget) -> Result<Option<Ball>, Undecided> {
        budget.spend(4)?;
        let all = |items: &[Expr]| -> Result<Option<Vec<Ball>>, Undecided> {
            items
                .iter()
                .map(|item| self.evaluate(item, budget))
                .collect()
        };
        let pair = |a: &Expr, b: &Expr| -> Result<Option<(Ball, Ball)>, Undecided> {
            let (a, b) = (self.evaluate(a, budget)?, self.evaluate(b, budget)?);
            Ok(a.zip(b))
        };
        let joined = |items: &[Expr], start: f64, join: fn(Ball, Ball) -> Option<Ball>| {
            let values = all(items)?;
            Ok(values.and_then(|values| values.into_iter().try_fold(Ball::real(start)?, join)))
        };
        match expr {
            Expr::Number(value) | Expr::Decimal(value) => Ok(Ball::real(to_f64(value))),
            Expr::Percent(inner) => {
                let value = self.evaluate(inner, budget)?;
                Ok(value
                    .zip(Ball::real(0.01))
                    .and_then(|(value, share)| value.times(share)))
            }
            Expr::Symbol(name) => Ok(Ball::real(self.value(name))),
            Expr::Constant(constant) => Ok(match constant {
                Constant::Pi => Ball::real(std::f64::consts::PI),
                Constant::E => Ball::real(std::f64::consts::E),
                Constant::I => Ball::new(0.0, 1.0, 0.0),
                Constant::Infinity => None,
            }),
            Expr::Sum(terms) => joined(terms, 0.0, Ball::plus),
            Expr::Product(factors) => joined(factors, 1.0, Ball::times),
            Expr::Quotient(above, below) => {
                Ok(pair(above, below)?.and_then(|(above, below)| above.times(below.reciprocal()?)))
            }
            Expr::Power(base, exponent) => {
                Ok(pair(base, exponent)?.and_then(|(base, exponent)| base.power(exponent)))
            }
            Expr::Root(degree, radicand) => {
                Ok(pair(degree, radicand)?.and_then(|(degree, radicand)| radicand.root(degree)))
            }
            Expr::Function(name, arguments) => {
                Ok(all(arguments)?.and_then(|values| function(name, &values)))
            }
            _ => Ok(None),
        }
    }
}

fn function(name: &str, values: &[Ball]) -> Option<Ball> {
    let one = |x: f64| Ball::real(x);
    match (name, values) {
        ("exp", [x]) => x.exp(),
        ("ln" | "log", [x]) => x.ln(),
        ("log", [x, base]) => x.ln()?.times(base.ln()?.reciprocal()?),
        ("abs", [x]) => Ball::new(x.size(), 0.0, x.error),
        ("re", [x]) => Ball::new(x.re, 0.0, x.error),
        ("im", [x]) => Ball::new(x.im, 0.0, x.error),
        ("sin", [x]) => x.map(f64::sin, 1.0),
        ("cos", [x]) => x.map(f64::cos, 1.0),
        ("tan", [x]) => x.map(f64::tan, 1.0 + x.re.tan().powi(2)),
        ("cot", [x]) => x.map(f64::tan, 1.0 + x.re.tan().powi(2))?.reciprocal(),
        ("sec", [x]) => x.map(f64::cos, 1.0)?.reciprocal(),
        ("csc", [x]) => x.map(f64::sin, 1.0)?.reciprocal(),
        ("arcsin", [x]) if x.re.abs() <= 1.0 => x.map(f64::asin, inverse_slope(x.re)),
        ("arccos", [x]) if x.re.abs() <= 1.0 => x.map(f64::acos, inverse_slope(x.re)),
        ("arctan", [x]) => x.map(f64::atan, 1.0),
        ("sinh", [x]) => x.map(f64::sinh, x.re.cosh()),
        ("cosh", [x]) => x.map(f64::cosh, x.re.cosh()),
        ("tanh", [x]) => x.map(f64::tanh, 1.0),
        ("floor", [x]) if is_between_steps(*x) => one(x.as_real()?.floor()),
        ("ceil", [x]) if is_between_steps(*x) => one(x.as_real()?.ceil()),
        ("max", values) => extreme(values, f64::max),
        ("min", values) => extreme(values, f64::min),
        _ => None,
    }
}

fn inverse_slope(x: f64) -> f64 {
    1.0 / (1.0 - x * x).max(1e-12).sqrt()
}

/// Whether a value's error does not reach a whole number, where rounding jumps.
fn is_between_steps(x: Ball) -> bool {
    (x.re - x.re.round()).abs() > 2.0 * x.error
}

fn extreme(values: &[Ball], pick: fn(f64, f64) -> f64) -> Option<Ball> {
    let reals = values.iter().map(|value| value.as_real());
    let best = reals
        .collect::<Option<Vec<f64>>>()?
        .into_iter()
        .reduce(pick)?;
    let error = values.iter().map(|value| value.error).fold(0.0, f64::max);
    Ball::new(best, 0.0, error)
}
