//! What the runs of a comparison came to.

use anyhow::{Result, bail};
use entropy::MeanInterval;
use serde::Serialize;

use super::plan::Planned;
use crate::{
    records::{Records, Row, step_of},
    report::{Axis, Chart, Column, Kind, Run, Series, Table},
};

/// The share of a run's steps at its end that entropies and samples are averaged over.
const LAST_SHARE: f64 = 0.1;
/// Validations at the end that are averaged: a single one moves by some points.
const LAST_VALIDATIONS: usize = 3;

/// Each variant's figures over the seeds.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) variants: Vec<VariantResult>,
}

/// A variant's figures: means over seeds, and differences to the first variant paired by seed.
#[derive(Debug, Serialize)]
pub(super) struct VariantResult {
    pub(super) name: String,
    pub(super) seeds: Vec<u64>,
    /// Held-out accuracy, the mean of the last validations, by seed; none without validation.
    pub(super) accuracy_by_seed: Vec<Option<f64>>,
    /// How many validations that mean is of, by seed: three, or as many as a shorter run has after its first step.
    pub(super) validations_by_seed: Vec<usize>,
    pub(super) entropy_end_by_seed: Vec<f64>,
    pub(super) accuracy: Option<MeanInterval>,
    pub(super) accuracy_difference: Option<MeanInterval>,
    /// Of the very last validation.
    pub(super) accuracy_end: Option<MeanInterval>,
    pub(super) accuracy_sampled: Option<MeanInterval>,
    pub(super) entropy_end: Option<MeanInterval>,
    pub(super) entropy_end_ratio: Option<MeanInterval>,
    pub(super) selected_fraction: Option<MeanInterval>,
    pub(super) step_seconds: Option<MeanInterval>,
    pub(super) step_seconds_ratio: Option<MeanInterval>,
    pub(super) tokens_generated: Option<MeanInterval>,
}

/// One run's figures.
struct Outcome {
    accuracy: f64,
    /// Validations that `accuracy` is the mean of.
    validations: usize,
    accuracy_end: f64,
    sampled: f64,
    entropy: f64,
    selected: f64,
    seconds: f64,
    tokens: f64,
}

impl Outcome {
    fn of(run: &Planned) -> Result<Self> {
        let records = Records::load(&run.folder.join("metrics.jsonl"))?;
        let figures = |key| {
            records
                .column(key)
                .into_iter()
                .flatten()
                .collect::<Vec<f64>>()
        };
        let sampled = figures("accuracy_mean");
        let validations = validations(&records);
        if sampled.is_empty() {
            bail!("{}: no step was measured", run.folder.display());
        }
        let last = (sampled.len() as f64 * LAST_SHARE).ceil() as usize;
        Ok(Self {
            accuracy: mean_of_last(&validations, LAST_VALIDATIONS),
            validations: validations.len().min(LAST_VALIDATIONS),
            accuracy_end: mean_of_last(&validations, 1),
            sampled: mean_of_last(&sampled, last),
            entropy: mean_of_last(&figures("entropy_token_mean"), last),
            selected: mean_of_last(&figures("selected_fraction"), usize::MAX),
            seconds: mean_of_last(&figures("step_seconds"), usize::MAX),
            tokens: figures("tokens_generated").iter().sum(),
        })
    }
}

/// The validations of what was trained: that of step 0 is of the policy which every run starts from.
fn validations(records: &Records) -> Vec<f64> {
    let is_trained = |row: &&Row| step_of(row).is_none_or(|step| step > 0.0);
    let rows = records.rows.iter().filter(is_trained);
    rows.filter_map(|row| row.get("validation_accuracy").copied())
        .collect()
}

fn mean_of_last(figures: &[f64], count: usize) -> f64 {
    let last = &figures[figures.len().saturating_sub(count)..];
    last.iter().sum::<f64>() / last.len() as f64
}

impl Comparison {
    pub(super) fn of(variants: &[String], runs: &[Planned]) -> Result<Self> {
        let mut outcomes: Vec<Vec<(u64, Outcome)>> = variants.iter().map(|_| Vec::new()).collect();
        for run in runs {
            outcomes[run.variant].push((run.seed, Outcome::of(run)?));
        }
        let first = &outcomes[0];
        let results = variants.iter().zip(&outcomes);
        let results = results.map(|(name, outcomes)| VariantResult::of(name, outcomes, first));
        Ok(Self {
            variants: results.collect(),
        })
    }

    /// Each variant as one run: its figures' means over the seeds, step by step.
    pub(super) fn averages(&self, runs: &[Planned]) -> Result<Vec<Run>> {
        let of_variant = |(index, variant): (usize, &VariantResult)| {
            let own = runs.iter().filter(|run| run.variant == index);
            let own: Vec<Run> = own
                .map(|run| Run::load(&run.folder))
                .collect::<Result<_>>()?;
            Ok(Run::mean_of(&variant.name, own))
        };
        self.variants.iter().enumerate().map(of_variant).collect()
    }

