//! Sets of real numbers as segments of the line.

use super::{
    Budget, Expr, Undecided,
    expr::{Constant, Sign},
    numeric::{Point, to_f64},
    relation::{Link, links},
};

/// Ends that lie nearer than this share of their size are one.
const NEAR: f64 = 1e-7;

/// One segment; a point is a closed one whose ends are equal.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Segment {
    low: f64,
    high: f64,
    is_low_open: bool,
    is_high_open: bool,
}

/// Whether two sets hold the same real numbers; not so where one is none.
pub(super) fn equal(gold: &Expr, pred: &Expr, budget: &Budget) -> Result<bool, Undecided> {
    let (Some(gold), Some(pred)) = (of(gold, budget)?, of(pred, budget)?) else {
        return Ok(false);
    };
    let (gold, pred) = (joined(gold), joined(pred));
    let same = |(a, b): (&Segment, &Segment)| {
        is_near(a.low, b.low)
            && is_near(a.high, b.high)
            && (a.is_low_open == b.is_low_open || a.low.is_infinite())
            && (a.is_high_open == b.is_high_open || a.high.is_infinite())
    };
    Ok(gold.len() == pred.len() && gold.iter().zip(&pred).all(same))
}

fn is_near(a: f64, b: f64) -> bool {
    a.total_cmp(&b).is_eq() || (a - b).abs() <= NEAR * a.abs().max(b.abs()).max(1.0)
}

/// The segments of a set or of a relation in one variable; `None` for anything else.
fn of(expr: &Expr, budget: &Budget) -> Result<Option<Vec<Segment>>, Undecided> {
    budget.spend(4)?;
    match expr {
        Expr::Interval {
            low,
            high,
            is_low_open,
            is_high_open,
        } => segment(low, high, *is_low_open, *is_high_open, budget),
        Expr::Tuple(ends) if ends.len() == 2 => segment(&ends[0], &ends[1], true, true, budget),
        Expr::Set(items) => {
            let points = items
                .iter()
                .map(|item| segment(item, item, false, false, budget));
            concatenated(points)
        }
        Expr::Union(sets) => concatenated(sets.iter().map(|set| of(set, budget))),
        Expr::Without(whole, part) => {
            let (whole, part) = (of(whole, budget)?, of(part, budget)?);
            let rest = part.map(|part| complement(joined(part)));
            Ok(whole.zip(rest).map(|(whole, rest)| common(&whole, &rest)))
        }
        Expr::Relation(first, rest) => of_relation(&links((first, rest)), budget),
        _ => Ok(None),
    }
}

fn concatenated(
    parts: impl Iterator<Item = Result<Option<Vec<Segment>>, Undecided>>,
) -> Result<Option<Vec<Segment>>, Undecided> {
    let parts = parts.collect::<Result<Option<Vec<_>>, _>>()?;
    Ok(parts.map(|parts| parts.concat()))
}

fn segment(
    low: &Expr,
    high: &Expr,
    is_low_open: bool,
    is_high_open: bool,
    budget: &Budget,
) -> Result<Option<Vec<Segment>>, Undecided> {
    let (low, high) = (end(low, budget)?, end(high, budget)?);
    let one = |(low, high)| {
        vec![Segment {
            low,
            high,
            is_low_open,
            is_high_open,
        }]
    };
    Ok(low.zip(high).map(one))
}

/// The value of an end, ±∞ among them.
fn end(expr: &Expr, budget: &Budget) -> Result<Option<f64>, Undecided> {
    match expr {
        Expr::Constant(Constant::Infinity) => return Ok(Some(f64::INFINITY)),
        Expr::Product(factors) => {
            if let [Expr::Number(sign), Expr::Constant(Constant::Infinity)] = &factors[..] {
                return Ok(Some(to_f64(sign).signum() * f64::INFINITY));
            }
        }
        _ => (),
    }
    let value = Point { trial: 0 }.evaluate(expr, budget)?;
    Ok(value.and_then(super::numeric::Ball::as_real))
}

