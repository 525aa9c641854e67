//! What every procedural task can do.

use rand_chacha::ChaCha8Rng;

use super::{MistakeRate, Split};
use crate::{Problem, Reward};

/// A source of problems that are made rather than read.
pub trait Task: Send + Sync {
    /// The name that configurations use, which is also the problems' source.
    fn name(&self) -> &str;

    /// Problem `index` of a split. It depends on the arguments alone, so that any index can be had
    /// at once, in any order and on any thread. No problem is ever in both splits.
    fn problem(&self, split: Split, seed: u64, index: u64) -> Problem;

    /// A solution in steps, in one of the task's styles, to imitate in supervised training of the built-in tasks; by default the answer
    /// alone: a task that is given to a run of reinforcement learning needs none.
    ///
    /// With probability `mistakes` each step goes wrong in a plausible way, and the later steps
    /// carry the wrong value on. A problem that is not of this task gets its answer alone.
    fn worked_solution(
        &self,
        problem: &Problem,
        rng: &mut ChaCha8Rng,
        mistakes: MistakeRate,
    ) -> String {
        let _ = (rng, mistakes);
        problem.answer.clone()
    }

    /// The reward that judges responses to this task.
    fn reward(&self) -> Box<dyn Reward>;

    /// All characters that prompts and worked solutions can contain, sorted, each once: what a model that is drawn for the task
    /// knows.
    fn alphabet(&self) -> String {
        std::iter::once('\n').chain(' '..='~').collect()
    }
}
