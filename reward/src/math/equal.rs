//! Whether two answers say the same.

use num_bigint::BigInt;
use num_traits::Signed;

use super::{
    Budget, Expr, Rational, Undecided,
    expr::{Constant, Sign},
    normal::{NoNormal, Normal, normal},
    numeric::{Ball, Point, to_f64},
    relation, segments,
};

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Equality {
    /// The expressions are the same.
    SameForm,
    /// The numbers are equal, exactly.
    EqualNumber,
    /// One is a decimal that the other rounds to.
    RoundedNumber,
    /// The normal forms are equal.
    EqualExpression,
    /// The values agree, within their error, wherever they were computed.
    EqualAtPoints,
    /// Every element has its equal.
    EqualElements,
    /// The relations hold for the same values.
    EqualRelation,
    /// The words are the same.
    EqualWords,
    /// The numbers differ.
    DifferentNumber,
    /// The expressions differ.
    DifferentExpression,
    /// An element has no equal.
    DifferentElements,
    /// The relations hold for different values.
    DifferentRelation,
    /// The words differ.
    DifferentWords,
}

impl Equality {
    /// Whether the answers are equal.
    pub(crate) fn is_equal(self) -> bool {
        matches!(
            self,
            Self::SameForm
                | Self::EqualNumber
                | Self::RoundedNumber
                | Self::EqualExpression
                | Self::EqualAtPoints
                | Self::EqualElements
                | Self::EqualRelation
                | Self::EqualWords
        )
    }
}

type Decided = Result<Equality, Undecided>;

/// Decimal places that a rounded number must agree in; math-verify's `float_rounding`.
const ROUNDED_PLACES: u32 = 6;
/// Below this, decimals must agree in three significant digits too: six places would leave none.
const SMALL: f64 = 1e-3;
/// Points at which expressions are computed.
const TRIALS: u64 = 8;
/// Points that must have told something.
const LEAST_TOLD: usize = 3;

/// Compares an answer with the gold one. The rules are math-verify's, and not symmetric: an assignment is unwrapped
/// where the other is none, and a relation is taken for a set where it is the gold one.
pub(crate) fn equal(gold: &Expr, pred: &Expr, budget: &Budget) -> Decided {
    budget.spend(8)?;
    if gold == pred {
        return Ok(Equality::SameForm);
    }
    if has_both_signs(gold) || has_both_signs(pred) {
        return equal(&with_both_signs(gold), &with_both_signs(pred), budget);
    }
    let (gold, pred) = unwrapped(gold, pred);
    match (&gold, &pred) {
        (Expr::Relation(..), other) if other.is_collection() => {
            Ok(elements(segments::equal(&gold, &pred, budget)?))
        }
        (Expr::Relation(first, rest), Expr::Relation(pred_first, pred_rest)) => {
            let found = relation::equal((first, rest), (pred_first, pred_rest), budget)?;
            Ok(if found {
                Equality::EqualRelation
            } else {
                Equality::DifferentRelation
            })
        }
        (Expr::Relation(..), _) | (_, Expr::Relation(..)) => Ok(Equality::DifferentRelation),
        _ if gold.is_collection() || pred.is_collection() => collections(&gold, &pred, budget),
        (Expr::Matrix(_), _) | (_, Expr::Matrix(_)) => matrices(&gold, &pred, budget),
        _ => plain(&gold, &pred, budget),
    }
}

fn elements(are_equal: bool) -> Equality {
    if are_equal {
        Equality::EqualElements
    } else {
        Equality::DifferentElements
    }
}

fn has_both_signs(expr: &Expr) -> bool {
    match expr {
        Expr::PlusMinus(_) => true,
        Expr::Sum(items) | Expr::Product(items) | Expr::Set(items) => {
            items.iter().any(has_both_signs)
        }
        Expr::Quotient(above, _) => has_both_signs(above),
        Expr::Relation(_, rest) => rest.iter().any(|(_, side)| has_both_signs(side)),
        _ => false,
    }
}

