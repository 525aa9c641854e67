//! `fit`, `compare`, `report`, `eval` and `generate` as a person calls them.
#![allow(clippy::unwrap_used, reason = "a broken test fails")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

fn anneal(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_anneal"))
        .args(args)
        .output()
        .unwrap()
}

/// What a command prints, and its messages.
fn done(args: &[&str]) -> (String, String) {
    let output = anneal(args);
    let messages = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {messages}");
    (String::from_utf8(output.stdout).unwrap(), messages)
}

/// The one `error:` line of a command that refuses its input.
fn refused(args: &[&str]) -> String {
    let output = anneal(args);
    let messages = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {messages}");
    assert!(
        output.stdout.is_empty() && !messages.contains("panicked"),
        "{messages}"
    );
    let errors: Vec<&str> = messages
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{messages}");
    errors[0].to_owned()
}

/// What the command advises where it refuses.
fn hint(args: &[&str]) -> String {
    let messages = String::from_utf8(anneal(args).stderr).unwrap();
    let hint = messages
        .lines()
        .find_map(|line| line.strip_prefix("hint: "));
    hint.unwrap_or_default().to_owned()
}

/// The data of the page that `report` writes of some runs.
fn page(runs: &[&str], out: &Path) -> Value {
    let out_text = out.display().to_string();
    done(&[&["report"], runs, &["--out", &out_text]].concat());
    let text = fs::read_to_string(out).unwrap();
    let (_, data) = text.split_once("id=\"report-data\">").unwrap();
    serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap()
}

fn charts(page: &Value) -> Vec<&str> {
    let charts = page["charts"].as_array().unwrap().iter();
    charts.filter_map(|chart| chart["id"].as_str()).collect()
}

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Points on R = 0.7 - 0.2·e^H, as lines.
fn lines(entropies: &[f64], entropy_key: &str, reward_key: &str) -> String {
    let line = |(step, h): (usize, &f64)| {
        let mut line = json!({"step": step + 1});
        line[entropy_key] = json!(h);
        line[reward_key] = json!(0.7 - 0.2 * h.exp());
        format!("{line}\n")
    };
    entropies.iter().enumerate().map(line).collect()
}

const ENTROPIES: [f64; 8] = [1.2, 1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.25];

fn assert_law(printed: &str) {
    let fit: Value = serde_json::from_str(printed).unwrap();
    let near =
        |key: &str, expected: f64| (fit["all"][key].as_f64().unwrap() - expected).abs() < 1e-9;
    assert!(
        near("a", 0.2) && near("b", 0.7) && near("ceiling", 0.5),
        "{fit}"
    );
}

#[test]
fn fit_prints_what_scipy_found() {
    for name in ["given_0", "given_1"] {
        let path = format!(
            "{}/../tests/data/fit/{name}.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let case: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let first = case["first"].to_string();
        let (printed, _) = done(&["fit", "--input", &path, "--first", &first]);
        let found: Value = serde_json::from_str(&printed).unwrap();
        for (key, expected) in case["expected"]["early"].as_object().unwrap() {
            let (found, expected) = (&found["early"][key], expected);
            let pairs: Vec<(f64, f64)> = match (found, expected) {
                (Value::Array(f), Value::Array(e)) => f
                    .iter()
                    .zip(e)
                    .map(|(f, e)| (f.as_f64().unwrap(), e.as_f64().unwrap()))
                    .collect(),
                (f, e) => vec![(f.as_f64().unwrap(), e.as_f64().unwrap())],
            };
            assert!(
                pairs.iter().all(|(f, e)| ((f - e) / e).abs() < 1e-6),
                "{name}.{key}"
            );
        }
    }
}

#[test]
fn fit_reads_other_frameworks_logs() {
    let dir = tempfile::tempdir().unwrap();
    let verl = file(
        dir.path(),
        "verl.jsonl",
        &lines(&ENTROPIES, "actor/entropy", "critic/score/mean"),
    );
    assert_law(&done(&["fit", "--input", &verl]).0);
    let row = |(step, h): (usize, &f64)| format!("{step},{h},{h},{}\n", 0.7 - 0.2 * h.exp());
    let rows: String = ENTROPIES.iter().enumerate().map(row).collect();
    let header = "\"Step\",\"run a - train/entropy\",\"run a - train/entropy__MIN\",\"run a - eval/accuracy\"\n";
    let wandb = file(dir.path(), "wandb.csv", &format!("{header}{rows}"));
    assert_law(&done(&["fit", "--input", &wandb, "--reward-key", "eval/accuracy"]).0);
    let entropies = file(dir.path(), "entropy.csv", &tensorboard(|h| h));
    let rewards = file(
        dir.path(),
        "reward.csv",
        &tensorboard(|h| 0.7 - 0.2 * h.exp()),
    );
    assert_law(&done(&["fit", "--input", &entropies, "--reward-input", &rewards]).0);
}

/// A figure as `TensorBoard` exports it, a file each.
fn tensorboard(figure: fn(f64) -> f64) -> String {
    let row = |(step, h): (usize, &f64)| format!("17{step}.5,{step},{}\n", figure(*h));
    let rows: String = ENTROPIES.iter().enumerate().map(row).collect();
    format!("Wall time,Step,Value\n{rows}")
}

#[test]
fn one_column_is_not_fitted_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    let alone = file(dir.path(), "entropy.csv", &tensorboard(|h| h));
    let twice = ["fit", "--input", &alone, "--reward-input", &alone];
    for args in [&twice[..3], &twice] {
        assert!(refused(args).contains("are both its column 'Value'"));
        assert!(hint(args).contains("--reward-input"));
    }
    let good = file(dir.path(), "good", &lines(&ENTROPIES, "entropy", "reward"));
    let args = ["fit", "--input", &good, "--entropy-key", "reward"];
    assert!(refused(&args).contains("are both its column 'reward'"));
    let page = page(&[&alone], &dir.path().join("page.html"));
    assert_eq!(charts(&page), [""; 0], "nothing says what the figure is");
    assert!(
        page["notes"][0]
            .as_str()
            .unwrap()
            .contains("No law is fitted")
    );
    assert_eq!(page["tables"], json!([]));
}

