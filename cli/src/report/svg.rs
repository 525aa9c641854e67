//! Charts as SVG files, for papers and slides.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use plotters::{coord::Shift, coord::types::RangedCoordf64, prelude::*};

use super::chart::{Chart, Kind, Series, Style};

/// Twice a page's size: the backend draws at whole pixels.
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

/// Writes each chart that has figures to `folder/ID.svg`; `runs` are the runs' names.
pub(super) fn write(charts: &[Chart], runs: &[&str], folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut written = Vec::new();
    for chart in charts
        .iter()
        .filter(|chart| !chart.series.iter().all(Series::is_empty))
    {
        let path = folder.join(format!("{}.svg", chart.id));
        fs::write(&path, svg(chart, runs)?).with_context(|| path.display().to_string())?;
        written.push(path);
    }
    Ok(written)
}

fn svg(chart: &Chart, runs: &[&str]) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        draw(chart, runs, &root).map_err(|error| anyhow!("cannot draw '{}': {error}", chart.id))?;
    }
    Ok(text)
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw(chart: &Chart, runs: &[&str], root: &DrawingArea<SVGBackend<'_>, Shift>) -> Drawn {
    root.fill(&WHITE)?;
    let mut plane = ChartBuilder::on(root)
        .margin(28)
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
        .max_light_lines(1)
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(222, 222, 222))
        .axis_desc_style(("sans-serif", 28))
        .label_style(("sans-serif", 24))
        .draw()?;
    for (index, series) in chart.series.iter().enumerate() {
        if !series.is_empty() {
            let label = label(series, runs);
            draw_series(&mut plane, chart, (series, &label), colour(chart, index))?;
        }
    }
    plane
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .label_font(("sans-serif", 24))
        .legend_area_size(48)
        .position(SeriesLabelPosition::UpperRight)
        .draw()?;
    Ok(root.present()?)
}

type Plane<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn draw_series(
    plane: &mut Plane<'_, '_>,
    chart: &Chart,
    (series, label): (&Series, &str),
    colour: RGBColor,
) -> Drawn {
    if series.kind == Kind::Band {
        let low = series.x.iter().copied().zip(series.low.iter().copied());
        let high = series.x.iter().copied().zip(series.high.iter().copied());
        let edge: Vec<(f64, f64)> = low.chain(high.rev()).collect();
        let fill = colour.mix(0.14).filled();
        plane
            .draw_series(std::iter::once(Polygon::new(edge, fill)))?
            .label(label)
            .legend(move |(x, y)| Rectangle::new([(x, y - 8), (x + 36, y + 8)], fill));
        return Ok(());
    }
    let points = points(chart, series);
    if series.kind == Kind::Points {
        let fill = colour.mix(0.65).filled();
        plane
            .draw_series(points.into_iter().map(|point| Circle::new(point, 5, fill)))?
            .label(label)
            .legend(move |(x, y)| Circle::new((x + 18, y), 6, fill));
        return Ok(());
    }
    let opacity = if series.style == Style::Faint {
        0.4
    } else {
        1.0
    };
    let stroke = colour.mix(opacity).stroke_width(4);
    let mark = move |(x, y)| PathElement::new([(x, y), (x + 36, y)], stroke);
    if series.style == Style::Dashed {
        let line = DashedLineSeries::new(points, 12, 8, stroke);
        plane.draw_series(line)?.label(label).legend(mark);
    } else {
        let line = LineSeries::new(points, stroke);
        plane.draw_series(line)?.label(label).legend(mark);
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

/// By run where there are several, else by series; a run's bands and curves share its colour.
fn colour(chart: &Chart, index: usize) -> RGBColor {
    let series = &chart.series;
    let is_of_several = series.iter().any(|other| other.run != series[index].run);
    let place = if is_of_several {
        series[index].run
    } else {
        index
    };
    PALETTE[place % PALETTE.len()]
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

fn y_range(chart: &Chart) -> Range<f64> {
    // Points rather than bands: a forecast's interval may be wider than all that came.
    let y = chart.series.iter().flat_map(|series| points(chart, series));
    around(y.map(|(_, y)| y))
}

/// A range that holds the values, with a margin.
fn around(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
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
    fn equal_values_have_a_range_too() {
        assert_eq!(around([2.0, 2.0].into_iter()), 1.0..3.0);
        assert_eq!(around(std::iter::empty()), 0.0..1.0);
    }
}
