//! Equations and inequalities, and matrices with their sums and products.

use super::{
    Budget, Expr, Undecided,
    equal::{self, is_negative},
    expr::Sign,
    normal::{NoNormal, Normal, normal},
};

type Chain<'a> = (&'a Expr, &'a [(Sign, Expr)]);

/// Whether two chains of relations say the same, each link by itself, from either end.
pub(super) fn equal<'a>(
    gold: (&'a Expr, &'a Vec<(Sign, Expr)>),
    pred: (&'a Expr, &'a Vec<(Sign, Expr)>),
    budget: &Budget,
) -> Result<bool, Undecided> {
    let (gold, pred) = (links((gold.0, gold.1)), links((pred.0, pred.1)));
    if gold.len() != pred.len() {
        return Ok(false);
    }
    let reversed: Vec<Link<'_>> = pred.iter().rev().map(Link::reversed).collect();
    for candidate in [&pred, &reversed] {
        let mut are_equal = true;
        for (gold, pred) in gold.iter().zip(candidate) {
            are_equal = are_equal && are_equivalent(gold, pred, budget)?;
        }
        if are_equal {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One sign with its two sides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link<'a> {
    pub(super) left: &'a Expr,
    pub(super) sign: Sign,
    pub(super) right: &'a Expr,
}

impl Link<'_> {
    fn reversed(&self) -> Self {
        Self {
            left: self.right,
            sign: self.sign.reversed(),
            right: self.left,
        }
    }

    /// Left less right.
    pub(super) fn difference(&self, budget: &Budget) -> Result<Option<Normal>, Undecided> {
        let forms = || normal(self.left, budget)?.minus(&normal(self.right, budget)?, budget);
        match forms() {
            Ok(form) => Ok(Some(form)),
            Err(NoNormal::NotANumber) => Ok(None),
            Err(NoNormal::Undecided(reason)) => Err(reason),
        }
    }
}

pub(super) fn links<'a>((first, rest): Chain<'a>) -> Vec<Link<'a>> {
    let lefts = std::iter::once(first).chain(rest.iter().map(|(_, side)| side));
    let link = |(left, (sign, right)): (&'a Expr, &'a (Sign, Expr))| Link {
        left,
        sign: *sign,
        right,
    };
    lefts.zip(rest).map(link).collect()
}

/// Whether one difference of the sides is a multiple of the other that keeps, or reverses, the sign.
fn are_equivalent(gold: &Link<'_>, pred: &Link<'_>, budget: &Budget) -> Result<bool, Undecided> {
    let differences = gold.difference(budget)?.zip(pred.difference(budget)?);
    if let Some((left, right)) = differences {
        let scaled = left.above.multiply(&right.below, budget)?;
        let other = right.above.multiply(&left.below, budget)?;
        if let Some(ratio) = scaled.ratio_to(&other) {
            let is_symmetric = gold.sign.reversed() == gold.sign;
            let expected = if is_negative(&ratio) && !is_symmetric {
                pred.sign.reversed()
            } else {
                pred.sign
            };
            return Ok(expected == gold.sign);
        }
    }
    let same_sides = |pred: &Link<'_>| -> Result<bool, Undecided> {
        let are_equal = gold.sign == pred.sign
            && equal::equal(gold.left, pred.left, budget)?.is_equal()
            && equal::equal(gold.right, pred.right, budget)?.is_equal();
        Ok(are_equal)
    };
    Ok(same_sides(pred)? || same_sides(&pred.reversed())?)
}

/// Rows of a matrix, or of a sum, a product or a multiple of matrices; `None` for anything else.
pub(super) fn matrix(expr: &Expr, budget: &Budget) -> Result<Option<Vec<Vec<Expr>>>, Undecided> {
    budget.spend(4)?;
    Ok(match expr {
        Expr::Matrix(rows) => Some(rows.clone()),
        Expr::Sum(terms) => {
            let mut sum: Option<Vec<Vec<Expr>>> = None;
            for term in terms {
                let Some(rows) = matrix(term, budget)? else {
                    return Ok(None);
                };
                sum = match sum {
                    None => Some(rows),
                    Some(sum) => added(sum, rows),
                };
                if sum.is_none() {
                    return Ok(None);
                }
            }
            sum
        }
        Expr::Product(factors) => {
            let mut product: Option<Vec<Vec<Expr>>> = None;
            let mut scalars = Vec::new();
            for factor in factors {
                match (matrix(factor, budget)?, product.take()) {
                    (None, before) => {
                        scalars.push(factor.clone());
                        product = before;
                    }
                    (Some(rows), None) => product = Some(rows),
                    (Some(rows), Some(before)) => {
                        product = multiplied(&before, &rows, budget)?;
                        if product.is_none() {
                            return Ok(None);
                        }
                    }
                }
            }
            product.map(|rows| scaled(rows, &scalars))
        }
        _ => None,
    })
}

fn added(left: Vec<Vec<Expr>>, right: Vec<Vec<Expr>>) -> Option<Vec<Vec<Expr>>> {
    let same_shape =
        left.len() == right.len() && left.iter().zip(&right).all(|(l, r)| l.len() == r.len());
    let add = |(l, r): (Vec<Expr>, Vec<Expr>)| {
        let cells = l.into_iter().zip(r);
        cells.map(|(l, r)| Expr::Sum(vec![l, r])).collect()
    };
    same_shape.then(|| left.into_iter().zip(right).map(add).collect())
}

fn multiplied(
    left: &[Vec<Expr>],
    right: &[Vec<Expr>],
    budget: &Budget,
) -> Result<Option<Vec<Vec<Expr>>>, Undecided> {
    let (inner, width) = (right.len(), right.first().map_or(0, Vec::len));
    if left.iter().any(|row| row.len() != inner) {
        return Ok(None);
    }
    budget.spend((left.len() * inner * width) as u64)?;
    let cell = |row: &[Expr], column: usize| {
        let pairs = row.iter().zip(right);
        Expr::Sum(
            pairs
                .map(|(l, r)| Expr::Product(vec![l.clone(), r[column].clone()]))
                .collect(),
        )
    };
    let rows = left
        .iter()
        .map(|row| (0..width).map(|column| cell(row, column)).collect());
    Ok(Some(rows.collect()))
}

fn scaled(rows: Vec<Vec<Expr>>, scalars: &[Expr]) -> Vec<Vec<Expr>> {
    if scalars.is_empty() {
        return rows;
    }
    let scale = |cell: Expr| Expr::Product([scalars, &[cell]].concat());
    rows.into_iter()
        .map(|row| row.into_iter().map(scale).collect())
        .collect()
}