#[test]
fn figures_of_one_step_in_two_lines_are_joined() {
    let dir = tempfile::tempdir().unwrap();
    let line = |(step, h): (usize, &f64)| {
        let of_step = |place: usize, key: &str, figure: f64| json!({"_step": 2 * step + place, "_runtime": step, "training/global_step": step + 1, key: figure});
        let (first, second) = (
            of_step(0, "actor/entropy", *h),
            of_step(1, "critic/score/mean", 0.7 - 0.2 * h.exp()),
        );
        format!("{first}\n{second}\n")
    };
    let text: String = ENTROPIES.iter().enumerate().map(line).collect();
    let path = file(dir.path(), "wandb.jsonl", &text);
    let (printed, messages) = done(&["fit", "--input", &path]);
    assert_law(&printed);
    assert!(
        messages.contains("joined by 'training/global_step'"),
        "{messages}"
    );
    let apart = text.replace("training/global_step", "other");
    let apart = file(dir.path(), "apart.jsonl", &apart);
    let error = refused(&["fit", "--input", &apart]);
    assert!(
        error.contains(
            "no line has both 'actor/entropy' (8 lines) and 'critic/score/mean' (8 lines)"
        ),
        "{error}"
    );
}

#[test]
fn another_framework_s_log_is_drawn_by_its_own_names() {
    let dir = tempfile::tempdir().unwrap();
    let text = lines(&ENTROPIES, "actor/entropy", "critic/score/mean");
    let bad = "{\"step\": 9, \"actor/entropy\": NaN, \"critic/score/mean\": 0.5}\n";
    let path = file(dir.path(), "verl.jsonl", &format!("{text}{bad}"));
    let page = page(&[&path], &dir.path().join("page.html"));
    assert_eq!(charts(&page), ["reward", "entropy", "law", "forecast"]);
    let points = page["charts"][1]["series"][0]["y"].as_array().unwrap();
    assert_eq!(points[..2], [json!(1.2), json!(1.0)]);
    let caption = page["charts"][1]["caption"].as_str().unwrap();
    assert!(caption.contains("'actor/entropy'"), "{caption}");
    let left_out = page["notes"][0].as_str().unwrap();
    assert!(
        left_out.contains("1 of 9 lines lack entropy or reward"),
        "{left_out}"
    );
    let forecast = page["charts"][3]["caption"].as_str().unwrap();
    assert!(
        forecast.contains("too few for an early forecast"),
        "{forecast}"
    );
}

#[test]
fn a_report_fits_the_law_from_as_many_steps_as_a_run_does() {
    let dir = tempfile::tempdir().unwrap();
    let of = |count: usize| {
        let text = lines(&ENTROPIES[..count], "entropy_token_mean", "reward_mean");
        let path = file(dir.path(), "metrics.jsonl", &text);
        page(&[&path], &dir.path().join("page.html"))
    };
    let short = of(7);
    assert_eq!(short["tables"], json!([]));
    assert!(short["notes"][0].as_str().unwrap().contains("7 steps have"));
    assert_eq!(of(8)["tables"][0]["id"], "law-fits");
}

