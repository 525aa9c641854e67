//! Every input that fuzzing starts from or found, given to its parser once more: `fuzz/` needs another compiler's flags and
//! hours, this neither.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a broken test fails, and says at what"
)]

use std::{fs, time::Instant};

use tests::parsers::{PARSERS, corpus};

/// Each takes milliseconds; the rest is room for a busy machine.
const LONGEST_SECONDS: u64 = 5;

#[test]
fn every_input_of_every_corpus_is_read_or_refused() {
    for (name, parse) in PARSERS {
        for path in corpus(name) {
            // A panic names the test alone; this names the input, where output is shown.
            println!("{}", path.display());
            let start = Instant::now();
            parse(&fs::read(&path).unwrap());
            let seconds = start.elapsed().as_secs();
            assert!(seconds < LONGEST_SECONDS, "{}: {seconds} s", path.display());
        }
    }
}
