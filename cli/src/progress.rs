//! Progress on stderr: live on a terminal, silent when piped.

use std::{fmt::Write, time::Duration};

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