#[test]
fn fit_goes_on_past_bad_lines_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let good = lines(&ENTROPIES, "entropy_token_mean", "reward_mean");
    let bad = "{\"step\": 9, \"entropy_token_mean\": NaN, \"reward_mean\": 0.5}\n\
               {\"step\": 10}\nnonsense\n{\"step\": 3, \"entropy_token_mean\": 0.8, \"rew";
    let path = file(dir.path(), "metrics.jsonl", &format!("{good}{bad}"));
    let (printed, messages) = done(&["fit", "--input", &path]);
    assert_law(&printed);
    for words in [
        "line 11 is not",
        "line 12, the last, is cut off",
        "2 of 10 lines lack",
    ] {
        assert!(messages.contains(words), "'{words}' is not in: {messages}");
    }
    let again = file(dir.path(), "again.jsonl", &format!("{good}{good}"));
    let (printed, messages) = done(&["fit", "--input", &again]);
    assert_law(&printed);
    assert!(
        messages.contains("8 earlier lines are replaced"),
        "{messages}"
    );
}

#[test]
fn fit_warns_where_the_law_does_not_hold() {
    let dir = tempfile::tempdir().unwrap();
    let point = |i: i32| {
        let both = 0.1 * f64::from(i);
        json!({"entropy": both, "reward": both}).to_string()
    };
    let rising = (1..9).map(point).collect::<Vec<_>>().join("\n");
    let (printed, messages) = done(&["fit", "--input", &file(dir.path(), "x", &rising)]);
    assert!(
        messages.contains("warning: the law does not hold here"),
        "{messages}"
    );
    assert!(printed.contains("\"doubt\""), "{printed}");
}

#[test]
fn fit_refuses_what_cannot_be_fitted() {
    let dir = tempfile::tempdir().unwrap();
    let two = file(
        dir.path(),
        "two",
        &lines(&ENTROPIES[..2], "entropy", "reward"),
    );
    assert!(refused(&["fit", "--input", &two]).contains("2 points are too few"));
    let flat = file(dir.path(), "flat", &lines(&[0.5; 6], "entropy", "reward"));
    assert!(refused(&["fit", "--input", &flat]).contains("same entropy"));
    let good = file(dir.path(), "good", &lines(&ENTROPIES, "entropy", "reward"));
    assert!(refused(&["fit", "--input", &good, "--first", "1.5"]).contains("between 0 and 1"));
    let early = ["fit", "--input", &good, "--first", "0.15"];
    assert!(
        refused(&early).contains("the first 15 % of 8 points is 1; at least 3 are needed"),
        "{}",
        refused(&early)
    );
    assert_eq!(hint(&early), "--first 0.38 takes 3 or more");
    done(&["fit", "--input", &good, "--first", "0.38"]);
    assert!(
        refused(&["fit", "--input", &good, "--entropy-key", "entrop"])
            .contains("there are: entropy, reward, step")
    );
    let unnamed = file(dir.path(), "unnamed", &lines(&ENTROPIES, "h", "r"));
    assert!(refused(&["fit", "--input", &unnamed]).contains("known by name"));
    assert!(hint(&["fit", "--input", &unnamed]).contains("--entropy-key"));
    assert!(refused(&["fit", "--input", "/no/such/file"]).contains("/no/such/file"));
    let one_size = ["fit", "--input", &good, "--parameters", "1e9"];
    assert!(refused(&one_size).contains("1 points are too few"));
}

#[test]
fn coefficients_are_fitted_over_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "a", &lines(&ENTROPIES, "entropy", "reward"));
    let args = [
        "fit",
        "--input",
        &good,
        "--input",
        &good,
        "--parameters",
        "5e8",
        "--parameters",
        "7e9",
    ];
    let printed: Value = serde_json::from_str(&done(&args).0).unwrap();
    assert!(
        printed["scaling"]["a"]["slope"].as_f64().unwrap().abs() < 1e-9,
        "{printed}"
    );
    assert_eq!(printed["runs"].as_array().unwrap().len(), 2);
    let same = [
        "fit",
        "--input",
        &good,
        "--input",
        &good,
        "--parameters",
        "5e8",
        "--parameters",
        "5e8",
    ];
    assert!(refused(&same).contains("one size"));
}

const SMALL: &str = "rollout.prompts_per_step=4";

