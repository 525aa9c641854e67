//! Charts and tables as data.

use serde::Serialize;

/// Some series over common axes.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Chart {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) caption: String,
    /// The heading that it stands under.
    pub(crate) group: &'static str,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
}

impl Chart {
    /// Whether there is anything to draw.
    pub(crate) fn is_empty(&self) -> bool {
        self.series.iter().all(Series::is_empty)
    }
}

/// What an axis measures, and how.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Axis {
    pub(crate) label: &'static str,
    pub(crate) log: bool,
    pub(crate) percent: bool,
    /// Whether it counts, so that no tick lies between whole numbers.
    pub(crate) whole: bool,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Measurements in the order of x, joined.
    Line,
    /// Measurements that are not joined.
    Points,
    /// A formula's values.
    Curve,
    /// An interval, between `low` and `high`.
    Band,
}

/// How strongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Style {
    Solid,
    Dashed,
    Faint,
}

/// Values to draw; `null` where nothing was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// The run that it is of.
    pub(crate) run: usize,
    pub(crate) kind: Kind,
    pub(crate) style: Style,
    /// Whether it is measured only at some steps, and joined across the others.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) joined: bool,
    pub(crate) x: Vec<f64>,
    pub(crate) y: Vec<Option<f64>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) low: Vec<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) high: Vec<f64>,
}

impl Series {
    /// Values at places; a value that is not finite is none.
    pub(crate) fn new(
        name: impl Into<String>,
        run: usize,
        kind: Kind,
        points: &[(f64, Option<f64>)],
    ) -> Self {
        let finite = |y: Option<f64>| y.filter(|y| y.is_finite());
        Self {
            name: name.into(),
            run,
            kind,
            style: Style::Solid,
            joined: false,
            x: points.iter().map(|point| point.0).collect(),
            y: points.iter().map(|point| finite(point.1)).collect(),
            low: Vec::new(),
            high: Vec::new(),
        }
    }

    /// Intervals at places.
    pub(crate) fn band(name: impl Into<String>, run: usize, intervals: &[(f64, [f64; 2])]) -> Self {
        Self {
            low: intervals.iter().map(|(_, interval)| interval[0]).collect(),
            high: intervals.iter().map(|(_, interval)| interval[1]).collect(),
            x: intervals.iter().map(|(x, _)| *x).collect(),
            y: Vec::new(),
            ..Self::new(name, run, Kind::Band, &[])
        }
    }

    pub(crate) fn style(self, style: Style) -> Self {
        Self { style, ..self }
    }

    pub(crate) fn joined(self, joined: bool) -> Self {
        Self { joined, ..self }
    }

    /// Whether there is anything to draw.
    pub(crate) fn is_empty(&self) -> bool {
        self.low.is_empty() && self.y.iter().all(Option::is_none)
    }
}

/// Text in rows. In a cell, what follows a line break is detail, such as an interval.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Table {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) caption: String,
    pub(crate) group: &'static str,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// A table's column.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) numeric: bool,
}

impl Column {
    pub(crate) fn text(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            numeric: false,
        }
    }

    pub(crate) fn number(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            numeric: true,
        }
    }
}

/// In one line, its spaces as a terminal has them.
fn plain(text: &str) -> String {
    text.replace(['\n', '\u{a0}'], " ")
}

impl Table {
    /// The same with a line for each of its columns but the first: what has many figures of few things fits a terminal so.
    pub(crate) fn turned(&self) -> Self {
        let line = |(index, column): (usize, &Column)| -> Vec<String> {
            let cells = self.rows.iter().map(|row| row[index].clone());
            std::iter::once(column.name.clone()).chain(cells).collect()
        };
        let mut lines = self.columns.iter().enumerate().map(line);
        let header = lines.next().unwrap_or_default();
        let columns = header.iter().enumerate().map(|(index, name)| Column {
            name: name.clone(),
            numeric: index > 0,
        });
        Self {
            columns: columns.collect(),
            rows: lines.collect(),
            ..self.clone()
        }
    }

    /// The table for a terminal, columns aligned.
    pub(crate) fn text(&self) -> String {
        let header: Vec<String> = self
            .columns
            .iter()
            .map(|column| plain(&column.name))
            .collect();
        let rows = self.rows.iter();
        let rows = rows.map(|row| row.iter().map(|cell| plain(cell)).collect());
        let lines: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| width(column).unwrap_or(0))
            .collect();
        let mut text = String::new();
        for line in lines {
            let cells = line.iter().zip(&widths).zip(&self.columns);
            let cells = cells.map(|((cell, &width), column)| {
                if column.numeric {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
            let cells: Vec<String> = cells.collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}
