//! What a person sees while a run works: a bar on a terminal, else a plain line now and then. Both go to standard error.

use std::{
    io::{IsTerminal as _, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Parts that the bar is divided into; a run with a time limit does not know its steps.
const PARTS: u64 = 1000;

/// How things stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// Part of the run that is done, 0 to 1.
    pub(super) fraction: f64,
    pub(super) step: u64,
    /// Epochs that are done, with their parts.
    pub(super) epoch: f64,
    pub(super) loss: f64,
    pub(super) pairs_per_second: f64,
    pub(super) data_wait: f64,
    pub(super) left: Duration,
}

impl Reading {
    fn sentence(&self) -> String {
        format!(
            "epoch {:.1}, step {}, loss {:.3}, {:.0} pairs/s, {:.0} % waiting for data, {} left",
            self.epoch,
            self.step,
            self.loss,
            self.pairs_per_second,
            100.0 * self.data_wait,
            duration(self.left)
        )
    }
}

pub(super) struct Progress {
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(PARTS), ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template("{percent:>3} % [{bar:24}] {wide_msg}").expect("the template is well formed"));
            bar
        });
        Self { bar, last_line: Instant::now() }
    }

    /// Shows how things stand.
    pub(super) fn show(&mut self, reading: &Reading) {
        match &self.bar {
            Some(bar) => {
                bar.set_position((reading.fraction * PARTS as f64) as u64);
                bar.set_message(reading.sentence());
            }
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.say(&format!("{:.0} %: {}", 100.0 * reading.fraction, reading.sentence()));
            }
            None => {}
        }
    }

    /// Prints a line that stays.
    pub(super) fn say(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
        self.last_line = Instant::now();
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// `3 min 20 s`: two units are enough.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_given_in_its_two_largest_units() {
        let of = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!([of(0), of(59), of(200), of(3_660), of(90_000)], ["0 s", "59 s", "3 min 20 s", "1 h 1 min", "1 d 1 h"]);
    }

    #[test]
    fn a_reading_says_everything_in_one_line() {
        let left = Duration::from_secs(75);
        let reading = Reading { fraction: 0.5, step: 130, epoch: 10.04, loss: 6.9587, pairs_per_second: 243.7, data_wait: 0.034, left };
        assert_eq!(reading.sentence(), "epoch 10.0, step 130, loss 6.959, 244 pairs/s, 3 % waiting for data, 1 min 15 s left");
    }
}
