//! Plots in SVG.

use std::ops::Range;

use plotters::prelude::*;

const FONT: &str = "sans-serif";
const WIDTH: u32 = 860;

const OURS: RGBColor = RGBColor(0xea, 0x23, 0x28);
const OTHERS: RGBColor = RGBColor(0x8a, 0x93, 0xa6);
const COLORS: [RGBColor; 5] = [
    OURS,
    RGBColor(0x1f, 0x6f, 0xb4),
    RGBColor(0x2e, 0x8b, 0x57),
    RGBColor(0xd4, 0x8a, 0x0b),
    RGBColor(0x7b, 0x52, 0xab),
];

/// Horizontal bars on a logarithmic scale.
#[derive(Debug)]
pub struct Bars {
    title: String,
    bars: Vec<(String, f64, String, RGBColor)>,
}

impl Bars {
    /// The title names the unit.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), bars: Vec::new() }
    }

    /// Adds a bar with a label and the value as text.
    pub fn bar(
        &mut self,
        is_ours: bool,
        label: impl Into<String>,
        value: f64,
        text: impl Into<String>,
    ) {
        self.bars.push((label.into(), value, text.into(), if is_ours { OURS } else { OTHERS }));
    }

    pub fn svg(&self) -> String {
        const BAR: i32 = 26;
        const LABELS: i32 = 320;
        let count = i32::try_from(self.bars.len()).expect("few bars");
        let height = 50 + count * BAR + 10;
        let values = || self.bars.iter().map(|bar| bar.1.max(f64::MIN_POSITIVE));
        let least = values().fold(f64::INFINITY, f64::min) / 2.0;
        let most = values().fold(0.0, f64::max);
        let room = f64::from(WIDTH) - f64::from(LABELS) - 90.0;
        draw(height, |root| {
            root.draw_text(&self.title, &text(17, BLACK), (12, 14))?;
            for (number, (label, value, value_text, color)) in (0..).zip(&self.bars) {
                let top = 46 + number * BAR;
                #[expect(clippy::cast_possible_truncation, reason = "a number of pixels")]
                let length = (room * (value / least).ln() / (most / least).ln()) as i32;
                let bar = [(LABELS, top), (LABELS + length.max(2), top + BAR - 8)];
                root.draw(&Rectangle::new(bar, color.filled()))?;
                root.draw_text(label, &text(14, BLACK), (12, top + 2))?;
                let beside = (LABELS + length.max(2) + 8, top + 2);
                root.draw_text(value_text, &text(14, BLACK), beside)?;
            }
            Ok(())
        })
    }
}

/// Lines over two logarithmic axes.
#[derive(Debug)]
pub struct Lines {
    title: String,
    x: String,
    y: String,
    lines: Vec<(String, Vec<(f64, f64)>)>,
}

impl Lines {
    pub fn new(title: impl Into<String>, x: impl Into<String>, y: impl Into<String>) -> Self {
        Self { title: title.into(), x: x.into(), y: y.into(), lines: Vec::new() }
    }

    pub fn line(&mut self, label: impl Into<String>, points: Vec<(f64, f64)>) {
        self.lines.push((label.into(), points));
    }

    pub fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.1);
        let across = range(points().map(|point| point.0));
        let up = range(points().map(|point| point.1));
        draw(360, |root| {
            root.draw_text(&self.title, &text(17, BLACK), (12, 14))?;
            let mut left = 12;
            for ((label, _), color) in self.lines.iter().zip(COLORS.iter().cycle()) {
                let style = text(13, BLACK);
                let (width, _) = root.estimate_text_size(label, &style)?;
                let line = [(left, 47), (left + 20, 47)];
                root.draw(&PathElement::new(line, color.stroke_width(2)))?;
                root.draw_text(label, &style, (left + 26, 40))?;
                left += 26 + i32::try_from(width)? + 28;
            }
            let mut chart = ChartBuilder::on(root)
                .margin(12)
                .margin_top(64)
                .x_label_area_size(44)
                .y_label_area_size(64)
                .build_cartesian_2d(across.clone().log_scale(), up.clone().log_scale())?;
            chart
                .configure_mesh()
                .x_desc(&self.x)
                .y_desc(&self.y)
                .label_style((FONT, 13))
                .x_label_formatter(&|value| tick(*value))
                .y_label_formatter(&|value| tick(*value))
                .draw()?;
            for ((_, points), color) in self.lines.iter().zip(COLORS.iter().cycle()) {
                let series = LineSeries::new(points.iter().copied(), color.stroke_width(2));
                chart.draw_series(series.point_size(3))?;
            }
            Ok(())
        })
    }
}

/// The label of a value on an axis.
fn tick(value: f64) -> String {
    if value >= 1.0 { format!("{value:.0}") } else { crate::samples::number(value) }
}

/// From a little below the lowest value to a little above the highest.
fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (least, most) = values
        .fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    least * 0.8..most * 1.25
}

fn text(size: u32, color: RGBColor) -> TextStyle<'static> {
    (FONT, size).into_font().color(&color)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type DrawResult = Result<(), Box<dyn std::error::Error>>;

fn draw(height: impl TryInto<u32>, on: impl FnOnce(&Area<'_>) -> DrawResult) -> String {
    let height = height.try_into().ok().expect("the height is positive");
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE).expect("drawing into memory works");
    on(&root).expect("drawing into memory works");
    root.present().expect("drawing into memory works");
    drop(root);
    svg
}
