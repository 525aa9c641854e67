//! What was sampled, packed for the page: an index of all responses, and the responses themselves a step at a time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use policy::Tokenizer;
use serde::Serialize;
use serde_json::{Value, json};
use trainer::{GroupState, ResponseFigures, RolloutLine, Scored};

use super::run::Run;

/// Tokens that a page shows with their figures; about 4 bytes each once packed.
const MOST_TOKENS: usize = 4_000_000;
/// Room for text beside each token's: it packs well.
const TEXT_BYTES_PER_TOKEN: usize = 4;
/// Responses that a page lists.
const MOST_RESPONSES: usize = 400_000;
/// Figures are kept in thousandths.
const THOUSANDTHS: f64 = 1000.0;
/// The chunk of a response whose text the page does not hold.
const NO_CHUNK: i64 = -1;

/// A run's responses, compressed and in base64.
#[derive(Debug)]
pub(super) struct Rollouts {
    pub(super) run: usize,
    pub(super) responses: usize,
    pub(super) with_tokens: usize,
    pub(super) index: String,
    pub(super) chunks: Vec<String>,
    pub(super) vocabulary: String,
    /// Lines that could not be read.
    pub(super) bad_lines: usize,
}

impl Rollouts {
    /// Reads a run's `rollouts/`; `None` where there are none. Runs share what a page may hold.
    pub(super) fn load(index: usize, run: &Run, runs: usize) -> Result<Option<Self>> {
        let Some(folder) = &run.folder else {
            return Ok(None);
        };
        let files = step_files(&folder.join("rollouts"))?;
        if files.is_empty() {
            return Ok(None);
        }
        let mut packed = Packed {
            tokenizer: run.tokenizer(),
            tokens_per_step: MOST_TOKENS / runs / files.len(),
            responses_left: MOST_RESPONSES / runs,
            ..Packed::default()
        };
        for (step, path) in &files {
            packed
                .add_step(*step, path)
                .with_context(|| path.display().to_string())?;
        }
        packed.finish(index).map(Some)
    }
}

/// `step-NNNNNN.jsonl` by step.
fn step_files(folder: &Path) -> Result<BTreeMap<u64, PathBuf>> {
    let mut files = BTreeMap::new();
    if !folder.exists() {
        return Ok(files);
    }
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let step = name.and_then(|name| {
            name.strip_prefix("step-")?
                .strip_suffix(".jsonl")?
                .parse()
                .ok()
        });
        if let Some(step) = step {
            files.insert(step, path);
        }
    }
    Ok(files)
}

/// Columns of the index, an entry a response.
#[derive(Default, Serialize)]
struct Columns {
    step: Vec<u64>,
    problem: Vec<usize>,
    sample: Vec<u64>,
    reward: Vec<Option<f64>>,
    correct: Vec<u8>,
    finish: Vec<usize>,
    state: Vec<usize>,
    tokens: Vec<usize>,
    entropy: Vec<Option<f64>>,
    covariance: Vec<Option<f64>>,
    advantage: Vec<Option<f64>>,
    selected: Vec<Option<usize>>,
    chunk: Vec<i64>,
    offset: Vec<usize>,
}

#[derive(Default)]
struct Packed {
    columns: Columns,
    problems: Vec<Value>,
    places: HashMap<String, usize>,
    finishes: Vec<String>,
    chunks: Vec<String>,
    ids: BTreeSet<u32>,
    tokenizer: Option<Tokenizer>,
    tokens_per_step: usize,
    tokens_left: usize,
    text_bytes_left: usize,
    bad_lines: usize,
    responses_left: usize,
    with_tokens: usize,
}