/// a ± b as the two that it stands for; elements of a set among its other elements.
fn with_both_signs(expr: &Expr) -> Expr {
    if !has_both_signs(expr) {
        return expr.clone();
    }
    match expr {
        Expr::Set(items) => {
            let expanded = items.iter().map(with_both_signs);
            Expr::Set(expanded.flat_map(|item| flattened(&item)).collect())
        }
        Expr::Relation(_, rest) => rest
            .last()
            .map_or_else(|| expr.clone(), |(_, side)| with_both_signs(side)),
        _ => Expr::Set(vec![with_sign(expr, false), with_sign(expr, true)]),
    }
}

/// The expression with every ± that [`has_both_signs`] sees as one sign, nested ones too: none is left to be seen again.
fn with_sign(expr: &Expr, negative: bool) -> Expr {
    let all = |items: &[Expr]| items.iter().map(|item| with_sign(item, negative)).collect();
    match expr {
        Expr::PlusMinus(inner) if negative => with_sign(inner, negative).negative(),
        Expr::PlusMinus(inner) => with_sign(inner, negative),
        Expr::Sum(terms) => Expr::Sum(all(terms)),
        Expr::Product(factors) => Expr::Product(all(factors)),
        Expr::Quotient(above, below) => {
            Expr::Quotient(with_sign(above, negative).boxed(), below.clone())
        }
        Expr::Set(items) => Expr::Set(all(items)),
        Expr::Relation(first, rest) => {
            let sides = rest.iter();
            let sides = sides.map(|(sign, side)| (*sign, with_sign(side, negative)));
            Expr::Relation(first.clone(), sides.collect())
        }
        other => other.clone(),
    }
}

fn flattened(expr: &Expr) -> Vec<Expr> {
    match expr {
        Expr::Set(items) => items.iter().flat_map(flattened).collect(),
        other => vec![other.clone()],
    }
}

/// Assignments and chains cut down to what they end in, as far as the other side has it so.
fn unwrapped(gold: &Expr, pred: &Expr) -> (Expr, Expr) {
    let (gold, pred) = (shortened(gold), shortened(pred));
    if is_equation(&pred) && !is_equation(&gold) {
        (gold, last_side(&pred))
    } else if is_assignment(&gold) && !is_equation(&pred) {
        (last_side(&gold), pred)
    } else {
        (gold, pred)
    }
}

fn is_equation(expr: &Expr) -> bool {
    matches!(expr, Expr::Relation(_, rest) if rest.iter().all(|(sign, _)| *sign == Sign::Equal))
}

/// An equation whose first side names something.
fn is_assignment(expr: &Expr) -> bool {
    matches!(expr, Expr::Relation(first, _) if is_equation(expr) && is_name(first))
}

/// Nothing but variables, and functions and quotients of them.
fn is_name(expr: &Expr) -> bool {
    match expr {
        Expr::Symbol(_) | Expr::Text(_) => true,
        Expr::Constant(constant) => matches!(constant, Constant::E | Constant::I),
        Expr::Product(items) | Expr::Function(_, items) | Expr::Tuple(items) | Expr::Set(items) => {
            items.iter().all(is_name)
        }
        Expr::Quotient(above, below) => is_name(above) && is_name(below),
        _ => false,
    }
}

/// x = a = b as x = b.
fn shortened(expr: &Expr) -> Expr {
    match expr {
        Expr::Relation(first, rest) if rest.len() > 1 && is_assignment(expr) => {
            let last = rest.last().cloned();
            Expr::Relation(first.clone(), last.into_iter().collect())
        }
        other => other.clone(),
    }
}

fn last_side(expr: &Expr) -> Expr {
    match expr {
        Expr::Relation(_, rest) => rest
            .last()
            .map_or_else(|| expr.clone(), |(_, side)| side.clone()),
        other => other.clone(),
    }
}

