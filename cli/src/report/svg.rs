//! Charts as SVG files, for papers and slides.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use plotters::{coord::Shift, coord::types::RangedCoordf64, prelude::*};

use super::chart::{Chart, Kind, Series, Style};

/// Twice a page's size, as the backend draws at whole pixels; the legend's rows come below.
const SIZE: (u32, u32) = (1520, 920);
/// Okabe and Ito's palette, told apart with any kind of colour vision.
const PALETTE: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(150, 110, 0),
    RGBColor(60, 60, 60),
];
/// A linear axis is longer than its figures by this share at each end.
const MARGIN: f64 = 0.04;
/// Lengths of a dash and of the gap after it, by which the lines of one colour are told apart; the first is solid.
const DASHES: [(u32, u32); 3] = [(1, 0), (14, 9), (4, 7)];
/// The legend's text, the height of its rows, the width of a sample, and about that of a letter.
const LEGEND_FONT: i32 = 24;
const LEGEND_ROW: u32 = 40;
const SAMPLE: i32 = 44;
const LETTER: i32 = 12;
/// Between the picture's edge and what is drawn.
const EDGE: i32 = 28;

/// Writes each chart that has figures to `folder/ID.svg`; `runs` are the runs' names.
pub(super) fn write(charts: &[Chart], runs: &[&str], folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut written = Vec::new();
    for chart in charts.iter().filter(|chart| !chart.is_empty()) {
        let path = folder.join(format!("{}.svg", chart.id));
        fs::write(&path, svg(chart, runs)?).with_context(|| path.display().to_string())?;
        written.push(path);
    }
    Ok(written)
}

fn svg(chart: &Chart, runs: &[&str]) -> Result<String> {
    let mut text = String::new();
    {
        let entries = legend(chart, runs);
        let rows = entries.last().map_or(0, |entry| entry.row + 1);
        let size = (SIZE.0, SIZE.1 + rows * LEGEND_ROW);
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(chart, &entries, &root)
            .map_err(|error| anyhow!("cannot draw '{}': {error}", chart.id))?;
    }
    Ok(text)
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw(chart: &Chart, entries: &[Entry<'_>], root: &DrawingArea<SVGBackend<'_>, Shift>) -> Drawn {
    root.fill(&WHITE)?;
    let (upper, lower) = root.split_vertically(SIZE.1 - EDGE as u32);
    let mut plane = ChartBuilder::on(&upper)
        .margin(EDGE)
        .caption(chart.title, ("sans-serif", 40))
        .x_label_area_size(84)
        .y_label_area_size(128)
        .build_cartesian_2d(x_range(chart), y_range(chart))?;
    let on_y = |value: &f64| match (chart.y.log, chart.y.percent) {
        (true, _) => two_digits(10_f64.powf(*value)),
        (false, true) => format!("{} %", short(100.0 * value)),
        (false, false) => short(*value),
    };
    plane
        .configure_mesh()
        .x_desc(chart.x.label)
        .y_desc(chart.y.label)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&on_y)
        .x_labels(x_labels(chart))
        .max_light_lines(1)
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(222, 222, 222))
        .axis_desc_style(("sans-serif", 28))
        .label_style(("sans-serif", 24))
        .draw()?;
    for entry in entries {
        draw_series(&mut plane, chart, entry)?;
    }
    for entry in entries {
        draw_entry(&lower, entry)?;
    }
    Ok(root.present()?)
}

/// So many ticks that none of a count's lies between whole numbers.
fn x_labels(chart: &Chart) -> usize {
    const USUAL: usize = 11;
    let range = x_range(chart);
    let span = (range.end - range.start) as usize;
    if chart.x.whole {
        USUAL.min(span + 1)
    } else {
        USUAL
    }
}

/// A series with what tells it apart, and its place in the legend below the plot.
struct Entry<'a> {
    series: &'a Series,
    label: String,
    colour: RGBColor,
    dash: (u32, u32),
    row: u32,
    left: i32,
}

