//! Mathematics as models write it: LaTeX or plain text to expressions, and whether two of them are equal.
//!
//! [`parse`] reads an answer into an [`Expr`]; [`equal`] compares two, exactly where it can. Neither panics nor
//! hangs: text, depth, sizes and steps are bounded ([`Budget`]), and what the bounds leave open is said to be open.

mod budget;
mod equal;
mod expr;
mod lexer;
mod normal;
mod numeric;
mod parser;
mod polynomial;
mod relation;
mod segments;
mod units;
mod words;

pub(crate) use budget::{Budget, Undecided};
pub(crate) use equal::{Equality, equal};
pub(crate) use expr::Expr;
pub(crate) use parser::parse;

/// A rational number without bounds or rounding.
pub(crate) type Rational = num_rational::Ratio<num_bigint::BigInt>;

#[cfg(test)]
mod tests;
