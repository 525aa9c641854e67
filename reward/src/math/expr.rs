//! What an answer says, as a tree.

use std::fmt;

use num_traits::Signed;

use super::Rational;

/// A mathematical expression, factors and elements in the order in which they were written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expr {
    /// An exact number.
    Number(Rational),
    /// A number written with a decimal point.
    Decimal(Rational),
    /// A number followed by a percent sign: its figure, 65 for 65 %.
    Percent(Box<Expr>),
    /// A variable, or a constant without a value of its own here.
    Symbol(String),
    /// A known constant.
    Constant(Constant),
    /// A sum.
    Sum(Vec<Expr>),
    /// A product.
    Product(Vec<Expr>),
    /// A quotient.
    Quotient(Box<Expr>, Box<Expr>),
    /// A power.
    Power(Box<Expr>, Box<Expr>),
    /// The principal root: degree and radicand.
    Root(Box<Expr>, Box<Expr>),
    /// A function of arguments, by its LaTeX name.
    Function(String, Vec<Expr>),
    /// Both signs of a term: `a ± b` is the sum of a and this.
    PlusMinus(Box<Expr>),
    /// Elements in order, in parentheses; two of them may be an open interval's ends.
    Tuple(Vec<Expr>),
    /// Elements without order, in braces or bare between commas.
    Set(Vec<Expr>),
    /// A real interval: ends, and whether each is left out.
    Interval {
        /// The lower end.
        low: Box<Expr>,
        /// The upper end.
        high: Box<Expr>,
        /// Whether the lower end is left out.
        is_low_open: bool,
        /// Whether the upper end is left out.
        is_high_open: bool,
    },
    /// A union of sets.
    Union(Vec<Expr>),
    /// The first set without the second.
    Without(Box<Expr>, Box<Expr>),
    /// A matrix by rows, all of one length.
    Matrix(Vec<Vec<Expr>>),
    /// A chain of relations: the first expression, and each sign with what follows it.
    Relation(Box<Expr>, Vec<(Sign, Expr)>),
    /// Words.
    Text(String),
}

/// A constant with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Constant {
    /// π.
    Pi,
    /// Euler's number.
    E,
    /// The imaginary unit.
    I,
    /// ∞.
    Infinity,
}

/// A sign between the two sides of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// `=`.
    Equal,
    /// `≠`.
    NotEqual,
    /// `<`.
    Less,
    /// `≤`.
    LessOrEqual,
    /// `>`.
    Greater,
    /// `≥`.
    GreaterOrEqual,
}

impl Sign {
    /// The sign with its sides exchanged.
    pub(super) fn reversed(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::Greater => Self::Less,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::GreaterOrEqual => Self::LessOrEqual,
            Self::Equal | Self::NotEqual => self,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

impl Expr {
    pub(super) fn integer(value: i64) -> Self {
        Self::Number(Rational::from_integer(value.into()))
    }

    pub(super) fn negative(self) -> Self {
        match self {
            Self::Number(value) => Self::Number(-value),
            Self::Decimal(value) => Self::Decimal(-value),
            Self::Percent(inner) => Self::Percent(Box::new(inner.negative())),
            other => Self::Product(vec![Self::integer(-1), other]),
        }
    }

    pub(super) fn boxed(self) -> Box<Self> {
        Box::new(self)
    }

    /// Whether it is a collection that is compared element by element.
    pub(super) fn is_collection(&self) -> bool {
        matches!(
            self,
            Self::Tuple(_)
                | Self::Set(_)
                | Self::Interval { .. }
                | Self::Union(_)
                | Self::Without(..)
        )
    }

    /// The letters of a word: a text, a symbol, or a product of nothing but symbols.
    pub(crate) fn as_word(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(plain_word(text)),
            Self::Symbol(name) => Some(name.to_lowercase()),
            Self::Constant(Constant::E) => Some("e".into()),
            Self::Constant(Constant::I) => Some("i".into()),
            Self::Product(factors) => {
                let letters = factors.iter().map(Self::as_word);
                letters
                    .collect::<Option<Vec<_>>>()
                    .map(|words| words.concat())
            }
            _ => None,
        }
    }
}

/// A text's letters and digits in lower case, without the parentheses that choices stand in.
pub(super) fn plain_word(text: &str) -> String {
    let kept = text.chars().filter(|c| c.is_alphanumeric());
    kept.flat_map(char::to_lowercase).collect()
}

/// The tree in one line, as verdicts show it.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, items: &[Expr], separator: &str| {
            for (index, item) in items.iter().enumerate() {
                let before = if index == 0 { "" } else { separator };
                write!(f, "{before}{item}")?;
            }
            Ok(())
        };
        match self {
            Self::Number(value) if value.is_negative() => write!(f, "({value})"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Decimal(value) => write!(f, "decimal({value})"),
            Self::Percent(inner) => write!(f, "{inner}%"),
            Self::Symbol(name) => write!(f, "{name}"),
            Self::Constant(Constant::Pi) => write!(f, "pi"),
            Self::Constant(Constant::E) => write!(f, "e"),
            Self::Constant(Constant::I) => write!(f, "i"),
            Self::Constant(Constant::Infinity) => write!(f, "oo"),
            Self::Sum(terms) => {
                write!(f, "(")?;
                list(f, terms, " + ")?;
                write!(f, ")")
            }
            Self::Product(factors) => list(f, factors, "*"),
            Self::Quotient(above, below) => write!(f, "({above})/({below})"),
            Self::Power(base, exponent) => write!(f, "({base})^({exponent})"),
            Self::Root(degree, radicand) => write!(f, "root({degree}, {radicand})"),
            Self::PlusMinus(inner) => write!(f, "±{inner}"),
            Self::Function(name, arguments) => {
                write!(f, "{name}(")?;
                list(f, arguments, ", ")?;
                write!(f, ")")
            }
            Self::Tuple(items) => {
                write!(f, "(")?;
                list(f, items, ", ")?;
                write!(f, ")")
            }
            Self::Set(items) => {
                write!(f, "{{")?;
                list(f, items, ", ")?;
                write!(f, "}}")
            }
            Self::Interval {
                low,
                high,
                is_low_open,
                is_high_open,
            } => {
                let (open, close) = (
                    if *is_low_open { '(' } else { '[' },
                    if *is_high_open { ')' } else { ']' },
                );
                write!(f, "{open}{low}, {high}{close}")
            }
            Self::Union(sets) => list(f, sets, " ∪ "),
            Self::Without(whole, part) => write!(f, "{whole} \\ {part}"),
            Self::Matrix(rows) => {
                write!(f, "[")?;
                for row in rows {
                    write!(f, "[")?;
                    list(f, row, ", ")?;
                    write!(f, "]")?;
                }
                write!(f, "]")
            }
            Self::Relation(first, rest) => {
                write!(f, "{first}")?;
                for (sign, side) in rest {
                    write!(f, " {} {side}", sign.as_str())?;
                }
                Ok(())
            }
            Self::Text(text) => write!(f, "'{text}'"),
        }
    }
}