impl Entry<'_> {
    /// The colour as it is drawn.
    fn stroke(&self) -> ShapeStyle {
        let opacity = if self.series.style == Style::Faint {
            0.4
        } else {
            1.0
        };
        self.colour.mix(opacity).stroke_width(4)
    }

    fn fill(&self) -> ShapeStyle {
        let opacity = if self.series.kind == Kind::Band {
            0.14
        } else {
            0.65
        };
        self.colour.mix(opacity).filled()
    }
}

/// What there is to draw, laid out in rows as wide as the picture.
fn legend<'a>(chart: &'a Chart, runs: &[&str]) -> Vec<Entry<'a>> {
    let (mut row, mut left) = (0, EDGE);
    let mut entries = Vec::new();
    for (index, series) in chart.series.iter().enumerate() {
        if series.is_empty() {
            continue;
        }
        let label = label(series, runs);
        let width = SAMPLE + LETTER * (label.chars().count() as i32 + 3);
        if left > EDGE && left + width > SIZE.0 as i32 - EDGE {
            (row, left) = (row + 1, EDGE);
        }
        let (colour, dash) = (colour(chart, index), dash(chart, series));
        entries.push(Entry {
            series,
            label,
            colour,
            dash,
            row,
            left,
        });
        left += width;
    }
    entries
}

/// A sample of the series as it is drawn, and its name.
fn draw_entry(area: &DrawingArea<SVGBackend<'_>, Shift>, entry: &Entry<'_>) -> Drawn {
    let left = entry.left;
    let middle = (entry.row * LEGEND_ROW + LEGEND_ROW / 2) as i32;
    match entry.series.kind {
        Kind::Band => {
            let corners = [(left, middle - 9), (left + SAMPLE - 8, middle + 9)];
            area.draw(&Rectangle::new(corners, entry.fill()))?;
        }
        Kind::Points => {
            area.draw(&Circle::new(
                (left + SAMPLE / 2 - 4, middle),
                6,
                entry.fill(),
            ))?;
        }
        Kind::Line | Kind::Curve => {
            for (start, end) in dashes(entry.dash) {
                let part = [(left + start, middle), (left + end, middle)];
                area.draw(&PathElement::new(part, entry.stroke()))?;
            }
        }
    }
    let place = (left + SAMPLE, middle - LEGEND_FONT / 2 + 3);
    let font = ("sans-serif", LEGEND_FONT).into_font();
    area.draw(&Text::new(entry.label.clone(), place, font))?;
    Ok(())
}

/// The dashes of a sample.
fn dashes((length, gap): (u32, u32)) -> Vec<(i32, i32)> {
    const END: i32 = SAMPLE - 8;
    if gap == 0 {
        return vec![(0, END)];
    }
    let starts = (0..END).step_by((length + gap) as usize);
    starts
        .map(|start| (start, (start + length as i32).min(END)))
        .collect()
}

/// Lines of one run share its colour where there are several runs: dashes tell them apart, as they do a dashed line of a
/// single run.
fn dash(chart: &Chart, series: &Series) -> (u32, u32) {
    let is_line = |other: &&Series| {
        matches!(other.kind, Kind::Line | Kind::Curve) && other.style != Style::Faint
    };
    let mut names: Vec<&str> = Vec::new();
    for other in chart.series.iter().filter(is_line) {
        if !names.contains(&other.name.as_str()) {
            names.push(&other.name);
        }
    }
    let place = names.iter().position(|name| *name == series.name);
    let place = place.filter(|_| is_of_several(chart)).unwrap_or(0);
    if series.style == Style::Dashed {
        DASHES[1 + place.saturating_sub(1) % (DASHES.len() - 1)]
    } else {
        DASHES[place % DASHES.len()]
    }
}

