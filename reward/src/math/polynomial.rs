//! Polynomials with rational coefficients over atoms: variables, constants, square roots of primes, and whatever else
//! is not taken apart.

use std::collections::BTreeMap;

use num_bigint::BigInt;
use num_traits::{One, Zero};

use super::{Budget, Rational, Undecided};

/// What a polynomial is over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Atom {
    /// The imaginary unit; its square is -1.
    I,
    /// The square root of a prime; its square is the prime.
    RootOf(BigInt),
    /// A variable, π, e, or an expression that is not taken apart, by its canonical text.
    Named(String),
}

/// Atoms with their exponents, in the atoms' order; none has the exponent 0.
type Monomial = BTreeMap<Atom, u32>;

/// A sum of monomials; no coefficient is 0.
#[derive(Debug, Clone, PartialEq, Eq, Default, PartialOrd, Ord)]
pub(super) struct Polynomial(BTreeMap<Monomial, Rational>);

impl Polynomial {
    pub(super) fn constant(value: Rational) -> Self {
        let mut terms = BTreeMap::new();
        if !value.is_zero() {
            terms.insert(Monomial::new(), value);
        }
        Self(terms)
    }

    pub(super) fn one() -> Self {
        Self::constant(Rational::one())
    }

    pub(super) fn atom(atom: Atom) -> Self {
        Self(BTreeMap::from([(
            Monomial::from([(atom, 1)]),
            Rational::one(),
        )]))
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    /// The value, where it is a number.
    pub(super) fn as_constant(&self) -> Option<Rational> {
        match self.0.len() {
            0 => Some(Rational::zero()),
            1 => self.0.get(&Monomial::new()).cloned(),
            _ => None,
        }
    }

    /// Whether every atom is a variable or an exact root, so that a difference that is not zero is a difference.
    pub(super) fn is_decided(&self, is_plain: impl Fn(&str) -> bool) -> bool {
        let mut atoms = self.0.keys().flat_map(BTreeMap::keys);
        atoms.all(|atom| match atom {
            Atom::Named(name) => is_plain(name),
            Atom::I | Atom::RootOf(_) => true,
        })
    }

    pub(super) fn add(mut self, other: Self, budget: &Budget) -> Result<Self, Undecided> {
        for (monomial, coefficient) in other.0 {
            let sum = self.0.get(&monomial).map_or(0, bits);
            budget.spend(monomial.len() as u64)?;
            budget.spend_on_bits(sum.max(bits(&coefficient)))?;
            if sum.max(bits(&coefficient)) > budget.max_bits {
                return Err(Undecided::NumberTooLarge);
            }
            add_term(&mut self.0, monomial, coefficient);
        }
        Ok(self)
    }

    pub(super) fn scaled(&self, factor: &Rational) -> Self {
        if factor.is_zero() {
            return Self::default();
        }
        let scale = |(monomial, coefficient): (&Monomial, &Rational)| {
            (monomial.clone(), coefficient * factor)
        };
        Self(self.0.iter().map(scale).collect())
    }

    pub(super) fn multiply(&self, other: &Self, budget: &Budget) -> Result<Self, Undecided> {
        let mut terms = BTreeMap::new();
        for (left, left_coefficient) in &self.0 {
            for (right, right_coefficient) in &other.0 {
                let bits = bits(left_coefficient) + bits(right_coefficient);
                if bits > 2 * budget.max_bits {
                    return Err(Undecided::NumberTooLarge);
                }
                budget.spend(3 + (left.len() + right.len()) as u64)?;
                budget.spend_on_bits(bits)?;
                let (monomial, factor) = joined(left, right);
                let coefficient =
                    left_coefficient * right_coefficient * Rational::from_integer(factor);
                add_term(&mut terms, monomial, coefficient);
            }
        }
        Ok(Self(terms))
    }

    pub(super) fn power(&self, exponent: u32, budget: &Budget) -> Result<Self, Undecided> {
        let (mut result, mut square, mut rest) = (Self::one(), self.clone(), exponent);
        while rest > 0 {
            if rest & 1 == 1 {
                result = result.multiply(&square, budget)?;
            }
            rest >>= 1;
            if rest > 0 {
                square = square.multiply(&square, budget)?;
            }
        }
        Ok(result)
    }

    /// The factor k with self = k·other, where there is one.
    pub(super) fn ratio_to(&self, other: &Self) -> Option<Rational> {
        let (monomial, coefficient) = other.0.iter().next()?;
        let ratio = self.0.get(monomial)? / coefficient;
        (*self == other.scaled(&ratio)).then_some(ratio)
    }

    /// Name, slope and constant of a form a·x + b.
    pub(super) fn as_linear(&self) -> Option<(String, Rational, Rational)> {
        let constant = self
            .0
            .get(&Monomial::new())
            .cloned()
            .unwrap_or_else(Rational::zero);
        let mut others = self.0.iter().filter(|(monomial, _)| !monomial.is_empty());
        let (monomial, slope) = others.next().filter(|_| others.next().is_none())?;
        let mut atoms = monomial.iter();
        match (atoms.next(), atoms.next()) {
            (Some((Atom::Named(name), 1)), None) => Some((name.clone(), slope.clone(), constant)),
            _ => None,
        }
    }

    /// The same with a leading coefficient of 1, and that coefficient.
    pub(super) fn monic(&self) -> Option<(Self, Rational)> {
        let (_, leading) = self.0.iter().next_back()?;
        Some((self.scaled(&leading.recip()), leading.clone()))
    }
}

/// Bits of a number's larger part.
fn bits(value: &Rational) -> u64 {
    value.numer().bits().max(value.denom().bits())
}

fn add_term(terms: &mut BTreeMap<Monomial, Rational>, monomial: Monomial, coefficient: Rational) {
    use std::collections::btree_map::Entry;
    match terms.entry(monomial) {
        Entry::Vacant(place) => {
            if !coefficient.is_zero() {
                place.insert(coefficient);
            }
        }
        Entry::Occupied(mut place) => {
            *place.get_mut() += coefficient;
            if place.get().is_zero() {
                place.remove();
            }
        }
    }
}

/// The product of two monomials, squares of roots and of i taken out as a factor.
fn joined(left: &Monomial, right: &Monomial) -> (Monomial, BigInt) {
    let mut monomial = left.clone();
    for (atom, exponent) in right {
        *monomial.entry(atom.clone()).or_insert(0) += exponent;
    }
    let mut factor = BigInt::one();
    monomial.retain(|atom, exponent| {
        let square = match atom {
            Atom::I => BigInt::from(-1),
            Atom::RootOf(prime) => prime.clone(),
            Atom::Named(_) => return true,
        };
        factor *= square.pow(*exponent / 2);
        *exponent %= 2;
        *exponent > 0
    });
    (monomial, factor)
}

/// The canonical text, by which equal expressions that are not taken apart are known.
impl std::fmt::Display for Polynomial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (monomial, coefficient) in &self.0 {
            write!(f, "+{coefficient}")?;
            for (atom, exponent) in monomial {
                match atom {
                    Atom::I => write!(f, "*I")?,
                    Atom::RootOf(prime) => write!(f, "*r{prime}")?,
                    Atom::Named(name) => write!(f, "*{name}^{exponent}")?,
                }
            }
        }
        Ok(())
    }
}
