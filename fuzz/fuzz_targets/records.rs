//! The logs that `anneal fit` and `anneal report` read, on random input; `cli/src/records/` replays the corpus.
#![no_main]
#![allow(
    dead_code,
    unused_imports,
    reason = "a part of the command, of which only the reading is used"
)]

#[path = "../../cli/src/advice.rs"]
mod advice;
#[path = "../../cli/src/records/mod.rs"]
mod records;

use records::Records;

/// As the commands do: entropy and reward by whatever names they have, joined, and fitted.
fn read(data: &[u8]) {
    let Ok(records) = Records::parse(data) else {
        return;
    };
    let keys = (records.entropy_key(None), records.reward_key(None));
    if let (Ok(entropy), Ok(reward)) = keys {
        let records = records.joined_for(&entropy, &reward);
        let points = records.law_points(&entropy, &reward);
        let points: Vec<_> = points.into_iter().map(|(_, point)| point).collect();
        let _ = records.left_out(points.len());
        let _ = records.nothing_joined(&entropy, &reward).to_string();
        let _ = entropy::fit_law(&points);
        let _ = entropy::forecast(&points, 0.15);
    }
}

fuzz::target!(read);
