//! Something that moves while one waits, for a person at a terminal only.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;

/// A line on stderr that shows that work goes on. Gone when dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Of unknown length.
    pub(crate) fn spinner(out: &Output, message: impl Into<String>) -> Self {
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner().with_style(style);
        Self::show(out, bar.with_message(message.into()))
    }

    /// Of so many steps.
    pub(crate) fn steps(out: &Output, steps: u64, message: impl Into<String>) -> Self {
        let style =
            ProgressStyle::with_template("{spinner} {msg} {pos}/{len} [{wide_bar}] {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
        Self::show(out, ProgressBar::new(steps).with_style(style).with_message(message.into()))
    }

    fn show(out: &Output, bar: ProgressBar) -> Self {
        if out.watched() {
            bar.enable_steady_tick(Duration::from_millis(120));
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self(bar)
    }

    pub(crate) fn message(&self, message: impl Into<String>) {
        self.0.set_message(message.into());
    }

    pub(crate) fn advance(&self, steps: u64) {
        self.0.inc(steps);
    }

    pub(crate) fn position(&self) -> u64 {
        self.0.position()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
