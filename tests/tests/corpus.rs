//! Every input that fuzzing starts from or found, given to its parser once more: `fuzz/` needs another compiler's flags and
//! hours, this neither. And inputs made of those at random: `ANNEAL_MUTATIONS` for each parser (2,000), by seeds from
//! `ANNEAL_MUTATIONS_SEED` on.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a broken test fails, and says at what"
)]

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
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

/// What numbers and brackets are replaced by.
const WORDS: [&[u8]; 12] = [
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551615",
    b"null",
    b"{",
    b"]",
    b"\"",
    b"\n",
    b"{{",
    b"\xff",
    b"\0\0\0\0\0\0\0\x80",
];

/// A few changes to an input: bits, cuts, repeats, words, and parts of another input.
fn mutated(input: &[u8], other: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    const MOST: usize = 4096;
    let mut data = input.to_vec();
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=data.len());
        let end = data.len().min(at + random.random_range(0..32));
        match random.random_range(0..6) {
            0 if at < data.len() => data[at] ^= 1 << random.random_range(0..8),
            1 => drop(data.drain(at..end)),
            2 => data.truncate(at),
            3 => {
                let word = WORDS[random.random_range(0..WORDS.len())];
                drop(data.splice(at..end, word.iter().copied()));
            }
            4 => {
                let part = data[at..end].to_vec();
                drop(data.splice(at..at, part));
            }
            _ => {
                let from = random.random_range(0..=other.len());
                let to = other.len().min(from + random.random_range(0..64));
                drop(data.splice(at..end, other[from..to].iter().copied()));
            }
        }
    }
    data.truncate(MOST.max(input.len()));
    data
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn inputs_made_at_random_of_a_corpus_are_read_or_refused() {
    let count = number("ANNEAL_MUTATIONS", 2000);
    let first = number("ANNEAL_MUTATIONS_SEED", 1);
    for (name, parse) in PARSERS {
        let inputs: Vec<Vec<u8>> = corpus(name)
            .iter()
            .map(|path| fs::read(path).unwrap())
            .collect();
        for seed in first..first + count {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let [input, other] = [(); 2].map(|()| &inputs[random.random_range(0..inputs.len())]);
            let data = mutated(input, other, &mut random);
            let start = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| parse(&data)));
            let what = format!("{name}, ANNEAL_MUTATIONS_SEED={seed}");
            assert!(
                outcome.is_ok(),
                "{what}: {:?}",
                data.escape_ascii().to_string()
            );
            let seconds = start.elapsed().as_secs();
            assert!(seconds < LONGEST_SECONDS, "{what}: {seconds} s");
        }
    }
}
