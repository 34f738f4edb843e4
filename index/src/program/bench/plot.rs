//! The curve as a picture: recall to the right, queries per second upwards on a logarithmic axis.

use anyhow::{Result, anyhow};
use plotters::backend::SVGBackend;
use plotters::chart::ChartBuilder;
use plotters::drawing::IntoDrawingArea as _;
use plotters::element::Circle;
use plotters::prelude::IntoLogRange as _;
use plotters::series::LineSeries;
use plotters::style::{Color as _, RGBColor, WHITE};

const SIZE: (u32, u32) = (720, 480);
const LINE: RGBColor = RGBColor(31, 119, 180);

/// An SVG of points (recall, queries per second).
pub(super) fn curve(name: &str, k: usize, points: &[(f64, f64)]) -> Result<String> {
    let mut text = String::new();
    draw(&mut text, name, k, points).map_err(|error| anyhow!("cannot draw the curve: {error}"))?;
    Ok(text)
}

fn draw(text: &mut String, name: &str, k: usize, points: &[(f64, f64)]) -> Result<(), Box<dyn std::error::Error>> {
    let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
    let left = (least(&mut points.iter().map(|point| point.0)) - 0.01).max(0.0);
    let bottom = least(&mut points.iter().map(|point| point.1)) * 0.8;
    let top = points.iter().map(|point| point.1).fold(0.0, f64::max) * 1.25;
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(name, ("sans-serif", 18))
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(left..1.0, (bottom..top).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(format!("recall@{k}"))
        .y_desc("queries per second")
        .light_line_style(RGBColor(235, 235, 235))
        .x_label_formatter(&|recall| format!("{recall:.2}"))
        .y_label_formatter(&|qps| format!("{qps:.0}"))
        .draw()?;
    chart.draw_series(LineSeries::new(points.iter().copied(), LINE.stroke_width(2)))?;
    chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, LINE.filled())))?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_names_its_axes_and_has_a_mark_for_each_point() {
        let text = curve("pets <1>", 10, &[(0.8, 20_000.0), (0.95, 9_000.0), (0.999, 800.0)]).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        for part in ["recall@10", "queries per second", "pets &lt;1&gt;"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(text.matches("<circle").count(), 3);
        // One value of ef is a curve too.
        curve("pets", 10, &[(1.0, 500.0)]).unwrap();
    }
}
