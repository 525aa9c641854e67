//! What a model may write as its answer: W2 of the table in RELIABILITY.md. Over 500 of them, and every verdict within
//! 20 ms and 32 MiB beside what the program takes for nothing.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};

use super::harness::limited;

/// What the program takes to start, with room for another machine's libraries.
const EMPTY_MEGABYTES: u64 = 32;
const ANSWER_MEGABYTES: u64 = 32;
const ANSWER_MILLISECONDS: u64 = 20;

/// Texts of which a hostile answer is made, by saying them often.
const PIECES: [&str; 40] = [
    "9",
    "10^",
    "9^9^",
    "2**30**",
    "!",
    "10^6!",
    "\\frac{1}{",
    "\\frac",
    "(",
    "[",
    "\\left(",
    "{",
    "}",
    "\\boxed{",
    "$",
    "\\text{",
    "\\sqrt{",
    "-",
    "+1",
    "1,",
    "[0,1)\\cup",
    "(1,2),",
    "x^2+",
    "(x+1)^9",
    "\\begin{pmatrix}1&",
    "\\pm",
    "٣",
    "\u{202e}1",
    "\u{0}",
    "é",
    "1e-999999999 ",
    "0.",
    "1{,}000",
    "\\sum_{k=1}^{n}",
    "x=",
    "a<",
    "\\cdot",
    "\\%",
    "the answer is ",
    "#### ",
];
/// Signs after a figure, each of which makes a new one of it.
const SIGNS: [&str; 9] = [
    "!",
    "'",
    "%",
    "/2",
    ":3",
    "\\bmod 2",
    "\\cap 1",
    "\\setminus 1",
    "^*",
];
const TIMES: [usize; 7] = [1, 2, 3, 17, 200, 3_000, 40_000];

/// Each as it is, and in a box.
fn answers() -> Vec<String> {
    let mut answers: Vec<String> = [
        "10^10^10",
        "10^{10^{10}}",
        "9^9^9^9",
        "2**30**5",
        "(10^6)!",
        "1e-999999999",
        "1e999999999",
        "1/0",
        "0^0",
        "\\boxed{",
        "\\boxed{}\\boxed{}",
        "((((1))))",
        "(-\\infty,\\infty)",
    ]
    .map(str::to_owned)
    .into();
    for piece in PIECES {
        answers.extend(TIMES.iter().map(|&times| piece.repeat(times)));
    }
    for sign in SIGNS {
        let signs = TIMES.iter().map(|&times| sign.repeat(times));
        answers.extend(signs.map(|signs| format!("1{signs}")));
    }
    let boxed: Vec<String> = answers
        .iter()
        .map(|answer| format!("\\boxed{{{answer}}}"))
        .collect();
    answers.extend(boxed);
    answers
}

#[test]
fn every_answer_gets_the_same_verdict_within_its_bounds() {
    let answers = answers();
    assert!(answers.len() > 500, "{}", answers.len());
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("pairs.jsonl");
    let lines = answers
        .iter()
        .map(|answer| json!({"gold": "5", "pred": answer}).to_string());
    fs::write(&input, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let seconds = 1 + answers.len() as u64 * ANSWER_MILLISECONDS / 1000;
    let output = limited(
        &["verify", "--input", input.to_str().unwrap()],
        EMPTY_MEGABYTES + ANSWER_MEGABYTES,
        seconds,
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let verdict: Value = serde_json::from_str(line).unwrap();
        assert_eq!(verdict["correct"], json!(false), "{line:.200}");
        *reasons
            .entry(verdict["reason"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    assert_eq!(reasons.values().sum::<usize>(), answers.len());
    let expected = [
        ("different_elements", 28),
        ("different_expression", 74),
        ("different_number", 145),
        ("different_words", 3),
        ("no_answer", 152),
        ("undecided_number_too_large", 10),
        ("undecided_too_long", 57),
        ("undecided_too_much_work", 49),
        ("unread", 194),
    ];
    let expected = expected.map(|(reason, count)| (reason.to_owned(), count));
    assert_eq!(reasons, BTreeMap::from(expected));
}
