//! Figures that are read rather than seen.

use entropy::Agreement;

use super::{
    chart::{Column, Table},
    charts::pairs,
    run::Run,
};

/// The predictors of the change of entropy, with their keys.
pub(crate) const PREDICTORS: [(&str, &str); 3] = [
    ("the lemma: moved log-probabilities", "entropy_change_lemma"),
    ("theorem 1: policy gradient", "entropy_change_theorem_1"),
    (
        "theorem 2: natural policy gradient",
        "entropy_change_theorem_2",
    ),
];

pub(super) fn tables(runs: &[Run]) -> Vec<Table> {
    let tables = [law(runs), mechanism(runs), covariance(runs)];
    tables
        .into_iter()
        .filter(|table| !table.rows.is_empty())
        .collect()
}

fn law(runs: &[Run]) -> Table {
    let row = |run: &Run| {
        let fit = run.law?;
        let interval =
            |value: f64, [low, high]: [f64; 2]| format!("{value:.3}\n{low:.3} to {high:.3}");
        let (rmse, last, coverage) = match run.forecast {
            Some(forecast) => (
                format!("{:.4}", forecast.early_prediction_rmse),
                format!("{:.4}", forecast.final_error),
                format!("{:.0} %", 100.0 * forecast.early_coverage),
            ),
            None => ("–".into(), "–".into(), "–".into()),
        };
        // Why is said above, among the notes.
        let verdict = fit.doubt().map_or("holds", |_| "does not hold");
        Some(vec![
            run.name.clone(),
            interval(fit.a, fit.a_ci95),
            interval(fit.b, fit.b_ci95),
            interval(fit.ceiling, fit.ceiling_ci95),
            format!("{:.3}", fit.r_squared),
            format!("{:.4}", fit.rmse),
            rmse,
            last,
            coverage,
            verdict.to_owned(),
        ])
    };
    let numbers = [
        "a",
        "b",
        "ceiling",
        "R²",
        "RMSE",
        "early RMSE",
        "early error at end",
        "in early 95 %",
    ];
    let columns = std::iter::once(Column::text("run"))
        .chain(numbers.iter().map(|name| Column::number(name)))
        .chain(std::iter::once(Column::text("the law")));
    Table {
        id: "law-fits",
        title: "R = -a·e^H + b, fitted",
        caption: "Least squares over the steps; the ceiling is -a + b. Below each is its 95 % interval (Student's t), which assumes independent residuals. The early columns are of the fit to the first 15 % of the steps, over the rest: \
                  its error there, at the last step, and the share of steps within its 95 % interval.".into(),
        group: "The law",
        columns: columns.collect(),
        rows: runs.iter().filter_map(row).collect(),
    }
}

fn mechanism(runs: &[Run]) -> Table {
    let mut rows = Vec::new();
    for run in runs {
        for (name, key) in PREDICTORS {
            let Some(agreement) = agreement(run, key) else {
                continue;
            };
            let windows = Agreement::of_windows(&measured_pairs(run, key), WINDOW_STEPS);
            let (correlation, slope_of) = windows.map_or(("–".into(), "–".into()), |windows| {
                (format!("{:.3}", windows.correlation), slope(windows.slope))
            });
            rows.push(vec![
                run.name.clone(),
                name.to_owned(),
                agreement.points.to_string(),
                format!("{:.3}", agreement.correlation),
                slope(agreement.slope),
                correlation,
                slope_of,
            ]);
        }
    }
    Table {
        id: "agreement",
        title: "Expected against measured change of entropy",
        caption: format!(
            "Step by step, and between the means of {WINDOW_STEPS} steps each, which the noise of single steps blurs less. A slope of 1 is a prediction \
             of the right size; the theorems' rate is the optimizer's, whose steps are not in proportion to the gradient."
        ),
        group: "The mechanism",
        columns: vec![
            Column::text("run"),
            Column::text("expected by"),
            Column::number("steps"),
            Column::number("correlation"),
            Column::number("slope"),
            Column::number("correlation, windows"),
            Column::number("slope, windows"),
        ],
        rows,
    }
}

/// Steps over which agreement is averaged.
pub(crate) const WINDOW_STEPS: usize = 5;

fn slope(slope: f64) -> String {
    match slope.abs() {
        size if size < 100.0 => format!("{slope:.3}"),
        size if size < 1e5 => format!("{slope:.0}"),
        _ => power(slope),
    }
}

/// `1.45×10⁶`.
fn power(value: f64) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let written = format!("{value:.2e}");
    let Some((mantissa, exponent)) = written.split_once('e') else {
        return written;
    };
    let raised = exponent.chars().map(|c| match c.to_digit(10) {
        Some(digit) => DIGITS[digit as usize],
        None => '⁻',
    });
    format!("{mantissa}×10{}", raised.collect::<String>())
}

/// How a prediction of the change of entropy goes with what was measured.
pub(super) fn agreement(run: &Run, key: &str) -> Option<Agreement> {
    Agreement::of(&measured_pairs(run, key))
}

fn measured_pairs(run: &Run, key: &str) -> Vec<(f64, f64)> {
    let pairs = pairs(run, key).into_iter();
    pairs.filter_map(|(x, y)| Some((x, y?))).collect()
}

/// The paper's Table 1, of the first and the last step.
fn covariance(runs: &[Run]) -> Table {
    const RANKS: [(&str, &str); 6] = [
        ("top 0.02 %", "covariance_quantiles.top_0_02_percent"),
        ("top 0.2 %", "covariance_quantiles.top_0_2_percent"),
        ("top 2 %", "covariance_quantiles.top_2_percent"),
        ("top 20 %", "covariance_quantiles.top_20_percent"),
        ("top 50 %", "covariance_quantiles.top_50_percent"),
        ("all", "covariance_quantiles.all"),
    ];
    let mut rows = Vec::new();
    for run in runs {
        let columns = RANKS.map(|(_, key)| run.measured(key));
        let steps = columns[0].len();
        let places = if steps > 1 {
            vec![("first", 0), ("last", steps - 1)]
        } else {
            vec![("first", 0)]
        };
        for (when, place) in places {
            let cells = columns
                .iter()
                .map(|column| column.get(place).map_or("–".into(), |x| format!("{x:.3}")));
            let cells: Vec<String> = cells.collect();
            if steps > 0 {
                rows.push([vec![run.name.clone(), when.to_owned()], cells].concat());
            }
        }
    }
    if !rows.is_empty() {
        let paper = ["5.654", "3.112", "1.385", "0.351", "0.152", "0.003"].map(str::to_owned);
        rows.push(
            [
                vec!["the paper: Qwen2.5-7B".to_owned(), "first".to_owned()],
                paper.to_vec(),
            ]
            .concat(),
        );
    }
    let columns = [Column::text("run"), Column::text("step")].into_iter();
    Table {
        id: "covariance-ranks",
        title: "Mean covariance over the tokens with the largest",
        caption: "arXiv 2505.22617, Table 1.".into(),
        group: "The mechanism",
        columns: columns
            .chain(RANKS.map(|(name, _)| Column::number(name)))
            .collect(),
        rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_written_for_people() {
        let found = [0.5934, -1.0, 144.96, -23_456.7, 1.45e6, -2e12].map(slope);
        let expected = ["0.593", "-1.000", "145", "-23457", "1.45×10⁶", "-2.00×10¹²"];
        assert_eq!(found, expected);
    }
}
