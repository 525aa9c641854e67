//! Whatever a model prints gets a verdict, from either side, and an answer is right of itself.
//!
//! The first line of the input is the gold answer, the rest is the response.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reward::{extract_answer, verify};

fuzz_target!(|text: &str| {
    let (gold, response) = text.split_once('\n').unwrap_or((text, text));
    let forward = verify(gold, response);
    assert_eq!(forward.correct, forward.reason.is_correct());
    let _ = verify(response, gold);
    if let Some(found) = extract_answer(response) {
        let again = verify(&found.text, &found.text);
        assert!(
            again.correct || again.pred_answer.as_deref() != Some(&again.gold_answer),
            "{:?} is not right of itself: {again:?}",
            found.text
        );
    }
});