type Plane<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn draw_series(plane: &mut Plane<'_, '_>, chart: &Chart, entry: &Entry<'_>) -> Drawn {
    let series = entry.series;
    if series.kind == Kind::Band {
        let low = series.x.iter().copied().zip(series.low.iter().copied());
        let high = series.x.iter().copied().zip(series.high.iter().copied());
        let edge: Vec<(f64, f64)> = low.chain(high.rev()).collect();
        plane.draw_series(std::iter::once(Polygon::new(edge, entry.fill())))?;
        return Ok(());
    }
    let points = points(chart, series);
    if series.kind == Kind::Points {
        let dot = |point| Circle::new(point, 5, entry.fill());
        plane.draw_series(points.into_iter().map(dot))?;
        return Ok(());
    }
    let stroke = entry.stroke();
    match entry.dash {
        (_, 0) => {
            plane.draw_series(LineSeries::new(points, stroke))?;
        }
        (length, gap) => {
            plane.draw_series(DashedLineSeries::new(points, length, gap, stroke))?;
        }
    }
    Ok(())
}

/// A series' name, with its run's where there are several.
fn label(series: &Series, runs: &[&str]) -> String {
    match runs {
        [] | [_] => series.name.clone(),
        several => format!("{}: {}", several[series.run], series.name),
    }
}

/// By run where there are several, else by series; a band has the colour of the line that comes after it.
fn colour(chart: &Chart, index: usize) -> RGBColor {
    let series = &chart.series;
    let place = if is_of_several(chart) {
        series[index].run
    } else {
        let before = series[..index].iter();
        before.filter(|other| other.kind != Kind::Band).count()
    };
    PALETTE[place % PALETTE.len()]
}

fn is_of_several(chart: &Chart) -> bool {
    let series = &chart.series;
    series.iter().any(|other| other.run != series[0].run)
}

/// A series' measured points, on the axis' own scale.
fn points(chart: &Chart, series: &Series) -> Vec<(f64, f64)> {
    let pairs = series.x.iter().zip(&series.y);
    pairs
        .filter_map(|(x, y)| Some((*x, on_scale(chart, (*y)?)?)))
        .collect()
}

/// A value's place on the y axis; a logarithmic one has none for 0 and below.
fn on_scale(chart: &Chart, value: f64) -> Option<f64> {
    if !chart.y.log {
        return Some(value);
    }
    (value > 0.0).then(|| value.log10())
}

fn x_range(chart: &Chart) -> Range<f64> {
    let x = chart
        .series
        .iter()
        .flat_map(|series| series.x.iter().copied());
    around(x)
}

/// Holds all lines and points, and bands too: these as far as they leave the lines a third of the height, as a forecast's
/// interval may be wider than all that came.
fn y_range(chart: &Chart) -> Range<f64> {
    let lines = chart.series.iter().flat_map(|series| points(chart, series));
    let lines: Vec<f64> = lines.map(|(_, y)| y).collect();
    let (low, high) = ends(lines.iter().copied());
    let span = high - low;
    let bands = chart.series.iter();
    let bands = bands.flat_map(|series| series.low.iter().chain(&series.high));
    let bands = bands.filter_map(|y| on_scale(chart, *y));
    let bands = bands.map(|y| y.clamp(low - span, high + span));
    let is_bounded = span.is_finite() && span > 0.0;
    around(lines.iter().copied().chain(bands.filter(|_| is_bounded)))
}

fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}

/// A range that holds the values, with a margin.
fn around(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = ends(values);
    if low > high || !(high - low).is_finite() {
        return 0.0..1.0;
    }
    let margin = if low < high {
        MARGIN * (high - low)
    } else {
        0.5 * low.abs().max(1e-9)
    };
    low - margin..high + margin
}

/// A number with two significant digits.
fn two_digits(value: f64) -> String {
    let rounded = format!("{value:.1e}").parse();
    rounded.map_or_else(|_| String::new(), short)
}