/// Two collections, or one and a single value.
fn collections(gold: &Expr, pred: &Expr, budget: &Budget) -> Decided {
    match (gold, pred) {
        (Expr::Set(_), Expr::Set(_) | Expr::Tuple(_)) => unordered(gold, pred, budget),
        (Expr::Tuple(gold), Expr::Tuple(pred) | Expr::Set(pred)) => ordered(gold, pred, budget),
        (Expr::Interval { .. } | Expr::Union(_) | Expr::Without(..), _)
        | (_, Expr::Interval { .. } | Expr::Union(_) | Expr::Without(..)) => {
            intervals(gold, pred, budget)
        }
        (Expr::Set(items), single) | (single, Expr::Set(items)) if items.len() == 1 => {
            if matches!(single, Expr::Tuple(_)) {
                return equal(&items[0], single, budget);
            }
            equal(single, &items[0], budget)
        }
        // The same value in two forms.
        (single, Expr::Set(items)) if !items.is_empty() && !single.is_collection() => {
            for item in items {
                if !equal(single, item, budget)?.is_equal() {
                    return Ok(Equality::DifferentElements);
                }
            }
            Ok(Equality::EqualElements)
        }
        _ => Ok(Equality::DifferentElements),
    }
}

fn ordered(gold: &[Expr], pred: &[Expr], budget: &Budget) -> Decided {
    if gold.len() != pred.len() {
        return Ok(Equality::DifferentElements);
    }
    for (gold, pred) in gold.iter().zip(pred) {
        if !equal(gold, pred, budget)?.is_equal() {
            return Ok(Equality::DifferentElements);
        }
    }
    Ok(Equality::EqualElements)
}

/// Every element of each has its equal in the other.
fn unordered(gold: &Expr, pred: &Expr, budget: &Budget) -> Decided {
    let gold = flattened(gold);
    let pred = match pred {
        Expr::Tuple(items) => items.clone(),
        other => flattened(other),
    };
    let mut is_matched = vec![false; pred.len()];
    for item in &gold {
        let mut found = false;
        for (place, other) in pred.iter().enumerate() {
            if (!found || !is_matched[place]) && equal(item, other, budget)?.is_equal() {
                is_matched[place] = true;
                found = true;
            }
        }
        if !found {
            return Ok(Equality::DifferentElements);
        }
    }
    Ok(elements(is_matched.into_iter().all(|matched| matched)))
}

/// Intervals and what is made of them: by their ends exactly, else as parts of the real line.
fn intervals(gold: &Expr, pred: &Expr, budget: &Budget) -> Decided {
    if let (Some(gold), Some(pred)) = (ends(gold), ends(pred)) {
        if gold.is_open_at_finite_ends() != pred.is_open_at_finite_ends() {
            return Ok(Equality::DifferentElements);
        }
        return ordered(&[gold.low, gold.high], &[pred.low, pred.high], budget);
    }
    Ok(elements(segments::equal(gold, pred, budget)?))
}

struct Ends {
    low: Expr,
    high: Expr,
    is_low_open: bool,
    is_high_open: bool,
}

impl Ends {
    /// At infinity it makes no difference whether an end is left out.
    fn is_open_at_finite_ends(&self) -> [bool; 2] {
        let is_infinite = |end: &Expr| end.to_string().contains("oo");
        [
            self.is_low_open || is_infinite(&self.low),
            self.is_high_open || is_infinite(&self.high),
        ]
    }
}

fn ends(expr: &Expr) -> Option<Ends> {
    match expr {
        Expr::Interval {
            low,
            high,
            is_low_open,
            is_high_open,
        } => Some(Ends {
            low: (**low).clone(),
            high: (**high).clone(),
            is_low_open: *is_low_open,
            is_high_open: *is_high_open,
        }),
        Expr::Tuple(items) if items.len() == 2 => Some(Ends {
            low: items[0].clone(),
            high: items[1].clone(),
            is_low_open: true,
            is_high_open: true,
        }),
        _ => None,
    }
}