    pub(super) fn table(&self) -> Table {
        let validations = self.validations();
        let held_out = format!("held out, % (last\u{a0}{validations})");
        let names = [
            &held_out,
            "difference, points",
            "last validation, %",
            "sampled, %",
            "entropy, nats",
            "entropy, ratio",
            "selected, %",
            "tokens, millions",
            "seconds a step",
            "time, ratio",
        ];
        let percent = |x: Option<MeanInterval>| shown(x, 100.0, 1);
        let row = |(index, variant): (usize, &VariantResult)| {
            // The first variant is what the others are related to.
            let related = |x: Option<MeanInterval>| x.filter(|_| index > 0);
            vec![
                variant.name.clone(),
                percent(variant.accuracy),
                difference(related(variant.accuracy_difference)),
                percent(variant.accuracy_end),
                percent(variant.accuracy_sampled),
                shown(variant.entropy_end, 1.0, 4),
                shown(related(variant.entropy_end_ratio), 1.0, 2),
                percent(variant.selected_fraction),
                shown(variant.tokens_generated, 1e-6, 2),
                shown(variant.step_seconds, 1.0, 2),
                shown(related(variant.step_seconds_ratio), 1.0, 2),
            ]
        };
        let seeds = self
            .variants
            .first()
            .map_or(0, |variant| variant.seeds.len());
        let columns = std::iter::once(Column::text("variant"));
        Table {
            id: "comparison",
            title: "Comparison",
            caption: format!(
                "Means over the seeds ({seeds}) with 95 % intervals (Student's t). Accuracies are held out or of sampled responses. Held-out accuracy \
                 is the mean of a run's last validations after step 0 ({validations} here, {LAST_VALIDATIONS} where there are so many), as a single one moves by some points. \
                 Differences and ratios are to the first variant, paired by seed; entropy and sampled accuracy are of the last tenth of the steps, \
                 before each step's updates; selected are the tokens that an entropy controller acts on."
            ),
            group: "Comparison",
            columns: columns.chain(names.map(Column::number)).collect(),
            rows: self.variants.iter().enumerate().map(row).collect(),
        }
    }

    /// How many validations the runs' accuracies are means of: `3`, or `1 to 3`.
    fn validations(&self) -> String {
        let counts = self.variants.iter();
        let counts = counts.flat_map(|variant| &variant.validations_by_seed);
        let (fewest, most) = (counts.clone().min(), counts.max());
        match (fewest, most) {
            (Some(fewest), Some(most)) if fewest < most => format!("{fewest} to {most}"),
            (_, most) => most.map_or_else(String::new, ToString::to_string),
        }
    }

    /// Accuracy against entropy at the end, a point a run.
    pub(super) fn chart(&self) -> Chart {
        let series = self.variants.iter().enumerate().map(|(index, variant)| {
            let accuracies = variant.accuracy_by_seed.iter().copied();
            let entropies = variant.entropy_end_by_seed.iter().copied();
            let points: Vec<(f64, Option<f64>)> = entropies.zip(accuracies).collect();
            Series::new("a seed", index, Kind::Points, &points)
        });
        Chart {
            id: "comparison-points",
            title: "Accuracy against entropy at the end",
            caption: "A point a seed.".into(),
            group: "Comparison",
            x: Axis {
                label: "entropy over the last tenth, nats",
                ..Axis::default()
            },
            y: Axis {
                label: "held-out accuracy",
                percent: true,
                ..Axis::default()
            },
            series: series.collect(),
        }
    }
}

impl VariantResult {
    fn of(name: &str, outcomes: &[(u64, Outcome)], first: &[(u64, Outcome)]) -> Self {
        let all = |pick: fn(&Outcome) -> f64| {
            outcomes
                .iter()
                .map(|(_, outcome)| pick(outcome))
                .collect::<Vec<f64>>()
        };
        let paired = |pick: fn(&Outcome) -> f64, relate: fn(f64, f64) -> f64| {
            let pairs = outcomes.iter().zip(first);
            pairs
                .map(|((_, own), (_, other))| relate(pick(own), pick(other)))
                .collect::<Vec<f64>>()
        };
        let mean = |values: Vec<f64>| {
            let finite: Vec<f64> = values
                .into_iter()
                .filter(|value| value.is_finite())
                .collect();
            MeanInterval::of(&finite)
        };
        Self {
            name: name.to_owned(),
            seeds: outcomes.iter().map(|(seed, _)| *seed).collect(),
            accuracy_by_seed: all(|o| o.accuracy)
                .into_iter()
                .map(|accuracy| Some(accuracy).filter(|a| a.is_finite()))
                .collect(),
            validations_by_seed: outcomes.iter().map(|(_, o)| o.validations).collect(),
            entropy_end_by_seed: all(|o| o.entropy),
            accuracy: mean(all(|o| o.accuracy)),
            accuracy_difference: mean(paired(|o| o.accuracy, |own, other| own - other)),
            accuracy_end: mean(all(|o| o.accuracy_end)),
            accuracy_sampled: mean(all(|o| o.sampled)),
            entropy_end: mean(all(|o| o.entropy)),
            entropy_end_ratio: mean(paired(|o| o.entropy, |own, other| own / other)),
            selected_fraction: mean(all(|o| o.selected)),
            step_seconds: mean(all(|o| o.seconds)),
            step_seconds_ratio: mean(paired(|o| o.seconds, |own, other| own / other)),
            tokens_generated: mean(all(|o| o.tokens)),
        }
    }
}

