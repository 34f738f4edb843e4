//! Progress of long work, on stderr, with an estimate; silent where stderr is not a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Counts `total` points.
pub(crate) fn of_points(total: u64, doing: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:30} {human_pos} of {human_len}, {per_sec}, {eta} left");
    ProgressBar::new(total).with_style(style.expect("the template is well formed")).with_message(doing)
}

/// Work whose length is not known.
pub(crate) fn spinner(doing: &'static str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(doing);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
