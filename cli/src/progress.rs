//! Progress on stderr: live on a terminal, a line a minute at most in a log.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use rollout::Progress;

/// A bar with a message; indicatif hides it where stderr is no terminal.
pub(crate) fn bar(length: u64, unit: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    let template = format!("{{bar:24.cyan/blue}} {unit} {{pos}}/{{len}}  {{msg}}{{left}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        let style = style.with_key("left", left);
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// Says where long work stands where no bar is shown, now and then.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    last: Instant,
}

impl Heartbeat {
    /// Between two lines.
    const PAUSE: Duration = Duration::from_mins(1);

    pub(crate) fn new() -> Self {
        Self {
            last: Instant::now(),
        }
    }

    /// The line that `describe` makes, with how long yet, where it is time for one.
    pub(crate) fn line(
        &mut self,
        bar: &ProgressBar,
        describe: impl FnOnce() -> String,
    ) -> Option<String> {
        if !bar.is_hidden() || self.last.elapsed() < Self::PAUSE {
            return None;
        }
        self.last = Instant::now();
        let left = HumanDuration(bar.eta());
        Some(format!("{}  {left:#} left", describe()))
    }
}

/// How long yet, once something that is done tells how long things take.
fn left(state: &ProgressState, out: &mut dyn Write) {
    if state.pos() > 0 {
        // A line that cannot be shown is no matter.
        let _ = write!(out, "  {:#} left", HumanDuration(state.eta()));
    }
}

/// Shows generation: answers done, and tokens a second.
pub(crate) fn show_generation(bar: &ProgressBar, progress: Progress) {
    let seconds = bar.elapsed().as_secs_f64().max(1e-3);
    bar.set_position(progress.finished as u64);
    bar.set_message(format!("{:.0} tokens/s", progress.tokens as f64 / seconds));
}
