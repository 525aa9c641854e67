//! `anneal verify`: verdicts on pairs of a gold answer and a response.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write, stdin, stdout},
};

use anyhow::{Context, Result, anyhow};
use rayon::prelude::*;
use reward::{Verdict, verify};
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::{Value, json};

use crate::{args::VerifyArgs, device};

/// Pairs that are verified at once.
const CHUNK: usize = 4096;

#[derive(Deserialize)]
struct Pair {
    #[serde(deserialize_with = "text")]
    gold: String,
    #[serde(deserialize_with = "text")]
    pred: String,
    id: Option<Value>,
}

/// A text, or a number or boolean as it is written.
fn text<'a, D: Deserializer<'a>>(value: D) -> Result<String, D::Error> {
    match Value::deserialize(value)? {
        Value::String(text) => Ok(text),
        value @ (Value::Number(_) | Value::Bool(_)) => Ok(value.to_string()),
        other => Err(Error::custom(format!("{other} is no text"))),
    }
}

pub(crate) fn run(args: &VerifyArgs) -> Result<()> {
    device::check(&args.device.device)?;
    let place = || args.input.display().to_string();
    let mut reader: Box<dyn BufRead> = if args.input.as_os_str() == "-" {
        Box::new(BufReader::new(stdin()))
    } else {
        Box::new(BufReader::new(File::open(&args.input).with_context(place)?))
    };
    let mut writer = BufWriter::new(stdout());
    let mut number = 0;
    loop {
        let pairs = read(&mut reader, &mut number).with_context(place)?;
        if pairs.is_empty() {
            return Ok(writer.flush()?);
        }
        let verdicts: Vec<Verdict> = pairs
            .par_iter()
            .map(|(_, pair)| verify(&pair.gold, &pair.pred))
            .collect();
        for ((line, pair), verdict) in pairs.into_iter().zip(verdicts) {
            let id = pair.id.unwrap_or_else(|| json!(line));
            serde_json::to_writer(&mut writer, &shown(&id, &verdict, args.explain))?;
            writer.write_all(b"\n")?;
        }
    }
}

/// The next pairs with their lines' numbers, from 1; none at the end.
fn read(reader: &mut dyn BufRead, number: &mut usize) -> Result<Vec<(usize, Pair)>> {
    let mut pairs = Vec::new();
    let mut line = String::new();
    while pairs.len() < CHUNK {
        line.clear();
        *number += 1;
        let place = || format!("line {number}");
        if reader.read_line(&mut line).with_context(place)? == 0 {
            break;
        }
        if line.trim().is_empty() {
            continue;
        }
        let pair = serde_json::from_str(&line);
        let pair = pair.map_err(|error| {
            anyhow!("line {number}: {error}; each line needs \"gold\" and \"pred\", both text")
        })?;
        pairs.push((*number, pair));
    }
    Ok(pairs)
}

/// The contract's keys, and with an explanation how the answer was found and how both were read.
fn shown(id: &Value, verdict: &Verdict, explain: bool) -> Value {
    let mut line = json!({
        "id": id,
        "correct": verdict.correct,
        "gold_answer": verdict.gold_answer,
        "pred_answer": verdict.pred_answer,
        "reason": verdict.reason,
    });
    if explain {
        line["rule"] = json!(verdict.rule);
        line["gold_form"] = json!(verdict.gold_form);
        line["pred_form"] = json!(verdict.pred_form);
    }
    line
}