/// Two variants over two seeds of two tiny steps; then the same command again, and one of other settings.
#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "that a file is not written again"
)]
fn a_comparison_is_run_once_and_extended() {
    let dir = tempfile::tempdir().unwrap();
    let config = file(
        dir.path(),
        "compare.toml",
        "seeds = [1, 2]\njobs = 2\nsettings = ['steps=2', 'validation.problems=8', 'update.mini_batch_prompts=2']\n\
         [[variants]]\nname = 'grpo'\n[[variants]]\nname = 'kl_cov'\nsettings = ['loss.type=kl_cov']\n",
    );
    let out = dir.path().join("out");
    let out_text = out.display().to_string();
    let args = ["compare", "--config", &config, "--out", &out_text, SMALL];
    let (table, _) = done(&args);
    let rows: Vec<&str> = table.lines().collect();
    let names: Vec<&str> = rows[0].split_whitespace().collect();
    assert!(
        rows.len() == 11 && names == ["variant", "grpo", "kl_cov"],
        "{table}"
    );
    // Each run validated before its first step and after its last: only what was trained counts.
    assert!(
        rows[1].starts_with("held out") && rows[1].contains("(last 1)"),
        "{table}"
    );
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("\"comparison\"") && page.contains("comparison-points"));
    let metrics = out.join("kl_cov/seed-2/metrics.jsonl");
    let before = fs::metadata(&metrics).unwrap().modified().unwrap();
    let json_args = [&args[..], &["--json"]].concat();
    let (printed, messages) = done(&json_args);
    assert!(
        messages.contains("4 of 4 runs are there already"),
        "{messages}"
    );
    assert_eq!(fs::metadata(&metrics).unwrap().modified().unwrap(), before);
    let found: Value = serde_json::from_str(&printed).unwrap();
    let variants = found["variants"].as_array().unwrap();
    assert_eq!(variants[1]["seeds"], json!([1, 2]));
    assert_eq!(variants[1]["validations_by_seed"], json!([1, 1]));
    let (mean, last) = (&variants[1]["accuracy"], &variants[1]["accuracy_end"]);
    assert_eq!(mean, last);
    let difference = variants[0]["accuracy_difference"]["mean"].as_f64().unwrap();
    assert!(
        difference.abs() < 1e-12,
        "the first variant differs from itself by {difference}"
    );
    let (_, messages) = done(&[&args[..], &["--seeds", "1,2,3"]].concat());
    assert!(
        messages.contains("4 of 6 runs are there already"),
        "{messages}"
    );
    fs::remove_dir_all(out.join("grpo/seed-1/checkpoints")).unwrap();
    let (_, messages) = done(&args);
    assert!(
        messages.contains("3 of 4 runs are there already"),
        "{messages}"
    );
    assert!(messages.contains("put aside") && out.join("grpo/seed-1.old-1/metrics.jsonl").exists());
    let other = [&args[..], &["optimizer.learning_rate=1e-3"]].concat();
    assert!(refused(&other).contains("other settings"));
}

#[test]
fn a_run_that_ended_itself_goes_on_only_when_its_monitor_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run").display().to_string();
    let start = [
        "train",
        "--out",
        &out,
        "--steps",
        "12",
        "rollout.prompts_per_step=8",
        "validation.problems=8",
        "entropy.bonus.coef=1",
        "optimizer.learning_rate=5e-4",
        "optimizer.warmup_steps=0",
        "monitor.explosion_factor=1.2",
        "monitor.stop_on_alarm=true",
    ];
    let (_, messages) = done(&start);
    assert!(messages.contains("the run ends here"), "{messages}");
    let error = refused(&["train", "--resume", &out]);
    assert!(
        error.contains("ended itself") && error.contains("monitor"),
        "{error}"
    );
    let (_, messages) = done(&["train", "--resume", &out, "monitor.explosion_factor=0"]);
    assert!(messages.contains("going on from step"), "{messages}");
    let text = fs::read_to_string(Path::new(&out).join("metrics.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 13);
}

#[test]
fn a_comparison_of_different_tasks_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let config = file(
        dir.path(),
        "compare.toml",
        "seeds = [1]\nsettings = ['steps=1', 'rollout.prompts_per_step=2', 'update.mini_batch_prompts=2', 'validation.problems=2']\n\
         [[variants]]\nname = 'easy'\n[[variants]]\nname = 'hard'\nsettings = ['task.operands=3']\n",
    );
    let out = dir.path().join("out").display().to_string();
    let (_, messages) = done(&["compare", "--config", &config, "--out", &out]);
    let warning = messages.lines().find(|line| line.starts_with("warning: "));
    let warning = warning.unwrap_or_else(|| panic!("{messages}"));
    assert!(
        warning.contains("different tasks")
            && warning.contains("hard on arithmetic with operands 3")
    );
}

