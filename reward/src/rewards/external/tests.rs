//! One program for each fault. Only `sh` and its usual companions are needed.
#![cfg(unix)]

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::problem::test_problem;
use crate::{Problem, Response, Reward, RewardError, Score, score_all};

/// Sets `id` from the request in `line`.
const READ_ID: &str = "IFS= read -r line || exit 0; id=${line#*:}; id=${id%%,*}";
/// For requests that are answered: ample, since the machine may be busy.
const AMPLE_SECONDS: f64 = 60.0;
/// For requests that are not.
const SHORT_SECONDS: f64 = 0.3;
/// A wait that a fault would outlast, whatever else the machine does.
const FAR_LESS_THAN_A_HANG: Duration = Duration::from_secs(30);

/// A shell script as a program; `$1` is a path.
fn config(script: &str, path: &Path, timeout_seconds: f64) -> ExternalConfig {
    let path = path.to_str().unwrap();
    let script = script.replace("READ_ID", READ_ID);
    ExternalConfig {
        command: ["sh", "-c", &script, "sh", path].map(String::from).to_vec(),
        timeout_seconds,
        ..ExternalConfig::default()
    }
}

fn program(script: &str, timeout_seconds: f64) -> ExternalReward {
    let config = config(script, Path::new(""), timeout_seconds);
    config.build().unwrap()
}

fn ask(reward: &ExternalReward, response: &str) -> Score {
    let start = Instant::now();
    let score = reward.score(&test_problem("7"), &response.into());
    assert!(start.elapsed() < FAR_LESS_THAN_A_HANG);
    score
}

fn stats(asked: u64, missing: u64, restarts: u64, nonsense_lines: u64) -> ExternalStats {
    ExternalStats {
        asked,
        missing,
        restarts,
        nonsense_lines,
    }
}

#[test]
fn one_process_answers_many_requests() {
    let script = r#"while :; do READ_ID
        echo "{\"id\":$id,\"reward\":$id.5,\"correct\":true,\"reason\":\"$$\"}"; done"#;
    let reward = program(script, AMPLE_SECONDS);
    let scores: Vec<Score> = (0..20).map(|_| ask(&reward, "a")).collect();
    for (at, score) in scores.iter().enumerate() {
        assert_eq!(score.reward, Some(at as f64 + 0.5));
        assert!(score.correct);
        assert_eq!(score.reason, scores[0].reason, "another process answered");
    }
    assert_eq!(reward.external_stats(), Some(stats(20, 0, 0, 0)));
}

