//! Verdicts beside those of math-verify 0.9.0 on 1,200 pairs of a MATH answer and a written prediction
//! (`tests/data/verify`), and what verdicts cost at most.
#![allow(clippy::unwrap_used, reason = "a broken test fails")]

use std::{path::Path, time::Instant};

use reward::{Verdict, verify};
use serde::Deserialize;

#[derive(Deserialize)]
struct Pair {
    gold: String,
    pred: String,
    expected: bool,
}

fn pairs() -> Vec<Pair> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/verify/math_pairs.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn verdicts_agree_with_math_verify() {
    let pairs = pairs();
    assert_eq!(pairs.len(), 1200);
    let differing: Vec<(&Pair, Verdict)> = pairs
        .iter()
        .map(|pair| (pair, verify(&pair.gold, &pair.pred)))
        .filter(|(pair, verdict)| verdict.correct != pair.expected)
        .collect();
    for (pair, verdict) in &differing {
        eprintln!("{} | {} | {verdict:?}", pair.gold, pair.pred);
    }
    assert!(differing.is_empty(), "{} of 1200 differ", differing.len());
}

/// No input of 64 KiB takes long: the work is counted, so the time is bounded on every machine alike.
#[test]
fn hostile_text_of_64_kib_gets_a_verdict_at_once() {
    const SIZE: usize = 64 << 10;
    let start = Instant::now();
    let pieces = [
        "{",
        "}",
        "(",
        "[",
        "$",
        "\\",
        "|",
        "1",
        "1,",
        "9^",
        "x^",
        "-",
        "+1",
        "\\frac",
        "\\frac{1}{",
        "\\sqrt{",
        "\\sqrt",
        "\\boxed{",
        "\\text{",
        "\\begin{pmatrix}",
        "1&",
        "\\\\",
        "\\left(",
        "!",
        "%",
        "_",
        "\\sin ",
        "a",
        "(a+b)",
        "(a+b)^9",
        "\\pm",
        "\\cup[0,1]",
        "x=",
        "x<",
        ";",
        "\\{",
        "\u{202e}",
        "\u{0}",
        "é",
        "٣",
        "answer is ",
        "final answer is ",
        "#### ",
        "\\(",
        "\\[",
        "1/",
        "10^{",
        "e^{",
        "\\sum_{k=1}^{n} ",
        "$x$ and ",
        "and ",
        "\\boxed{1}, ",
        "{,}",
        "1{,}000",
        ".",
        ". ",
        "\\lfloor ",
        "\\overline{",
    ];
    for piece in pieces {
        let hostile = piece.repeat(SIZE / piece.len());
        for text in [
            hostile.clone(),
            format!("\\boxed{{{hostile}}}"),
            format!("${hostile}$"),
        ] {
            let one = Instant::now();
            let _ = (verify("5", &text), verify(&text, "5"));
            // Two verdicts of 50 ms each, with room for a loaded machine.
            assert!(
                one.elapsed().as_millis() < 2000,
                "{piece:?} took {:?}",
                one.elapsed()
            );
        }
    }
    assert!(start.elapsed().as_secs() < 60);
}

/// What holds for everything that parses: an answer is right of itself.
#[test]
fn gold_answers_are_right_of_themselves() {
    for pair in pairs() {
        let verdict = verify(&pair.gold, &pair.gold);
        assert!(verdict.correct, "{verdict:?}");
        let inner = pair.gold.trim_matches('$');
        let boxed = verify(&pair.gold, &format!("so it is \\boxed{{{inner}}}"));
        assert!(boxed.correct, "{boxed:?}");
    }
}
