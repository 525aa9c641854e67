//! The styles in which a sum is worked.

use std::fmt::Write;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::StyleWeights;
use crate::MistakeRate;
use crate::task::mistake::wrong_result;

/// A way to work a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Style {
    Running,
    Pairs,
    Tens,
    Reordered,
    Direct,
}

impl Style {
    /// In the order of [`StyleWeights::as_array`].
    const ALL: [Self; 5] = [
        Self::Running,
        Self::Pairs,
        Self::Tens,
        Self::Reordered,
        Self::Direct,
    ];

    /// A style at random, in proportion to the weights.
    pub(super) fn choose(weights: StyleWeights, rng: &mut ChaCha8Rng) -> Self {
        let weights = weights.as_array();
        let mut point = rng.random::<f64>() * weights.iter().sum::<f64>();
        let mut chosen = Self::Running;
        for (style, weight) in Self::ALL.into_iter().zip(weights) {
            if weight > 0.0 {
                chosen = style;
                if point < weight {
                    break;
                }
            }
            point -= weight;
        }
        chosen
    }
}

/// Signed terms as a sum: `47-38+91`.
pub(super) fn sum_text(terms: &[i64]) -> String {
    let mut text = String::new();
    for (position, term) in terms.iter().enumerate() {
        if position > 0 && *term >= 0 {
            text.push('+');
        }
        text.push_str(&term.to_string());
    }
    text
}

/// Writes steps, some of them wrong.
pub(super) struct Worker<'a> {
    rng: &'a mut ChaCha8Rng,
    mistakes: MistakeRate,
    lines: String,
}

impl<'a> Worker<'a> {
    pub(super) fn new(rng: &'a mut ChaCha8Rng, mistakes: MistakeRate) -> Self {
        Self {
            rng,
            mistakes,
            lines: String::new(),
        }
    }

    /// The steps and the final line.
    pub(super) fn solve(mut self, terms: &[i64], style: Style) -> String {
        let total = match style {
            Style::Running => self.running_total(terms),
            Style::Pairs => self.pairwise(terms),
            Style::Tens => self.by_place(terms),
            Style::Reordered => self.reordered(terms),
            Style::Direct => self.result_of(terms),
        };
        let mut lines = self.lines;
        let _ = write!(lines, "#### {total}");
        lines
    }

    /// The sum of a step's terms, as the worker gets it.
    fn result_of(&mut self, terms: &[i64]) -> i64 {
        let right = terms.iter().sum();
        if self.mistakes.strikes(self.rng) {
            wrong_result(right, self.rng)
        } else {
            right
        }
    }

    /// Writes `47+38=85` and returns 85, or what a mistake makes of it.
    fn step(&mut self, terms: &[i64]) -> i64 {
        let result = self.result_of(terms);
        let _ = writeln!(self.lines, "{}={result}", sum_text(terms));
        result
    }

    fn running_total(&mut self, terms: &[i64]) -> i64 {
        let first = terms.first().copied().unwrap_or_default();
        terms
            .iter()
            .skip(1)
            .fold(first, |total, term| self.step(&[total, *term]))
    }

    fn pairwise(&mut self, terms: &[i64]) -> i64 {
        let mut level = terms.to_vec();
        while level.len() > 1 {
            let add = |pair: &[i64]| {
                if pair.len() == 2 {
                    self.step(pair)
                } else {
                    pair[0]
                }
            };
            level = level.chunks(2).map(add).collect();
        }
        level.first().copied().unwrap_or_default()
    }

    /// Every place apart, the highest first: `40+30+90+20=180`, `7+8+1+6=22`, `180+22=202`.
    fn by_place(&mut self, terms: &[i64]) -> i64 {
        let largest = terms
            .iter()
            .map(|term| term.unsigned_abs())
            .max()
            .unwrap_or_default();
        let places = largest.checked_ilog10().unwrap_or_default();
        let sums: Vec<i64> = (0..=places)
            .rev()
            .map(|place| {
                let power = 10_i64.pow(place);
                let parts: Vec<i64> = terms.iter().map(|term| term / power % 10 * power).collect();
                self.step(&parts)
            })
            .collect();
        self.running_total(&sums)
    }

    fn reordered(&mut self, terms: &[i64]) -> i64 {
        let mut order = terms.to_vec();
        if self.rng.random_bool(0.5) {
            order.reverse();
        } else {
            order.sort_unstable_by(|one, other| other.cmp(one));
        }
        self.running_total(&order)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::SeedableRng;

    use super::*;

    fn solve(terms: &[i64], style: Style) -> String {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        Worker::new(&mut rng, MistakeRate::NEVER).solve(terms, style)
    }

    #[test]
    fn every_style_is_worked_as_by_hand() {
        let terms = [47, 38, 91, 26];
        assert_eq!(
            solve(&terms, Style::Running),
            "47+38=85\n85+91=176\n176+26=202\n#### 202"
        );
        assert_eq!(
            solve(&terms, Style::Pairs),
            "47+38=85\n91+26=117\n85+117=202\n#### 202"
        );
        assert_eq!(
            solve(&terms, Style::Tens),
            "40+30+90+20=180\n7+8+1+6=22\n180+22=202\n#### 202"
        );
        assert_eq!(solve(&terms, Style::Direct), "#### 202");
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let seen: std::collections::BTreeSet<String> = (0..20)
            .map(|_| Worker::new(&mut rng, MistakeRate::NEVER).solve(&terms, Style::Reordered))
            .collect();
        let expected = [
            "26+91=117\n117+38=155\n155+47=202\n#### 202",
            "91+47=138\n138+38=176\n176+26=202\n#### 202",
        ];
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn differences_and_odd_counts_are_worked_too() {
        let terms = [47, -38, -91];
        assert_eq!(solve(&terms, Style::Running), "47-38=9\n9-91=-82\n#### -82");
        assert_eq!(solve(&terms, Style::Pairs), "47-38=9\n9-91=-82\n#### -82");
        assert_eq!(
            solve(&terms, Style::Tens),
            "40-30-90=-80\n7-8-1=-2\n-80-2=-82\n#### -82"
        );
        assert_eq!(solve(&[3, 4], Style::Tens), "3+4=7\n#### 7");
    }

    #[test]
    fn mistakes_are_carried_on() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for _ in 0..100 {
            let text =
                Worker::new(&mut rng, MistakeRate::ALWAYS).solve(&[47, 38, 91], Style::Running);
            let lines: Vec<&str> = text.lines().collect();
            let first = lines[0].strip_prefix("47+38=").unwrap();
            assert_ne!(first, "85");
            let second = lines[1].strip_prefix(&format!("{first}+91=")).unwrap();
            assert_eq!(lines[2], format!("#### {second}"));
        }
    }

    #[test]
    fn styles_occur_in_proportion_to_their_weights() {
        let weights = StyleWeights::default();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut counts: HashMap<Style, f64> = HashMap::new();
        for _ in 0..10_000 {
            *counts.entry(Style::choose(weights, &mut rng)).or_default() += 1e-4;
        }
        for (style, weight) in Style::ALL.into_iter().zip(weights.as_array()) {
            // Four standard deviations of a fraction near 0.35 over 10,000 draws.
            assert!((counts[&style] - weight).abs() < 0.02, "{style:?}");
        }
        let only = StyleWeights {
            running: 0.0,
            pairs: 0.0,
            tens: 2.0,
            reordered: 0.0,
            direct: 0.0,
        };
        assert!((0..100).all(|_| Style::choose(only, &mut rng) == Style::Tens));
    }
}