/// The values of one unknown that satisfy every link: a variable, a function of one, or an absolute value.
fn of_relation(links: &[Link<'_>], budget: &Budget) -> Result<Option<Vec<Segment>>, Undecided> {
    let mut solution = vec![line()];
    let mut unknown: Option<String> = None;
    for link in links {
        let Some(linear) = link.difference(budget)?.and_then(|form| form.as_linear()) else {
            return Ok(None);
        };
        if unknown.as_ref().is_some_and(|name| *name != linear.name) {
            return Ok(None);
        }
        let bound = to_f64(&(-&linear.constant / &linear.slope));
        let is_reversed = super::equal::is_negative(&linear.slope);
        let sign = if is_reversed {
            link.sign.reversed()
        } else {
            link.sign
        };
        solution = common(&solution, &half_lines(sign, bound));
        unknown = Some(linear.name);
    }
    let is_absolute = unknown.is_some_and(|name| name.starts_with("abs("));
    Ok(Some(if is_absolute {
        mirrored(&solution)
    } else {
        solution
    }))
}

fn line() -> Segment {
    Segment {
        low: f64::NEG_INFINITY,
        high: f64::INFINITY,
        is_low_open: true,
        is_high_open: true,
    }
}

fn half_lines(sign: Sign, bound: f64) -> Vec<Segment> {
    let below = |is_high_open| Segment {
        high: bound,
        is_high_open,
        ..line()
    };
    let above = |is_low_open| Segment {
        low: bound,
        is_low_open,
        ..line()
    };
    let point = Segment {
        low: bound,
        high: bound,
        is_low_open: false,
        is_high_open: false,
    };
    match sign {
        Sign::Less => vec![below(true)],
        Sign::LessOrEqual => vec![below(false)],
        Sign::Greater => vec![above(true)],
        Sign::GreaterOrEqual => vec![above(false)],
        Sign::Equal => vec![point],
        Sign::NotEqual => vec![below(true), above(true)],
    }
}

/// What an absolute value in these segments says of the number itself.
fn mirrored(segments: &[Segment]) -> Vec<Segment> {
    let nonnegative = Segment {
        low: 0.0,
        is_low_open: false,
        ..line()
    };
    let right = common(segments, &[nonnegative]);
    let mirror = |segment: &Segment| Segment {
        low: -segment.high,
        high: -segment.low,
        is_low_open: segment.is_high_open,
        is_high_open: segment.is_low_open,
    };
    right.iter().map(mirror).chain(right.clone()).collect()
}

impl Segment {
    fn is_empty(&self) -> bool {
        let is_point = self.low >= self.high;
        self.low > self.high || (is_point && (self.is_low_open || self.is_high_open))
    }
}

fn common(left: &[Segment], right: &[Segment]) -> Vec<Segment> {
    let pairs = left.iter().flat_map(|a| right.iter().map(move |b| (a, b)));
    let both = pairs.map(|(a, b)| {
        let (low, is_low_open) = match a.low.total_cmp(&b.low) {
            std::cmp::Ordering::Greater => (a.low, a.is_low_open),
            std::cmp::Ordering::Less => (b.low, b.is_low_open),
            std::cmp::Ordering::Equal => (a.low, a.is_low_open || b.is_low_open),
        };
        let (high, is_high_open) = match a.high.total_cmp(&b.high) {
            std::cmp::Ordering::Less => (a.high, a.is_high_open),
            std::cmp::Ordering::Greater => (b.high, b.is_high_open),
            std::cmp::Ordering::Equal => (a.high, a.is_high_open || b.is_high_open),
        };
        Segment {
            low,
            high,
            is_low_open,
            is_high_open,
        }
    });
    both.filter(|segment| !segment.is_empty()).collect()
}

/// Sorted, with segments that meet made one.
fn joined(mut segments: Vec<Segment>) -> Vec<Segment> {
    segments.retain(|segment| !segment.is_empty());
    let key = |s: &Segment| (s.low, s.is_low_open);
    segments.sort_by(|a, b| {
        let ((a_low, a_open), (b_low, b_open)) = (key(a), key(b));
        a_low.total_cmp(&b_low).then(a_open.cmp(&b_open))
    });
    let mut result: Vec<Segment> = Vec::new();
    for segment in segments {
        let meets = |last: &Segment| {
            segment.low < last.high
                || (segment.low <= last.high && !(segment.is_low_open && last.is_high_open))
        };
        match result.last_mut().filter(|last| meets(last)) {
            Some(last) => match segment.high.total_cmp(&last.high) {
                std::cmp::Ordering::Greater => {
                    (last.high, last.is_high_open) = (segment.high, segment.is_high_open);
                }
                std::cmp::Ordering::Equal => last.is_high_open &= segment.is_high_open,
                std::cmp::Ordering::Less => (),
            },
            None => result.push(segment),
        }
    }
    result
}

/// What of the line sorted segments leave.
fn complement(segments: Vec<Segment>) -> Vec<Segment> {
    let mut rest = Vec::new();
    let (mut low, mut is_low_open) = (f64::NEG_INFINITY, true);
    for segment in segments {
        rest.push(Segment {
            low,
            high: segment.low,
            is_low_open,
            is_high_open: !segment.is_low_open,
        });
        (low, is_low_open) = (segment.high, !segment.is_high_open);
    }
    rest.push(Segment {
        low,
        is_low_open,
        ..line()
    });
    rest.retain(|segment| !segment.is_empty());
    rest
}
