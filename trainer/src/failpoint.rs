//! Places where tests end the process, to see what a run outlives.
//!
//! Without the feature `failpoints`, which the fault tests of the command line alone ask for, they are nothing. With it,
//! `ANNEAL_FAILPOINT=NAME:COUNT` aborts at the COUNT-th pass of a place, and `ANNEAL_FAILPOINT=list` names each one passed.

/// Passes a place.
pub(crate) fn failpoint(name: &'static str) {
    failpoint_half_done(name, || ());
}

/// Passes a place where, if the process ends there, something is left half done.
pub(crate) fn failpoint_half_done(name: &'static str, half: impl FnOnce()) {
    #[cfg(test)]
    crate::durable::note(crate::durable::Noted::Passed(name));
    #[cfg(feature = "failpoints")]
    active::pass(name, half);
    #[cfg(not(feature = "failpoints"))]
    let _ = (name, half);
}

#[cfg(feature = "failpoints")]
mod active {
    use std::{
        io::Write,
        sync::{
            LazyLock,
            atomic::{AtomicU64, Ordering::Relaxed},
        },
    };

    enum Setting {
        Off,
        List,
        AbortAt { name: String, count: u64 },
    }

    static SETTING: LazyLock<Setting> = LazyLock::new(|| {
        let text = std::env::var("ANNEAL_FAILPOINT").unwrap_or_default();
        let at = text.split_once(':');
        let at = at.and_then(|(name, count)| Some((name.to_owned(), count.parse().ok()?)));
        match at {
            Some((name, count)) => Setting::AbortAt { name, count },
            None if text == "list" => Setting::List,
            None => Setting::Off,
        }
    });

    static PASSES: AtomicU64 = AtomicU64::new(0);

    pub(super) fn pass(passed: &str, half: impl FnOnce()) {
        match &*SETTING {
            Setting::Off => (),
            Setting::List => say(passed),
            Setting::AbortAt { name, count } => {
                if name == passed && PASSES.fetch_add(1, Relaxed) + 1 == *count {
                    half();
                    say(passed);
                    std::process::abort();
                }
            }
        }
    }

    fn say(name: &str) {
        // Whoever does not read it cannot be told otherwise.
        let _ = writeln!(std::io::stderr(), "failpoint {name}");
    }
}
