//! Normal forms: an expression as a quotient of two polynomials, expanded and collected.

use num_bigint::BigInt;
use num_integer::Integer as _;
use num_traits::{One, Pow, Signed, ToPrimitive, Zero};

use super::{
    Budget, Expr, Rational, Undecided,
    expr::Constant,
    polynomial::{Atom, Polynomial},
};

/// A quotient of polynomials; the denominator is not zero.
#[derive(Debug, Clone)]
pub(super) struct Normal {
    pub(super) above: Polynomial,
    pub(super) below: Polynomial,
}

/// slope·name + constant.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    pub(super) name: String,
    pub(super) slope: Rational,
    pub(super) constant: Rational,
}

/// Why there is no normal form.
#[derive(Debug, Clone, Copy)]
pub(super) enum NoNormal {
    /// It is no number: a set, a relation, a division by zero.
    NotANumber,
    /// The budget ended.
    Undecided(Undecided),
}

impl From<Undecided> for NoNormal {
    fn from(reason: Undecided) -> Self {
        Self::Undecided(reason)
    }
}

type Result<T = Normal> = std::result::Result<T, NoNormal>;

/// Sums are expanded up to this power.
const MAX_EXPANDED_POWER: u32 = 64;
/// Square factors are looked for up to this; beyond, a root stands as it is.
const MAX_TRIAL_DIVISOR: u32 = 1000;
/// The largest argument of a factorial, and the largest row of binomials.
const MAX_FACTORIAL: u32 = 500;

/// The normal form of an expression.
pub(super) fn normal(expr: &Expr, budget: &Budget) -> Result {
    budget.spend(2)?;
    match expr {
        Expr::Number(value) | Expr::Decimal(value) => Ok(Normal::constant(value.clone())),
        Expr::Percent(inner) => {
            let hundredth = Rational::new(1.into(), 100.into());
            Ok(normal(inner, budget)?.scaled(&hundredth))
        }
        Expr::Symbol(name) => Ok(Normal::named(name.clone())),
        Expr::Constant(Constant::Pi) => Ok(Normal::named("π".into())),
        Expr::Constant(Constant::E) => Ok(Normal::named("E".into())),
        Expr::Constant(Constant::I) => Ok(Normal::of(Polynomial::atom(Atom::I))),
        Expr::Sum(terms) => terms
            .iter()
            .try_fold(Normal::constant(Rational::zero()), |sum, term| {
                sum.plus(normal(term, budget)?, budget)
            }),
        Expr::Product(factors) => factors
            .iter()
            .try_fold(Normal::constant(Rational::one()), |product, factor| {
                product.times(&normal(factor, budget)?, budget)
            }),
        Expr::Quotient(above, below) => {
            let below = normal(below, budget)?.reciprocal()?;
            normal(above, budget)?.times(&below, budget)
        }
        Expr::Power(base, exponent) => power(base, exponent, budget),
        Expr::Root(degree, radicand) => root(degree, radicand, budget),
        Expr::Function(name, arguments) => function(name, arguments, budget),
        _ => Err(NoNormal::NotANumber),
    }
}

impl Normal {
    fn of(above: Polynomial) -> Self {
        let below = Polynomial::one();
        Self { above, below }
    }

    pub(super) fn constant(value: Rational) -> Self {
        Self::of(Polynomial::constant(value))
    }

    fn named(name: String) -> Self {
        Self::of(Polynomial::atom(Atom::Named(name)))
    }

    /// The value, where it is a rational number.
    pub(super) fn as_constant(&self) -> Option<Rational> {
        let below = self.below.as_constant()?;
        Some(self.above.as_constant()? / below)
    }

    /// The form a·x + b of one variable, or of one expression that is not taken apart.
    pub(super) fn as_linear(&self) -> Option<Linear> {
        let below = self.below.as_constant()?;
        let (name, slope, constant) = self.above.as_linear()?;
        Some(Linear {
            name,
            slope: slope / &below,
            constant: constant / below,
        })
    }

    fn scaled(&self, factor: &Rational) -> Self {
        Self {
            above: self.above.scaled(factor),
            below: self.below.clone(),
        }
    }

    fn plus(self, other: Self, budget: &Budget) -> Result {
        if self.below == other.below {
            let above = self.above.add(other.above, budget)?;
            return Ok(Self { above, ..self });
        }
        let left = self.above.multiply(&other.below, budget)?;
        let right = other.above.multiply(&self.below, budget)?;
        Ok(Self {
            above: left.add(right, budget)?,
            below: self.below.multiply(&other.below, budget)?,
        })
    }

    /// The difference, whose numerator is zero where the two are equal.
    pub(super) fn minus(&self, other: &Self, budget: &Budget) -> Result {
        self.clone().plus(other.scaled(&-Rational::one()), budget)
    }