fn matrices(gold: &Expr, pred: &Expr, budget: &Budget) -> Decided {
    let (Some(gold), Some(pred)) = (
        relation::matrix(gold, budget)?,
        relation::matrix(pred, budget)?,
    ) else {
        return Ok(Equality::DifferentElements);
    };
    let widths = |rows: &[Vec<Expr>]| rows.iter().map(Vec::len).collect::<Vec<_>>();
    if widths(&gold) != widths(&pred) {
        return Ok(Equality::DifferentElements);
    }
    ordered(&gold.concat(), &pred.concat(), budget)
}

/// Words, numbers and expressions.
fn plain(gold: &Expr, pred: &Expr, budget: &Budget) -> Decided {
    let is_word = |expr: &Expr| matches!(expr, Expr::Text(_) | Expr::Symbol(_));
    if is_word(gold) || is_word(pred) {
        let same = gold
            .as_word()
            .zip(pred.as_word())
            .filter(|(gold, _)| !gold.is_empty());
        match same {
            Some((gold, pred)) if gold == pred => return Ok(Equality::EqualWords),
            _ if matches!((gold, pred), (Expr::Text(_), _) | (_, Expr::Text(_))) => {
                return Ok(Equality::DifferentWords);
            }
            _ => (),
        }
    }
    if let (Expr::Percent(gold), Expr::Percent(pred)) = (gold, pred) {
        return plain(gold, pred, budget);
    }
    if is_same_figure(gold, pred) {
        return Ok(Equality::EqualNumber);
    }
    let (gold_form, pred_form) = (normal(gold, budget), normal(pred, budget));
    if (is_decimal(gold) || is_decimal(pred))
        && let Some(found) = rounded(gold, &gold_form, pred, &pred_form, budget)?
    {
        return Ok(found);
    }
    match (gold_form, pred_form) {
        (Ok(gold_form), Ok(pred_form)) => by_forms(&gold_form, &pred_form, gold, pred, budget),
        (Err(NoNormal::Undecided(reason)), _) | (_, Err(NoNormal::Undecided(reason))) => {
            Err(reason)
        }
        (Err(NoNormal::NotANumber), _) | (_, Err(NoNormal::NotANumber)) => {
            Ok(Equality::DifferentExpression)
        }
    }
}

/// 28 % and 28: the sign left out of a whole figure.
fn is_same_figure(gold: &Expr, pred: &Expr) -> bool {
    match (gold, pred) {
        (Expr::Percent(inner), other) | (other, Expr::Percent(inner)) => {
            matches!((&**inner, other), (Expr::Number(a), Expr::Number(b)) if a == b && a.is_integer())
        }
        _ => false,
    }
}

fn is_decimal(expr: &Expr) -> bool {
    match expr {
        Expr::Decimal(_) => true,
        Expr::Percent(inner) => is_decimal(inner),
        _ => false,
    }
}