#[test]
fn several_processes_answer_side_by_side_and_in_order() {
    // The response is the reward: {"id":0,…,"response":"12","tokens":…
    let script = r#"while :; do READ_ID
        text=${line#*response\":\"}; sleep 0.01
        echo "{\"id\":$id,\"reward\":${text%%\"*},\"reason\":\"$$\"}"; done"#;
    let config = ExternalConfig {
        processes: 4,
        ..config(script, Path::new(""), AMPLE_SECONDS)
    };
    let reward = config.build().unwrap();
    let problem = test_problem("7");
    let texts: Vec<String> = (10..50).map(|number| number.to_string()).collect();
    let pairs: Vec<(&Problem, Response<'_>)> = texts
        .iter()
        .map(|text| (&problem, text.as_str().into()))
        .collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(8).build();
    let scores = pool.unwrap().install(|| score_all(&reward, &pairs));
    let rewards: Vec<f64> = scores.iter().filter_map(|score| score.reward).collect();
    let expected: Vec<f64> = (10..50).map(f64::from).collect();
    assert_eq!(rewards, expected);
    assert_eq!(reward.stats(), stats(40, 0, 0, 0));
}

#[test]
fn hanging_programs_are_given_up() {
    let script = "while :; do READ_ID; sleep 1000; done";
    let reward = program(script, SHORT_SECONDS);
    for restarts in 1..=3 {
        assert_eq!(ask(&reward, "a"), Score::missing("external_timeout"));
        assert_eq!(reward.stats(), stats(restarts, restarts, restarts, 0));
    }
    assert_eq!(ask(&reward, "a"), Score::missing("external_timeout"));
    let start = Instant::now();
    for _ in 0..1_000 {
        assert_eq!(ask(&reward, "a"), Score::missing("external_given_up"));
    }
    // Waiting for 1,000 timeouts would take five minutes.
    assert!(start.elapsed() < FAR_LESS_THAN_A_HANG);
    assert_eq!(reward.stats(), stats(1_004, 1_004, 3, 0));
}

#[test]
fn threads_that_wait_learn_that_all_is_given_up() {
    let config = ExternalConfig {
        processes: 2,
        max_restarts: 0,
        ..config("sleep 1000", Path::new(""), SHORT_SECONDS)
    };
    let reward = config.build().unwrap();
    let problem = test_problem("7");
    let pairs = vec![(&problem, Response::from("a")); 100];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(8).build();
    let scores = pool.unwrap().install(|| score_all(&reward, &pairs));
    let timeouts = scores.iter().filter(|s| s.reason == "external_timeout");
    assert_eq!(timeouts.count(), 2);
    assert_eq!(reward.stats(), stats(100, 100, 0, 0));
}

#[test]
fn programs_that_die_at_once_are_given_up() {
    let reward = program("exit 1", AMPLE_SECONDS);
    // Each request is put to two processes; the fourth and last dies with the second request.
    assert_eq!(ask(&reward, "a"), Score::missing("external_died"));
    assert_eq!(reward.stats().restarts, 2);
    assert_eq!(ask(&reward, "a"), Score::missing("external_died"));
    assert_eq!(ask(&reward, "a"), Score::missing("external_given_up"));
    assert_eq!(reward.stats(), stats(3, 3, 3, 0));
}

#[test]
fn programs_that_are_not_there_are_an_error() {
    let config = ExternalConfig {
        command: vec!["/nowhere/no-such-program".into()],
        ..ExternalConfig::default()
    };
    let error = config.build().unwrap_err();
    assert!(matches!(&error, RewardError::StartProgram { .. }));
    assert!(error.to_string().contains("/nowhere/no-such-program"));
}

#[test]
fn a_request_is_put_again_where_the_process_died() {
    // Every process answers once and dies with the next request.
    let script = r#"READ_ID; echo "{\"id\":$id,\"reward\":1}"; READ_ID; exit 1"#;
    let reward = program(script, AMPLE_SECONDS);
    for _ in 0..6 {
        assert_eq!(ask(&reward, "a"), Score::binary(true, None, "external"));
    }
    // An answer in between makes every restart the first in a row.
    assert_eq!(reward.stats(), stats(6, 0, 5, 0));
}

#[test]
fn processes_recover_after_a_hang() {
    let folder = tempfile::tempdir().unwrap();
    // The first process hangs; the later ones answer.
    let script = r#"if mkdir "$1/first"; then sleep 1000; fi
        while :; do READ_ID; echo "{\"id\":$id,\"reward\":1}"; done"#;
    let config = ExternalConfig {
        max_restarts: 1_000,
        ..config(
            &format!("exec 2>/dev/null; {script}"),
            folder.path(),
            SHORT_SECONDS,
        )
    };
    let reward = config.build().unwrap();
    assert_eq!(ask(&reward, "a"), Score::missing("external_timeout"));
    // On a busy machine a start may take longer than the timeout.
    let recovered = (0..100).any(|_| ask(&reward, "a").reward == Some(1.0));
    assert!(recovered);
}

#[test]
fn nonsense_is_skipped_and_counted() {
    let script = r#"echo loading; while :; do READ_ID; echo; echo '{"reward":'
        printf '\377\n'; echo "{\"id\":$id,\"reward\":0.25}"; done"#;
    let reward = program(script, AMPLE_SECONDS);
    for _ in 0..2 {
        assert_eq!(ask(&reward, "a").reward, Some(0.25));
    }
    assert_eq!(reward.stats(), stats(2, 0, 0, 7));
}

#[test]
fn too_much_nonsense_ends_the_process() {
    let reward = program("while :; do echo nonsense; done", AMPLE_SECONDS);
    assert_eq!(ask(&reward, "a"), Score::missing("external_nonsense"));
    assert_eq!(reward.stats(), stats(1, 1, 1, 101));
}

#[test]
fn floods_without_a_line_feed_end_the_process() {
    let reward = program("tr '\\0' x </dev/zero", AMPLE_SECONDS);
    assert_eq!(ask(&reward, "a"), Score::missing("external_line_too_long"));
    assert_eq!(reward.stats(), stats(1, 1, 1, 0));
}

#[test]
fn answers_are_matched_by_id() {
    let script = r#"while :; do READ_ID
        echo "{\"id\":$((id + 1)),\"reward\":9}"; echo "{\"id\":$id,\"reward\":1}"
        echo "{\"id\":$id,\"reward\":8}"; done"#;
    let reward = program(script, AMPLE_SECONDS);
    for _ in 0..3 {
        assert_eq!(ask(&reward, "a").reward, Some(1.0));
    }
    // The second answer to a request is read, if at all, with the next one.
    assert_eq!(reward.stats(), stats(3, 0, 0, 5));
}

#[test]
fn programs_that_never_read_hold_nobody_up() {
    let reward = program("sleep 1000", SHORT_SECONDS);
    let large = "x".repeat(10 << 20);
    assert_eq!(ask(&reward, &large), Score::missing("external_timeout"));
    assert_eq!(reward.stats(), stats(1, 1, 1, 0));
}

#[test]
fn large_responses_arrive() {
    let script = r#"head -n 1 | sed 's/^{"id":\([0-9]*\),.*"tokens".*$/{"id":\1,"reward":1}/'"#;
    let reward = program(script, AMPLE_SECONDS);
    let large = "x".repeat(10 << 20);
    assert_eq!(ask(&reward, &large).reward, Some(1.0));
}

#[test]
fn rewards_that_are_null_or_not_finite_are_missing() {
    for (value, reason) in [
        ("null", "external_reward_null"),
        ("NaN", "external_reward_not_finite"),
        ("-Infinity", "external_reward_not_finite"),
        ("true", "external_answer_unreadable"),
    ] {
        let script =
            format!(r#"while :; do READ_ID; echo "{{\"id\":$id,\"reward\":{value}}}"; done"#);
        let reward = program(&script, AMPLE_SECONDS);
        for _ in 0..5 {
            assert_eq!(ask(&reward, "a"), Score::missing(reason));
        }
        // The program works as it should, so it goes on.
        assert_eq!(reward.stats(), stats(5, 5, 0, 0));
    }
}

#[test]
fn a_full_standard_error_holds_nobody_up() {
    let script = r#"READ_ID; head -c 1000000 /dev/zero | tr '\0' '\r' >&2; echo "{\"id\":$id,\"reward\":1}""#;
    let reward = program(script, AMPLE_SECONDS);
    assert_eq!(ask(&reward, "a").reward, Some(1.0));
}

#[test]
fn a_drop_kills_and_reaps_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let reward = config(
        r#"READ_ID; echo "{\"id\":$id,\"reward\":1,\"reason\":\"$$\"}"; sleep 1000"#,
        folder.path(),
        AMPLE_SECONDS,
    );
    let reward = reward.build().unwrap();
    let process = ask(&reward, "a").reason;
    // Signal 0 reaches every process there is, zombies included.
    let exists = || {
        let mut command = Command::new("sh");
        command.args(["-c", "kill -0 $0 2>/dev/null", &process]);
        command.status().unwrap().success()
    };
    assert!(exists());
    drop(reward);
    let start = Instant::now();
    while exists() {
        assert!(start.elapsed() < FAR_LESS_THAN_A_HANG, "{process} is there");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_drop_kills_what_the_program_started() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"mkfifo "$1/pipe"; sleep 1000 >"$1/pipe" &
        READ_ID; echo "{\"id\":$id,\"reward\":1}"; wait"#;
    let reward = config(script, folder.path(), AMPLE_SECONDS);
    let reward = reward.build().unwrap();
    assert_eq!(ask(&reward, "a").reward, Some(1.0));
    let mut pipe = File::open(folder.path().join("pipe")).unwrap();
    drop(reward);
    // The pipe is closed once the process in the background has ended.
    let (sender, receiver) = channel();
    thread::spawn(move || sender.send(pipe.read(&mut [0])));
    let closed = receiver.recv_timeout(FAR_LESS_THAN_A_HANG);
    assert_eq!(closed.unwrap().unwrap(), 0);
}

#[test]
fn programs_that_crash_or_break_off_have_died() {
    let crash = "READ_ID; kill -SEGV $$";
    let half_a_line = r#"READ_ID; printf '{"id":%s,"rew' "$id"; exit 0"#;
    for (script, nonsense_lines) in [(crash, 0), (half_a_line, 2)] {
        let reward = program(script, AMPLE_SECONDS);
        assert_eq!(ask(&reward, "a"), Score::missing("external_died"));
        assert_eq!(reward.stats(), stats(1, 1, 2, nonsense_lines), "{script}");
    }
}

#[test]
fn programs_that_hold_on_are_given_up_all_the_same() {
    let trickles = "READ_ID; while :; do printf x; sleep 0.05; done";
    let ignores_signals = "trap '' TERM INT HUP; READ_ID; while :; do sleep 1000; done";
    // What it leaves behind holds its output open.
    let leaves_a_child = "READ_ID; sleep 1000 & exit 0";
    let closes_its_input = "exec <&-; sleep 1000";
    for script in [trickles, ignores_signals, leaves_a_child, closes_its_input] {
        let reward = program(script, SHORT_SECONDS);
        let large = "x".repeat(1 << 20);
        assert_eq!(ask(&reward, &large), Score::missing("external_timeout"));
        let start = Instant::now();
        drop(reward);
        assert!(start.elapsed() < FAR_LESS_THAN_A_HANG, "{script}");
    }
}

#[test]
fn a_file_that_may_not_be_run_is_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = ExternalConfig {
        command: vec![file.path().to_str().unwrap().to_owned()],
        ..ExternalConfig::default()
    };
    let error = config.build().unwrap_err();
    assert!(matches!(error, RewardError::StartProgram { .. }), "{error}");
}

#[test]
fn an_answer_that_comes_before_its_request_counts_for_that_request_alone() {
    let script = r#"echo '{"id":0,"reward":1e308}'; while :; do READ_ID; done"#;
    let reward = program(script, SHORT_SECONDS);
    assert_eq!(ask(&reward, "a").reward, Some(1e308));
    assert_eq!(ask(&reward, "a"), Score::missing("external_timeout"));
}
