//! The reward that asks a program.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::answer::Answer;
use super::pool::Pool;
use super::process::Failure;
use super::request::Request;
use super::stats::{Counters, count};
use super::worker::{Launcher, Worker};
use super::{ExternalConfig, ExternalStats};
use crate::{Problem, Response, Reward, RewardError, Score, StopCheck};

/// The reward that a program gives, in any language. Where it fails there is no reward, rather than
/// one of 0. Its processes are killed on drop.
///
/// # Protocol
/// The program runs for as long as the reward lives. For each response it reads one line of JSON
/// from its standard input (shown here in several):
///
/// ```json
/// {"id": 17,
///  "problem": {"id": "3", "prompt": "What is 2+2?", "answer": "4", "source": "sums"},
///  "response": "It is 4.", "tokens": 5, "truncated": false}
/// ```
///
/// `problem` has all fields of [`Problem`]; `numbers` and `solution` are absent where it has none.
/// The program writes one line to its standard output, and flushes it:
///
/// ```json
/// {"id": 17, "reward": 1.0, "correct": true, "extracted": "4", "reason": "same_number"}
/// ```
///
/// `id` repeats the request's. `reward` is a number, or null where the program has none to give.
/// The rest may be left out: `correct` is then whether the reward is 1 or more. In Python:
///
/// ```python
/// import json, sys
/// for line in sys.stdin:
///     request = json.loads(line)
///     reward = float(request["problem"]["answer"] in request["response"])
///     print(json.dumps({"id": request["id"], "reward": reward}), flush=True)
/// ```
///
/// A process has one request at a time, so a program need not be parallel; `processes` says how
/// many run. The end of its input is its sign to end. Of its standard error the first 16 KiB are
/// passed on.
///
/// Whatever the program does, a score is there within `timeout_seconds` of the request:
///
/// | the program | what follows | reason |
/// |---|---|---|
/// | answers null | no reward | its own, or `external_reward_null` |
/// | answers NaN or infinity | no reward | `external_reward_not_finite` |
/// | answers with a field of a wrong type | no reward | `external_answer_unreadable` |
/// | writes a line that is no answer to the request | it is skipped and counted | |
/// | writes more than 100 of these for one request | killed; no reward | `external_nonsense` |
/// | writes a line of more than 1 MiB | killed; no reward | `external_line_too_long` |
/// | does not answer in time, or does not read | killed; no reward | `external_timeout` |
/// | is waited for when the run is stopped | killed; no reward, which nobody uses | `external_stopped` |
/// | ends, or closes its output | the next process gets the request once more, in the time left; if that ends too, no reward | `external_died` |
///
/// A process that was killed or has ended is replaced, at most `max_restarts` times without an
/// answer in between; then it is given up. Once all are, every score is without a reward at once
/// (`external_given_up`). "No reward" is [`Score::missing`], never 0.
///
/// On Unix the process leads a group of its own, which is killed as a whole, with what it started.
/// So Ctrl-C in a terminal does not reach it: it notices by the end of its input.
pub struct ExternalReward {
    pool: Pool,
    launcher: Arc<Launcher>,
    timeout: Duration,
    next_id: AtomicU64,
}

impl fmt::Debug for ExternalReward {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ExternalReward")
            .field("command", &self.launcher.command)
            .field("timeout", &self.timeout)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl ExternalReward {
    /// Starts the processes of a valid configuration.
    pub(super) fn start(config: &ExternalConfig) -> Result<Self, RewardError> {
        let launcher = Arc::new(Launcher {
            command: config.command.clone(),
            max_restarts: config.max_restarts,
            counters: Counters::default(),
            is_stopped: OnceLock::new(),
        });
        let workers = (0..config.processes).map(|_| Worker::start(Arc::clone(&launcher)));
        let workers = workers.collect::<std::io::Result<Vec<_>>>();
        Ok(Self {
            pool: Pool::new(workers.map_err(|source| RewardError::StartProgram {
                command: config.command.clone(),
                source,
            })?),
            launcher,
            timeout: Duration::from_secs_f64(config.timeout_seconds),
            next_id: AtomicU64::new(0),
        })
    }

    /// What a line is worth as the answer to request `id`, where it is one. For fuzzing.
    #[doc(hidden)]
    pub fn read_answer(line: &[u8], id: u64) -> Option<Score> {
        Answer::read(line, id).map(Answer::into_score)
    }

    /// What became of its requests so far.
    pub fn stats(&self) -> ExternalStats {
        self.launcher.counters.stats()
    }

    /// Waits for a process, and asks it. Only then does the request's time begin.
    fn ask(&self, problem: &Problem, response: &Response<'_>) -> Result<Answer, Failure> {
        let id = self.next_id.fetch_add(1, Relaxed);
        let request = Request::new(id, problem, response);
        let launcher = &self.launcher;
        let Some(mut loan) = self.pool.lend(&|| launcher.is_stopped()) else {
            return Err(if launcher.is_stopped() {
                Failure::Stopped
            } else {
                Failure::GivenUp
            });
        };
        loan.worker.ask(&request, Instant::now() + self.timeout)
    }
}

impl Reward for ExternalReward {
    fn score(&self, problem: &Problem, response: &Response<'_>) -> Score {
        let outcome = self.ask(problem, response);
        let score = outcome.map_or_else(
            |failure| Score::missing(failure.as_str()),
            Answer::into_score,
        );
        let counters = &self.launcher.counters;
        count(&counters.asked);
        if score.reward.is_none() {
            count(&counters.missing);
        }
        score
    }

    fn stop_when(&self, is_stopped: &StopCheck) {
        // Set once, by the run that it belongs to.
        let _ = self.launcher.is_stopped.set(Arc::clone(is_stopped));
    }

    fn external_stats(&self) -> Option<ExternalStats> {
        Some(self.stats())
    }
}