/// A number in few characters.
fn short(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e5).contains(&size) {
        return format!("{value:.1e}");
    }
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" {
        "0".to_owned()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::chart::Axis;

    fn chart(log: bool, y: &[Option<f64>]) -> Chart {
        let points: Vec<(f64, Option<f64>)> = (0..).map(f64::from).zip(y.iter().copied()).collect();
        Chart {
            id: "x",
            title: "Title & <more>",
            caption: String::new(),
            group: "g",
            x: Axis::default(),
            y: Axis {
                log,
                ..Axis::default()
            },
            series: vec![Series::new("s", 0, Kind::Line, &points)],
        }
    }

    #[test]
    fn numbers_are_short() {
        let found = [0.0, 0.25, -1.5, 120.0, 2e-6, 3.4e7].map(short);
        assert_eq!(found, ["0", "0.25", "-1.5", "120", "2.0e-6", "3.4e7"]);
        let found = [0.316_227, 31.6227, 2e-4].map(two_digits);
        assert_eq!(found, ["0.32", "32", "2.0e-4"]);
    }

    #[test]
    fn pictures_are_drawn_and_their_text_escaped() {
        let text = svg(&chart(false, &[Some(1.0), None, Some(2.0)]), &[]).unwrap();
        assert!(text.starts_with("<svg") && text.contains("<polyline"));
        assert!(text.contains("Title &amp; &lt;more&gt;"), "{text}");
    }

    #[test]
    fn a_logarithmic_axis_leaves_out_what_it_has_no_place_for() {
        let log = chart(true, &[Some(-1.0), Some(0.0), Some(100.0), Some(10.0)]);
        assert_eq!(points(&log, &log.series[0]), [(2.0, 2.0), (3.0, 1.0)]);
    }

    #[test]
    fn a_chart_without_figures_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let charts = [chart(false, &[None]), chart(false, &[Some(1.0)])];
        let written = write(&charts, &[], folder.path());
        assert_eq!(written.unwrap().len(), 1);
    }

    #[test]
    fn a_band_is_shown_whole_unless_it_dwarfs_the_lines() {
        let mut chart = chart(false, &[Some(1.0), Some(2.0)]);
        chart
            .series
            .push(Series::band("b", 0, &[(0.0, [0.5, 2.5])]));
        assert_eq!(y_range(&chart), 0.42..2.58);
        chart
            .series
            .push(Series::band("b", 0, &[(0.0, [-90.0, 90.0])]));
        assert_eq!(y_range(&chart), -0.12..3.12);
    }

    #[test]
    fn the_legend_shows_lines_as_they_are_drawn() {
        let mut two = chart(false, &[Some(1.0), Some(2.0)]);
        let other = Series::new(
            "other",
            0,
            Kind::Line,
            &[(0.0, Some(1.0)), (1.0, Some(1.5))],
        );
        two.series.push(other.clone().style(Style::Dashed));
        let entries = legend(&two, &["run"]);
        assert_eq!(entries[0].dash.1, 0);
        assert!(entries[1].dash.1 > 0 && dashes(entries[1].dash).len() > 1);
        assert_ne!(entries[0].colour, entries[1].colour);
        // Of two runs, a run's lines share its colour.
        two.series.push(Series { run: 1, ..other });
        let entries = legend(&two, &["a", "b"]);
        let looks: Vec<_> = entries
            .iter()
            .map(|entry| (entry.colour, entry.dash))
            .collect();
        assert_eq!(looks[0].0, looks[1].0);
        assert!(looks[0] != looks[1] && looks[1].1 == looks[2].1);
        assert_eq!(entries[2].label, "b: other");
    }

    #[test]
    fn a_long_legend_goes_on_in_another_row_and_counts_have_whole_ticks() {
        let mut long = chart(false, &[Some(1.0), Some(2.0)]);
        long.series = vec![
            Series {
                name: "n".repeat(60),
                ..long.series[0].clone()
            };
            3
        ];
        let places: Vec<(u32, i32)> = legend(&long, &[]).iter().map(|e| (e.row, e.left)).collect();
        assert_eq!(places, [(0, EDGE), (1, EDGE), (2, EDGE)]);
        long.x.whole = true;
        assert_eq!(x_labels(&long), 2);
    }

    #[test]
    fn equal_values_have_a_range_too() {
        assert_eq!(around([2.0, 2.0].into_iter()), 1.0..3.0);
        assert_eq!(around(std::iter::empty()), 0.0..1.0);
    }
}