#[test]
fn a_comparison_whose_run_fails_says_which_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let config = file(
        dir.path(),
        "compare.toml",
        "seeds = [7]\nsettings = ['steps=1']\n[[variants]]\nname = 'gone'\nsettings = ['model.path=/no/such/model']\n",
    );
    let out = dir.path().join("out").display().to_string();
    let error = refused(&["compare", "--config", &config, "--out", &out]);
    for words in ["variant 'gone', seed 7", "/no/such/model", "seed-7.log"] {
        assert!(error.contains(words), "'{words}' is not in: {error}");
    }
}

/// The log-probabilities of what a command that writes answers wrote to `file`.
fn answered(args: &[&str], file: &Path) -> Vec<f64> {
    let file_text = file.display().to_string();
    done(&[args, &["--responses", &file_text]].concat());
    let line: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let log_probs = &line["samples"][0]["rollout"]["sampler_log_probs"];
    serde_json::from_value(log_probs.clone()).unwrap()
}

#[test]
fn a_model_answers_in_the_type_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let config = file(dir.path(), "config.toml", "model.dtype = \"bf16\"\n");
    let at = |name: &str| dir.path().join(name);
    let eval = ["eval", "--limit", "1", "--max-new-tokens", "4"];
    let answer = |more: &[&str], name: &str| answered(&[&eval, more].concat(), &at(name));
    let exact = answer(&[], "f32.jsonl");
    let rounded = answer(&["--dtype", "bf16"], "bf16.jsonl");
    let coarse = answer(&["--dtype", "int8"], "int8.jsonl");
    let of_a_run = answer(&["--config", &config], "config.jsonl");
    let overruled = answer(&["--config", &config, "--dtype", "f32"], "overruled.jsonl");
    assert_eq!(of_a_run, rounded);
    assert_eq!(overruled, exact);
    // Of one token alone to choose from, a sample is the greedy answer.
    let sampled = answer(&["--temperature", "1", "--top-k", "1"], "sampled.jsonl");
    assert_eq!(sampled, exact);
    let hot = |more: &[&str], name: &str| answer(&[&["--temperature", "50"], more].concat(), name);
    let (any, one) = (hot(&[], "any.jsonl"), hot(&["--top-k", "1"], "one.jsonl"));
    assert_ne!(any, one);
    let gap = |other: &[f64]| (other[0] - exact[0]).abs();
    for other in [&rounded, &coarse] {
        assert!((1e-7..0.1).contains(&gap(other)), "{other:?}, {exact:?}");
    }
    assert_ne!(rounded, coarse);

    let generate = [
        "generate",
        "10+20+30+40=\n",
        "--json",
        "--max-new-tokens",
        "4",
    ];
    let generated = |dtype: &str| done(&[&generate[..], &["--dtype", dtype]].concat()).0;
    assert_eq!(generated("f32"), done(&generate).0);
    assert_ne!(generated("f32"), generated("bf16"));

    assert!(refused(&[&eval[..], &["--dtype", "f16"]].concat()).contains("--dtype: f16"));
    let half = file(dir.path(), "half.toml", "model.dtype = \"f16\"\n");
    let error = refused(&[&eval[..], &["--config", &half]].concat());
    assert!(
        error.contains("model.dtype") && error.contains("--dtype"),
        "{error}"
    );
}

#[test]
fn steps_that_teach_nothing_are_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let unsolvable = "{\"problem\": \"10+20+30+40=\\n\", \"answer\": \"1\"}\n";
    let data = file(dir.path(), "problems.jsonl", unsolvable);
    let train = format!("data.train={data}");
    let out = dir.path().join("run").display().to_string();
    let (_, messages) = done(&[
        "train",
        "--out",
        &out,
        &train,
        "steps=5",
        "rollout.prompts_per_step=1",
        "rollout.group_size=2",
        "rollout.max_sampling_rounds=1",
        "rollout.max_new_tokens=4",
    ]);
    let told = messages.matches("the last 3 steps taught nothing").count();
    assert_eq!(told, 1, "{messages}");
    assert_eq!(messages.matches("taught nothing").count(), 1, "{messages}");
}

#[test]
fn a_report_refuses_what_is_no_run() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().display().to_string();
    assert!(refused(&["report", &empty]).contains("no metrics.jsonl"));
    assert!(refused(&["report", "/no/such/run"]).contains("/no/such/run"));
    let nothing = file(dir.path(), "metrics.jsonl", "");
    assert!(refused(&["report", &nothing]).contains("no line of figures"));
    assert!(!dir.path().join("report.html").exists());
}