    fn times(&self, other: &Self, budget: &Budget) -> Result {
        Ok(Self {
            above: self.above.multiply(&other.above, budget)?,
            below: self.below.multiply(&other.below, budget)?,
        })
    }

    fn reciprocal(self) -> Result {
        if self.above.is_zero() {
            return Err(NoNormal::NotANumber);
        }
        Ok(Self {
            above: self.below,
            below: self.above,
        })
    }

    fn power(&self, exponent: u32, budget: &Budget) -> Result {
        Ok(Self {
            above: self.above.power(exponent, budget)?,
            below: self.below.power(exponent, budget)?,
        })
    }

    /// A text that equal forms share most often: numbers reduced, the denominator's leading coefficient 1.
    fn text(&self) -> String {
        if let Some(value) = self.as_constant() {
            return value.to_string();
        }
        match self.below.monic() {
            Some((below, leading)) => {
                format!("[{}]/[{below}]", self.above.scaled(&leading.recip()))
            }
            None => "nan".into(),
        }
    }
}

fn power(base: &Expr, exponent: &Expr, budget: &Budget) -> Result {
    let exponent_form = normal(exponent, budget)?;
    let Some(value) = exponent_form.as_constant() else {
        return power_of_sum(base, exponent, &exponent_form, budget);
    };
    let base_form = normal(base, budget)?;
    let (whole, degree) = (value.numer(), value.denom());
    let too_large = NoNormal::Undecided(Undecided::NumberTooLarge);
    let magnitude = whole.abs().to_u32();
    let result = if let Some(number) = base_form.as_constant() {
        if number.is_zero() && !value.is_positive() {
            return Err(NoNormal::NotANumber);
        }
        let magnitude = magnitude.ok_or(too_large)?;
        let bits = number.numer().bits().max(number.denom().bits());
        budget.spend_on_bits(
            bits.saturating_mul(u64::from(magnitude))
                .min(budget.max_bits),
        )?;
        if bits > 1 && bits.saturating_mul(u64::from(magnitude)) > budget.max_bits {
            return Err(too_large);
        }
        let raised = Normal::constant(Pow::pow(number, magnitude));
        if degree.is_one() {
            raised
        } else {
            constant_root(&raised, degree, budget)?
        }
    } else if degree.is_one() && magnitude.is_some_and(|power| power <= MAX_EXPANDED_POWER) {
        base_form.power(magnitude.unwrap_or(0), budget)?
    } else if degree.is_one() {
        Normal::named(format!("({})^{}", base_form.text(), whole.abs()))
    } else {
        let root = opaque_root(&base_form, degree);
        root.power(
            magnitude
                .filter(|p| *p <= MAX_EXPANDED_POWER)
                .ok_or(too_large)?,
            budget,
        )?
    };
    if whole.is_negative() {
        result.reciprocal()
    } else {
        Ok(result)
    }
}

/// a^(m+n) as a^m·a^n, so that 2^{n+1} is 2·2^n.
fn power_of_sum(base: &Expr, exponent: &Expr, form: &Normal, budget: &Budget) -> Result {
    if let Expr::Sum(terms) = exponent {
        return terms
            .iter()
            .try_fold(Normal::constant(Rational::one()), |product, term| {
                product.times(&power(base, term, budget)?, budget)
            });
    }
    let base_form = normal(base, budget)?;
    Ok(Normal::named(format!(
        "({})^({})",
        base_form.text(),
        form.text()
    )))
}

fn root(degree: &Expr, radicand: &Expr, budget: &Budget) -> Result {
    let degree = normal(degree, budget)?
        .as_constant()
        .ok_or(NoNormal::NotANumber)?;
    if !degree.is_integer() || !degree.is_positive() {
        return Err(NoNormal::NotANumber);
    }
    let form = normal(radicand, budget)?;
    constant_root(&form, degree.numer(), budget)
}

/// The root of a form: exact where it is one of a rational number, else an atom.
fn constant_root(form: &Normal, degree: &BigInt, budget: &Budget) -> Result {
    let Some(value) = form.as_constant() else {
        return Ok(opaque_root(form, degree));
    };
    let Some(degree_small) = degree.to_u32().filter(|degree| *degree <= 64) else {
        return Ok(opaque_root(form, degree));
    };
    if degree_small == 2 {
        return square_root(&value, budget);
    }
    // a/b = a·b^(n-1) / b^n: one root of a whole number.
    budget.spend_on_bits(value.denom().bits() * u64::from(degree_small) + value.numer().bits())?;
    let scale = value.denom().pow(degree_small - 1);
    let radicand = value.numer() * scale;
    let found = if radicand.is_negative() && degree_small % 2 == 1 {
        -(-&radicand).nth_root(degree_small)
    } else if radicand.is_negative() {
        return Ok(opaque_root(form, degree));
    } else {
        radicand.nth_root(degree_small)
    };
    if Pow::pow(found.clone(), degree_small) == radicand {
        return Ok(Normal::constant(Rational::new(
            found,
            value.denom().clone(),
        )));
    }
    Ok(opaque_root(form, degree))
}