/// `-2.0 ± 1.3`, in points of a percentage.
fn difference(interval: Option<MeanInterval>) -> String {
    let sign = interval
        .filter(|interval| interval.mean > 0.0)
        .map_or("", |_| "+");
    format!("{sign}{}", shown(interval, 100.0, 1))
}

/// `75.2 ± 1.3`, in two lines where there is room for them.
fn shown(interval: Option<MeanInterval>, factor: f64, digits: usize) -> String {
    let Some(MeanInterval { mean, half_width }) = interval else {
        return "–".into();
    };
    let mean = mean * factor;
    match half_width {
        Some(half) => format!("{mean:.digits$}\n± {:.digits$}", half * factor),
        None => format!("{mean:.digits$}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(accuracy: f64, entropy: f64) -> Outcome {
        Outcome {
            accuracy,
            validations: 3,
            accuracy_end: accuracy,
            sampled: accuracy,
            entropy,
            selected: 0.0,
            seconds: 2.0,
            tokens: 10.0,
        }
    }

    #[test]
    fn differences_are_paired_by_seed() {
        // Each seed gains 0.1 whatever the seeds' own level: the paired interval has no width.
        let first = [(1, outcome(0.2, 0.1)), (2, outcome(0.6, 0.2))];
        let second = [(1, outcome(0.3, 0.2)), (2, outcome(0.7, 0.4))];
        let result = VariantResult::of("x", &second, &first);
        let difference = result.accuracy_difference.unwrap();
        assert!((difference.mean - 0.1).abs() < 1e-12 && difference.half_width.unwrap() < 1e-9);
        assert!((result.entropy_end_ratio.unwrap().mean - 2.0).abs() < 1e-12);
        assert!(result.accuracy.unwrap().half_width.unwrap() > 1.0);
    }

    #[test]
    fn a_terminal_of_eighty_columns_holds_three_variants() {
        let names = ["all_weights", "lora_16", "lora_2"];
        let pair = |x: f64| vec![(1, outcome(x, 0.03)), (2, outcome(x + 0.02, 0.04))];
        let variants = names.map(|name| VariantResult::of(name, &pair(0.7), &pair(0.6)));
        let comparison = Comparison {
            variants: variants.into(),
        };
        let text = comparison.table().turned().text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines.iter().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert!(
            lines[0].starts_with("variant") && lines[0].ends_with("lora_2"),
            "{text}"
        );
        assert_eq!(lines.len(), 1 + 10);
        assert!(lines[5].starts_with("entropy, nats"), "{text}");
        assert!(
            lines[1].contains("71.0 ±") && lines[5].contains("0.0350 ±"),
            "{text}"
        );
    }

    #[test]
    fn figures_are_shown_with_their_interval() {
        let interval = |half_width| {
            Some(MeanInterval {
                mean: 0.7523,
                half_width,
            })
        };
        assert_eq!(shown(interval(Some(0.0131)), 100.0, 1), "75.2\n± 1.3");
        assert_eq!(shown(interval(None), 1.0, 2), "0.75");
        assert_eq!(shown(None, 1.0, 2), "–");
    }

    #[test]
    fn the_validation_before_training_is_none_of_what_was_trained() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = |(step, accuracy): (u64, f64)| {
            format!("{{\"step\":{step},\"validation_accuracy\":{accuracy}}}\n")
        };
        let lines: String = [(0, 0.1), (5, 0.6), (10, 0.8)].map(line).concat();
        std::fs::write(file.path(), lines).unwrap();
        let records = Records::load(file.path()).unwrap();
        assert_eq!(validations(&records), [0.6, 0.8]);
    }

    #[test]
    fn the_last_ones_are_averaged() {
        assert!((mean_of_last(&[1.0, 2.0, 4.0], 2) - 3.0).abs() < 1e-12);
        assert!(mean_of_last(&[], 3).is_nan());
    }
}
