//! What can be wrong with the points of a fit.

/// Why the law could not be fitted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EntropyError {
    /// A line with intervals needs at least three points.
    #[error("{found} points are too few to fit the law: give at least {needed}")]
    TooFewPoints {
        /// Points given.
        found: usize,
        /// Points needed.
        needed: usize,
    },
    /// The entropy never changes, so reward cannot be related to it.
    #[error("all {points} points have the same entropy, {entropy_nats} nats: nothing to fit")]
    ConstantEntropy {
        /// Points given.
        points: usize,
        /// The one entropy they have.
        entropy_nats: f64,
    },
    /// A point is not a finite number, or its entropy is so large that e^H is not.
    #[error(
        "point {index} is not usable: entropy {entropy_nats:?}, reward {reward:?}; \
         both must be finite, and the entropy at most 350 nats"
    )]
    UnusablePoint {
        /// Position of the point, from 0.
        index: usize,
        /// Its entropy.
        entropy_nats: f64,
        /// Its reward.
        reward: f64,
    },
    /// The early part must be a proper part of the run.
    #[error("first = {fraction} must lie strictly between 0 and 1")]
    FractionOutOfRange {
        /// The fraction given.
        fraction: f64,
    },
    /// A model has a positive number of parameters.
    #[error("{parameters} is no number of parameters: it must be finite and above 0")]
    SizeOutOfRange {
        /// The number given.
        parameters: f64,
    },
    /// Runs of one size say nothing about size.
    #[error("all {runs} runs are of models of one size: give runs of at least two sizes")]
    ConstantSize {
        /// Runs given.
        runs: usize,
    },
}