/// Numbers of which one is a decimal, to six places; `None` where one is no real number.
fn rounded(
    gold: &Expr,
    gold_form: &Result<Normal, NoNormal>,
    pred: &Expr,
    pred_form: &Result<Normal, NoNormal>,
    budget: &Budget,
) -> Result<Option<Equality>, Undecided> {
    let exact = |form: &Result<Normal, NoNormal>| form.as_ref().ok()?.as_constant();
    let same = |are_equal: bool, equality| {
        if are_equal {
            equality
        } else {
            Equality::DifferentNumber
        }
    };
    if let (Some(gold), Some(pred)) = (exact(gold_form), exact(pred_form)) {
        if gold == pred {
            return Ok(Some(Equality::EqualNumber));
        }
        let scale = Rational::from_integer(BigInt::from(10_u32.pow(ROUNDED_PLACES)));
        let at_places = |value: &Rational| (value * &scale).round();
        let is_close = at_places(&gold) == at_places(&pred) && is_close_if_small(&gold, &pred);
        return Ok(Some(same(is_close, Equality::RoundedNumber)));
    }
    if has_symbols(gold) || has_symbols(pred) {
        return Ok(None);
    }
    let point = Point { trial: 0 };
    let (gold, pred) = (point.evaluate(gold, budget)?, point.evaluate(pred, budget)?);
    let (Some(gold), Some(pred)) = (gold.and_then(Ball::as_real), pred.and_then(Ball::as_real))
    else {
        return Ok(None);
    };
    let scale = f64::from(10_u32.pow(ROUNDED_PLACES));
    let is_close = ((gold * scale).round() - (pred * scale).round()).abs() < 0.5;
    Ok(Some(same(is_close, Equality::RoundedNumber)))
}

fn is_close_if_small(gold: &Rational, pred: &Rational) -> bool {
    let (gold, pred) = (to_f64(gold), to_f64(pred));
    gold.abs() >= SMALL || (gold - pred).abs() <= 5e-4 * gold.abs()
}

/// The normal forms, and values at points where those leave it open.
fn by_forms(
    gold_form: &Normal,
    pred_form: &Normal,
    gold: &Expr,
    pred: &Expr,
    budget: &Budget,
) -> Decided {
    let are_numbers = gold_form.as_constant().is_some() && pred_form.as_constant().is_some();
    let difference = match gold_form.minus(pred_form, budget) {
        Ok(difference) => difference,
        Err(NoNormal::Undecided(reason)) => return Err(reason),
        Err(NoNormal::NotANumber) => return Ok(Equality::DifferentExpression),
    };
    if difference.above.is_zero() {
        return Ok(if are_numbers {
            Equality::EqualNumber
        } else {
            Equality::EqualExpression
        });
    }
    if are_numbers {
        return Ok(Equality::DifferentNumber);
    }
    // Variables, π, e, i and square roots of primes have no relation that would make the difference vanish.
    if difference.above.is_decided(|name| !name.contains('(')) {
        return Ok(Equality::DifferentExpression);
    }
    at_points(gold, pred, budget)
}

fn at_points(gold: &Expr, pred: &Expr, budget: &Budget) -> Decided {
    let has_symbols = has_symbols(gold) || has_symbols(pred);
    let (trials, least) = if has_symbols {
        (TRIALS, LEAST_TOLD)
    } else {
        (1, 1)
    };
    let (mut told, mut open) = (0, 0);
    for trial in 0..trials {
        let point = Point { trial };
        let values = (point.evaluate(gold, budget)?, point.evaluate(pred, budget)?);
        let (Some(gold), Some(pred)) = values else {
            continue;
        };
        match gold.agrees(pred) {
            Some(false) => return Ok(Equality::DifferentExpression),
            Some(true) => told += 1,
            None => open += 1,
        }
    }
    match (told, open) {
        _ if told >= least => Ok(Equality::EqualAtPoints),
        // Nothing could be computed: functions without a known value, of which the forms differ.
        (0, 0) => Ok(Equality::DifferentExpression),
        _ => Err(Undecided::TooClose),
    }
}

fn has_symbols(expr: &Expr) -> bool {
    match expr {
        Expr::Symbol(_) => true,
        Expr::Sum(items) | Expr::Product(items) | Expr::Function(_, items) => {
            items.iter().any(has_symbols)
        }
        Expr::Quotient(a, b) | Expr::Power(a, b) | Expr::Root(a, b) => {
            has_symbols(a) || has_symbols(b)
        }
        Expr::Percent(inner) => has_symbols(inner),
        _ => false,
    }
}

/// Whether a number is below zero, for relations that a factor reverses.
pub(super) fn is_negative(value: &Rational) -> bool {
    value.is_negative()
}