impl Packed {
    fn add_step(&mut self, step: u64, path: &Path) -> Result<()> {
        let mut rows = Vec::new();
        // What a step leaves is the next one's.
        self.tokens_left += self.tokens_per_step;
        self.text_bytes_left += TEXT_BYTES_PER_TOKEN * self.tokens_per_step;
        for line in BufReader::new(fs::File::open(path)?).split(b'\n') {
            // A run that was killed may have left half a line.
            let Ok(line) = serde_json::from_slice::<RolloutLine<'_>>(&line?) else {
                self.bad_lines += 1;
                continue;
            };
            let problem = self.problem(&line);
            for (number, sample) in line.group.samples.iter().enumerate() {
                if self.responses_left == 0 {
                    break;
                }
                self.responses_left -= 1;
                let figures = line.figures.get(number);
                let row = self.row(sample, figures);
                let offset = row.is_some().then_some(rows.len());
                self.index(step, problem, line.state, (number, sample), figures, offset);
                rows.extend(row);
            }
        }
        if !rows.is_empty() {
            self.chunks.push(pack(&json!({"rows": rows}))?);
        }
        Ok(())
    }

    /// The problem's place in the list, in which it stands once.
    fn problem(&mut self, line: &RolloutLine<'_>) -> usize {
        let problem = &line.group.problem;
        if let Some(&place) = self.places.get(&problem.id) {
            return place;
        }
        let place = self.problems.len();
        self.places.insert(problem.id.clone(), place);
        self.problems.push(json!({
            "id": problem.id, "text": problem.prompt, "answer": problem.answer, "source": problem.source
        }));
        place
    }

    /// A response's entry in the index; `offset` is its place in the chunk that the step will have.
    fn index(
        &mut self,
        step: u64,
        problem: usize,
        state: GroupState,
        (number, sample): (usize, &Scored),
        figures: Option<&ResponseFigures>,
        offset: Option<usize>,
    ) {
        let finish = self.finish_of(sample);
        let columns = &mut self.columns;
        columns.step.push(step);
        columns.problem.push(problem);
        columns.sample.push(number as u64);
        columns.reward.push(sample.score.finite_reward());
        columns.correct.push(u8::from(sample.score.correct));
        columns.finish.push(finish);
        columns.state.push(state as usize);
        columns.tokens.push(sample.rollout.response_ids.len());
        columns
            .entropy
            .push(figures.and_then(|figures| mean(&figures.entropies)));
        columns
            .covariance
            .push(figures.and_then(|figures| mean(&figures.covariances)));
        columns
            .advantage
            .push(figures.and_then(|figures| mean(&figures.advantages)));
        columns
            .selected
            .push(figures.map(|figures| figures.selected.len()));
        columns
            .chunk
            .push(offset.map_or(NO_CHUNK, |_| self.chunks.len() as i64));
        columns.offset.push(offset.unwrap_or(0));
    }

    /// The finish reason's place among those seen.
    fn finish_of(&mut self, sample: &Scored) -> usize {
        let name = serde_json::to_value(sample.rollout.finish).ok();
        let name = name
            .and_then(|name| Some(name.as_str()?.to_owned()))
            .unwrap_or_default();
        let place = self.finishes.iter().position(|seen| *seen == name);
        place.unwrap_or_else(|| {
            self.finishes.push(name);
            self.finishes.len() - 1
        })
    }

    /// A response as a chunk holds it: with its tokens' figures or as text alone, or not at all, as there is room.
    fn row(&mut self, sample: &Scored, figures: Option<&ResponseFigures>) -> Option<Value> {
        self.text_bytes_left = self.text_bytes_left.checked_sub(sample.text.len())?;
        let mut row = json!({
            "text": sample.text, "answer": sample.score.extracted, "reason": sample.score.reason
        });
        let ids = &sample.rollout.response_ids;
        let is_whole = |figures: &&ResponseFigures| {
            figures.entropies.len() == ids.len() && figures.covariances.len() == ids.len()
        };
        let has_room = self.tokenizer.is_some() && ids.len() <= self.tokens_left;
        if let Some(figures) = figures.filter(is_whole).filter(|_| has_room) {
            self.tokens_left -= ids.len();
            self.ids.extend(ids);
            self.with_tokens += 1;
            row["ids"] = json!(ids);
            row["entropy"] = json!(thousandths(&figures.entropies));
            row["covariance"] = json!(thousandths(&figures.covariances));
            row["advantage"] = json!(thousandths(&figures.advantages));
            row["selected"] = json!(figures.selected);
        }
        Some(row)
    }

    fn finish_vocabulary(&self) -> Result<String> {
        let ids: Vec<u32> = self.ids.iter().copied().collect();
        let texts = ids.iter().map(|&id| {
            self.tokenizer
                .as_ref()
                .map_or_else(String::new, |tokenizer| token_text(tokenizer, id))
        });
        let texts: Vec<String> = texts.collect();
        pack(&json!({"ids": ids, "texts": texts}))
    }

    fn finish(self, run: usize) -> Result<Rollouts> {
        let states = [
            GroupState::Trained,
            GroupState::Carried,
            GroupState::LeftOut,
        ];
        let mut index = serde_json::to_value(&self.columns)?;
        index["problems"] = json!(self.problems);
        index["finishes"] = json!(self.finishes);
        index["states"] = json!(states);
        Ok(Rollouts {
            run,
            responses: self.columns.step.len(),
            with_tokens: self.with_tokens,
            index: pack(&index)?,
            vocabulary: self.finish_vocabulary()?,
            bad_lines: self.bad_lines,
            chunks: self.chunks,
        })
    }
}

/// A token's text as it stands within a response: some tokenizers drop the space before a text's first token.
fn token_text(tokenizer: &Tokenizer, id: u32) -> String {
    let decode = |ids: &[u32]| tokenizer.decode(ids, false).unwrap_or_default();
    let (once, twice) = (decode(&[id]), decode(&[id, id]));
    // The second of two is what follows the first.
    match twice.strip_prefix(&once) {
        Some(second) if !second.is_empty() => second.to_owned(),
        _ => once,
    }
}

fn thousandths(figures: &[f64]) -> Vec<i64> {
    figures
        .iter()
        .map(|figure| (figure * THOUSANDTHS).round() as i64)
        .collect()
}

fn mean(figures: &[f64]) -> Option<f64> {
    let mean = figures.iter().sum::<f64>() / figures.len() as f64;
    (!figures.is_empty()).then(|| (mean * 1e4).round() / 1e4)
}

/// JSON, gzip, base64.
fn pack(value: &Value) -> Result<String> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(7));
    encoder.write_all(&serde_json::to_vec(value)?)?;
    Ok(STANDARD.encode(encoder.finish()?))
}