fn opaque_root(form: &Normal, degree: &BigInt) -> Normal {
    Normal::named(format!("root{degree}({})", form.text()))
}

/// √(p/q) = √(pq)/q, whose radicand is taken apart into primes: √12 is 2·√3, and √2·√3 is √6.
fn square_root(value: &Rational, budget: &Budget) -> Result {
    let mut rest = value.numer().abs() * value.denom();
    let mut outside = Rational::new(BigInt::one(), value.denom().clone());
    let mut inside = Polynomial::one();
    let mut take = |prime: &BigInt, count: u32, inside: &mut Polynomial| -> Result<()> {
        outside *= Rational::from_integer(prime.pow(count / 2));
        if count % 2 == 1 {
            *inside = inside.multiply(&Polynomial::atom(Atom::RootOf(prime.clone())), budget)?;
        }
        Ok(())
    };
    if rest.is_zero() {
        return Ok(Normal::constant(Rational::zero()));
    }
    // About as much as the divisions below.
    budget.spend(20 + rest.bits() / 16)?;
    for divisor in 2..MAX_TRIAL_DIVISOR {
        if rest.is_one() {
            break;
        }
        let prime = BigInt::from(divisor);
        let mut count = 0;
        while (&rest % &prime).is_zero() {
            rest /= &prime;
            count += 1;
        }
        if count > 0 {
            budget.spend(u64::from(count))?;
            take(&prime, count, &mut inside)?;
        }
    }
    budget.spend(rest.bits() / 16)?;
    if !rest.is_one() {
        let whole = rest.sqrt();
        if &whole * &whole == rest {
            take(&whole, 2, &mut inside)?;
        } else {
            take(&rest, 1, &mut inside)?;
        }
    }
    if value.is_negative() {
        inside = inside.multiply(&Polynomial::atom(Atom::I), budget)?;
    }
    Ok(Normal::of(inside.scaled(&outside)))
}

fn function(name: &str, arguments: &[Expr], budget: &Budget) -> Result {
    let form = |argument: &Expr| match normal(argument, budget) {
        // A bound such as k = 0 is known by its text.
        Err(NoNormal::NotANumber) => Ok(Normal::named(format!("({argument})"))),
        form => form,
    };
    let forms = arguments.iter().map(form).collect::<Result<Vec<_>>>()?;
    let constants: Option<Vec<Rational>> = forms.iter().map(Normal::as_constant).collect();
    if let Some(value) = constants.and_then(|values| exact(name, &values, budget).transpose()) {
        return Ok(Normal::constant(value?));
    }
    let texts: Vec<String> = forms.iter().map(Normal::text).collect();
    budget.spend(2 + texts.iter().map(String::len).sum::<usize>() as u64 / 16)?;
    Ok(Normal::named(format!("{name}({})", texts.join(","))))
}

/// Functions with exact values at rational numbers.
fn exact(name: &str, values: &[Rational], budget: &Budget) -> Result<Option<Rational>> {
    let whole = |value: &Rational| value.is_integer().then(|| value.numer().clone());
    let small = |value: &Rational| whole(value)?.to_u32();
    Ok(match (name, values) {
        ("abs", [x]) => Some(x.abs()),
        ("floor", [x]) => Some(x.floor()),
        ("ceil", [x]) => Some(x.ceil()),
        ("factorial", [x]) => match small(x).filter(|n| *n <= MAX_FACTORIAL) {
            Some(n) => {
                // n! has about n·log2(n) bits.
                budget.spend(u64::from(n) / 4)?;
                let product = (1..=n).fold(BigInt::one(), |product, k| product * k);
                Some(Rational::from_integer(product))
            }
            None => None,
        },
        ("binom", [n, k]) => match (small(n).filter(|n| *n <= MAX_FACTORIAL), small(k)) {
            (Some(n), Some(k)) if k <= n => {
                budget.spend(u64::from(n))?;
                let up = (0..k).fold(BigInt::one(), |product, j| product * (n - j) / (j + 1));
                Some(Rational::from_integer(up))
            }
            _ => None,
        },
        ("mod", [x, m]) if !m.is_zero() => Some(x - m * (x / m).floor()),
        ("max", values) => values.iter().max().cloned(),
        ("min", values) => values.iter().min().cloned(),
        ("gcd" | "lcm", values) => {
            let whole: Option<Vec<BigInt>> = values.iter().map(whole).collect();
            let join = |a: BigInt, b: BigInt| {
                if name == "gcd" { a.gcd(&b) } else { a.lcm(&b) }
            };
            whole
                .and_then(|values| values.into_iter().reduce(join))
                .map(Rational::from_integer)
        }
        _ => None,
    })
}
