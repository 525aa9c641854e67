//! Cases computed elsewhere, computed again: what `anneal replay` and the golden tests run.
//!
//! A case is a JSON object with `inputs`, one of `loss` (with `aggregation`), `estimator`, `kl` and
//! `value_loss`, and what was `expected` of it.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{
    AdvantageConfig, AdvantageInputs, Aggregation, Denominator, DrGrpo, EntropyControl, Estimator,
    Gae, Grpo, GrpoScale, KlClamp, KlEstimator, LossConfig, LossError, LossInputs, ObjectiveConfig,
    Opo, PassAtK, PolicyObjective, ReinforcePlusPlus, ReinforcePlusPlusBaseline, Remax, Rloo,
    SelectionKey, SelectionView, ValueLoss, aggregate, kl_estimate,
};

/// References compute in f64, these tensors are f32: errors relative to a figure, or to
/// [`SMALL_FIGURE`] where it is smaller, may be this large.
pub const RELATIVE_TOLERANCE: f64 = 1e-4;
/// Figures below this are compared by an absolute tolerance of 1e-5.
pub const SMALL_FIGURE: f64 = 0.1;

/// A case.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Case {
    /// A policy loss.
    pub loss: Option<LossConfig>,
    /// Its aggregation.
    pub aggregation: Option<Aggregation>,
    /// The length that `seq_mean_token_sum_norm` divides by; the response length by default.
    pub constant_length_tokens: Option<f64>,
    /// Controllers over the loss.
    #[serde(default)]
    pub entropy: EntropyControl,
    /// An estimator of advantages.
    pub estimator: Option<EstimatorCase>,
    /// A KL estimator.
    pub kl: Option<KlCase>,
    /// A value loss.
    pub value_loss: Option<ValueLoss>,
    /// What they read.
    pub inputs: Inputs,
    /// What a reference gave.
    #[serde(default)]
    pub expected: BTreeMap<String, Figures>,
}

/// An estimator of advantages as cases name it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct EstimatorCase {
    #[serde(rename = "type")]
    kind: String,
    scale_by_std: Option<bool>,
    epsilon: Option<f64>,
    gamma: Option<f64>,
    lambda: Option<f64>,
}

/// A KL estimator as cases name it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct KlCase {
    #[serde(rename = "type")]
    estimator: KlEstimator,
    clamp: Option<KlClamp>,
}

/// A case's inputs: matrices are rows of one length. Figures that are not finite, which JSON has no numbers for, are the
/// texts `"NaN"`, `"inf"` and `"-inf"`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are those of the crate's own inputs")]
pub struct Inputs {
    #[serde(deserialize_with = "matrix")]
    pub log_probs: Option<Vec<Vec<f64>>>,
    #[serde(deserialize_with = "matrix")]
    pub old_log_probs: Option<Vec<Vec<f64>>>,
    #[serde(deserialize_with = "matrix")]
    pub ref_log_probs: Option<Vec<Vec<f64>>>,
    #[serde(deserialize_with = "matrix")]
    pub advantages: Option<Vec<Vec<f64>>>,
    pub mask: Option<Vec<Vec<f64>>>,
    pub token_rewards: Option<Vec<Vec<f64>>>,
    pub values: Option<Vec<Vec<f64>>>,
    pub old_values: Option<Vec<Vec<f64>>>,
    pub returns: Option<Vec<Vec<f64>>>,
    pub group: Option<Vec<u64>>,
    pub baseline_rewards: Option<Vec<f64>>,
}

/// A figure as it stands in a case.
#[derive(Deserialize)]
#[serde(untagged)]
enum Cell {
    Number(f64),
    Text(String),
}

fn matrix<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Vec<Vec<f64>>>, D::Error> {
    let figure = |cell: Cell| match cell {
        Cell::Number(figure) => Ok(figure),
        Cell::Text(text) => text
            .parse()
            .map_err(|_| D::Error::custom(format!("'{text}' is no number"))),
    };
    let row = |row: Vec<Cell>| row.into_iter().map(figure).collect();
    let matrix = Option::<Vec<Vec<Cell>>>::deserialize(source)?;
    matrix
        .map(|rows| rows.into_iter().map(row).collect())
        .transpose()
}

/// A figure of a case: a number, or one for each token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Figures {
    /// A number.
    Scalar(f64),
    /// `[rows, response_len]`.
    Rows(Vec<Vec<f64>>),
}

/// What a case gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// The keys that were expected, computed; all there are where none was.
    pub output: BTreeMap<String, Figures>,
    /// The largest error, relative to the expected figure or to [`SMALL_FIGURE`]; NaN where a
    /// figure is, 0 where nothing was expected.
    pub max_relative_error: f64,
}

impl Replayed {
    /// Whether every figure is within [`RELATIVE_TOLERANCE`].
    pub fn is_equal(&self) -> bool {
        self.max_relative_error <= RELATIVE_TOLERANCE
    }
}

/// Why a case could not be run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// It names nothing to compute.
    #[error("has none of 'loss', 'estimator', 'kl' and 'value_loss'")]
    NothingToCompute,
    /// An input is missing.
    #[error("inputs.{0} is missing")]
    MissingInput(&'static str),
    /// Inputs of different or ragged shapes.
    #[error("inputs.{name} is not {rows} rows of {columns} numbers like the others")]
    Shape {
        /// The input.
        name: &'static str,
        /// Rows of the first input.
        rows: usize,
        /// Its columns.
        columns: usize,
    },
    /// A matrix without a number.
    #[error("inputs.{0} holds no numbers")]
    Empty(&'static str),
    /// A vector that does not have a figure for each row.
    #[error("inputs.{name} has {found} figures for {rows} rows")]
    Rows {
        /// The input.
        name: &'static str,
        /// Its figures.
        found: usize,
        /// Rows of the matrices.
        rows: usize,
    },
    /// An estimator of another name.
    #[error("estimator.type = \"{0}\" is not known")]
    UnknownEstimator(String),
    /// Something was expected that the case does not give.
    #[error("expected.{0} is not something that this case gives")]
    UnknownOutput(String),
    /// The objective refused.
    #[error(transparent)]
    Loss(#[from] LossError),
}

type Outputs = BTreeMap<String, Figures>;

impl Case {
    /// Computes the case on a device.
    ///
    /// # Errors
    /// An input that is missing, of another shape, or not finite; a setting out of range.
    pub fn replay(&self, device: &Device) -> Result<Replayed, ReplayError> {
        let device = device.clone().autodiff();
        let mut output = if let Some(loss) = self.loss {
            self.policy_loss(loss, &device)?
        } else if let Some(estimator) = &self.estimator {
            self.advantages(estimator)?
        } else if let Some(kl) = &self.kl {
            self.kl(kl, &device)?
        } else if let Some(value_loss) = self.value_loss {
            self.value_loss(value_loss, &device)?
        } else {
            return Err(ReplayError::NothingToCompute);
        };
        if let Some(key) = self.expected.keys().find(|key| !output.contains_key(*key)) {
            return Err(ReplayError::UnknownOutput(key.clone()));
        }
        if !self.expected.is_empty() {
            output.retain(|key, _| self.expected.contains_key(key));
        }
        let errors = self
            .expected
            .iter()
            .map(|(key, expected)| largest_error(&output[key], expected));
        // NaN must not be lost in a maximum.
        let largest = errors.fold(0.0, |a: f64, b| {
            if a.is_nan() || b.is_nan() {
                f64::NAN
            } else {
                a.max(b)
            }
        });
        Ok(Replayed {
            output,
            max_relative_error: largest,
        })
    }

    fn policy_loss(&self, loss: LossConfig, device: &Device) -> Result<Outputs, ReplayError> {
        let inputs = &self.inputs;
        let mut shape = Shape::default();
        let log_probs = shape.read("log_probs", inputs.log_probs.as_ref())?;
        let old_log_probs = shape.read("old_log_probs", inputs.old_log_probs.as_ref())?;
        let advantages = shape.read("advantages", inputs.advantages.as_ref())?;
        let mask = shape.read("mask", inputs.mask.as_ref())?;
        let config = ObjectiveConfig {
            loss,
            aggregation: self.aggregation,
            constant_length_tokens: Some(
                self.constant_length_tokens.unwrap_or(shape.columns as f64),
            ),
            ..ObjectiveConfig::default()
        };
        if self.entropy.needs_entropies() || self.entropy.top_entropy.is_some() {
            return Err(ReplayError::MissingInput("entropies"));
        }
        let objective = PolicyObjective::new(config, self.entropy)?;
        let row_keys: Vec<u64> = (0..shape.rows as u64).collect();
        let view = SelectionView {
            log_probs: &log_probs,
            old_log_probs: &old_log_probs,
            advantages: &advantages,
            mask: &mask,
            old_entropies: None,
            row_keys: &row_keys,
        };
        view.check()?;
        let rows = 0..shape.rows;
        let key = SelectionKey {
            seed: 0,
            step: 0,
            mini_batch: 0,
        };
        let selections = objective.select(&view, std::slice::from_ref(&rows), &key)?;
        let selected = selections.to_device(&rows, shape.columns, device);
        let leaf = shape.tensor(&log_probs, device).require_grad();
        let batch = LossInputs::new(
            leaf.clone(),
            shape.tensor(&old_log_probs, device),
            shape.tensor(&advantages, device),
            shape.tensor(&mask, device),
        );
        let denominator = objective.denominator(&mask, shape.columns);
        let result = objective.evaluate(&batch, &selected, &denominator, 0.0);
        let gradients = result.loss.backward();
        let gradient = leaf.grad(&gradients).unwrap_or_else(|| leaf.zeros_like());
        let sums = result.stats.read();
        let clip_fraction = if objective.clip_cov().is_some() {
            // What the references report for Clip-Cov: the tokens it took out.
            sums.selected_fraction()
        } else {
            sums.clip_fraction()
        };
        let scalars = [
            ("loss", result.loss.into_scalar::<f64>()),
            ("clip_fraction", clip_fraction),
            ("approx_kl", sums.approx_kl()),
            ("mean_abs_log_ratio", sums.mean_abs_log_ratio()),
            ("selected_fraction", sums.selected_fraction()),
        ];
        let mut outputs: Outputs = scalars
            .map(|(key, value)| (key.to_owned(), Figures::Scalar(value)))
            .into();
        outputs.insert("grad_log_probs".to_owned(), shape.figures(gradient));
        Ok(outputs)
    }

    fn advantages(&self, estimator: &EstimatorCase) -> Result<Outputs, ReplayError> {
        let inputs = &self.inputs;
        let mut shape = Shape::default();
        let token_rewards = shape.read_f64("token_rewards", inputs.token_rewards.as_ref())?;
        let mask = shape.read("mask", inputs.mask.as_ref())?;
        let values = match &inputs.values {
            Some(_) => Some(shape.read_f64("values", inputs.values.as_ref())?),
            None => None,
        };
        let groups = inputs
            .group
            .clone()
            .ok_or(ReplayError::MissingInput("group"))?;
        shape.expect_rows("group", groups.len())?;
        if let Some(baselines) = &inputs.baseline_rewards {
            shape.expect_rows("baseline_rewards", baselines.len())?;
        }
        let config = estimator.config()?;
        config.validate()?;
        let found = config.advantages(&AdvantageInputs {
            token_rewards: &token_rewards,
            mask: &mask,
            groups: &groups,
            values: values.as_deref(),
            greedy_rewards: inputs.baseline_rewards.as_deref(),
        })?;
        let rows = |values: &[f64]| {
            Figures::Rows(values.chunks(shape.columns).map(<[f64]>::to_vec).collect())
        };
        Ok([
            ("advantages".to_owned(), rows(&found.advantages)),
            ("returns".to_owned(), rows(&found.returns)),
        ]
        .into())
    }

    fn kl(&self, case: &KlCase, device: &Device) -> Result<Outputs, ReplayError> {
        case.clamp
            .map_or(Ok(()), |clamp| clamp.validate("kl.clamp"))?;
        let mut shape = Shape::default();
        let log_probs = shape.read("log_probs", self.inputs.log_probs.as_ref())?;
        let reference = shape.read("ref_log_probs", self.inputs.ref_log_probs.as_ref())?;
        // The reference bounds k3 alone.
        let usual = (case.estimator == KlEstimator::K3).then(KlClamp::default);
        let leaf = shape.tensor(&log_probs, device).require_grad();
        let reference = shape.tensor(&reference, device);
        let estimate = kl_estimate(
            leaf.clone(),
            reference,
            case.estimator,
            case.clamp.or(usual),
        );
        let gradients = estimate.clone().sum().backward();
        let gradient = leaf.grad(&gradients).unwrap_or_else(|| leaf.zeros_like());
        Ok([
            ("kl".to_owned(), shape.figures(estimate)),
            ("grad_log_probs".to_owned(), shape.figures(gradient)),
        ]
        .into())
    }

    fn value_loss(&self, value_loss: ValueLoss, device: &Device) -> Result<Outputs, ReplayError> {
        value_loss.validate()?;
        let inputs = &self.inputs;
        let mut shape = Shape::default();
        let values = shape.read("values", inputs.values.as_ref())?;
        let old_values = shape.read("old_values", inputs.old_values.as_ref())?;
        let returns = shape.read("returns", inputs.returns.as_ref())?;
        let mask = shape.read("mask", inputs.mask.as_ref())?;
        let leaf = shape.tensor(&values, device).require_grad();
        let tensor = |values: &[f32]| shape.tensor(values, device);
        let per_token = value_loss.per_token(leaf.clone(), tensor(&old_values), tensor(&returns));
        let denominator = Denominator::from_mask(&mask, shape.columns);
        let mode = self.aggregation.unwrap_or_default();
        let loss = aggregate(per_token.loss, tensor(&mask), mode, &denominator);
        let gradients = loss.backward();
        let gradient = leaf.grad(&gradients).unwrap_or_else(|| leaf.zeros_like());
        let clipped = per_token.clipped.unwrap_or_else(|| leaf.zeros_like());
        let share = aggregate(clipped, tensor(&mask), Aggregation::TokenMean, &denominator);
        Ok([
            ("loss".to_owned(), Figures::Scalar(loss.into_scalar())),
            (
                "clip_fraction".to_owned(),
                Figures::Scalar(share.into_scalar()),
            ),
            ("grad_values".to_owned(), shape.figures(gradient)),
        ]
        .into())
    }
}

impl EstimatorCase {
    fn config(&self) -> Result<AdvantageConfig, ReplayError> {
        let (gae, grpo) = (Gae::default(), Grpo::default());
        let epsilon = self.epsilon.unwrap_or(grpo.epsilon);
        let gamma = self.gamma.unwrap_or(1.0);
        Ok(match self.kind.as_str() {
            "grpo" if self.scale_by_std == Some(false) => AdvantageConfig::Grpo(Grpo {
                scale: GrpoScale::None,
                epsilon,
            }),
            "grpo" => AdvantageConfig::Grpo(Grpo { epsilon, ..grpo }),
            "dr_grpo" => AdvantageConfig::DrGrpo(DrGrpo {}),
            "rloo" => AdvantageConfig::Rloo(Rloo {}),
            "reinforce_plus_plus" => {
                AdvantageConfig::ReinforcePlusPlus(ReinforcePlusPlus { gamma })
            }
            "reinforce_plus_plus_baseline" => {
                AdvantageConfig::ReinforcePlusPlusBaseline(ReinforcePlusPlusBaseline {})
            }
            "remax" => AdvantageConfig::Remax(Remax {}),
            "opo" => AdvantageConfig::Opo(Opo {}),
            "pass_at_k" => AdvantageConfig::PassAtK(PassAtK {
                scale_by_std: self.scale_by_std.unwrap_or(true),
                epsilon,
            }),
            "gae" => AdvantageConfig::Gae(Gae {
                gamma: self.gamma.unwrap_or(gae.gamma),
                lambda: self.lambda.unwrap_or(gae.lambda),
            }),
            other => return Err(ReplayError::UnknownEstimator(other.to_owned())),
        })
    }
}

/// The shape that all matrices of a case have: that of the first one read.
#[derive(Debug, Default)]
struct Shape {
    rows: usize,
    columns: usize,
}

impl Shape {
    fn read_f64(
        &mut self,
        name: &'static str,
        matrix: Option<&Vec<Vec<f64>>>,
    ) -> Result<Vec<f64>, ReplayError> {
        let matrix = matrix.ok_or(ReplayError::MissingInput(name))?;
        if self.columns == 0 {
            self.rows = matrix.len();
            self.columns = matrix.first().map_or(0, Vec::len);
        }
        let is_whole =
            matrix.len() == self.rows && matrix.iter().all(|row| row.len() == self.columns);
        if self.columns == 0 {
            return Err(ReplayError::Empty(name));
        }
        if !is_whole {
            let (rows, columns) = (self.rows, self.columns);
            return Err(ReplayError::Shape {
                name,
                rows,
                columns,
            });
        }
        Ok(matrix.concat())
    }

    fn read(
        &mut self,
        name: &'static str,
        matrix: Option<&Vec<Vec<f64>>>,
    ) -> Result<Vec<f32>, ReplayError> {
        let values = self.read_f64(name, matrix)?;
        Ok(values.into_iter().map(|value| value as f32).collect())
    }

    fn expect_rows(&self, name: &'static str, found: usize) -> Result<(), ReplayError> {
        let rows = self.rows;
        if found == rows {
            return Ok(());
        }
        Err(ReplayError::Rows { name, found, rows })
    }

    fn tensor(&self, values: &[f32], device: &Device) -> Tensor<2> {
        Tensor::from_data(
            TensorData::new(values.to_vec(), [self.rows, self.columns]),
            device,
        )
    }

    fn figures(&self, tensor: Tensor<2>) -> Figures {
        let values: Vec<f64> = tensor.into_data().iter::<f64>().collect();
        Figures::Rows(values.chunks(self.columns).map(<[f64]>::to_vec).collect())
    }
}

fn largest_error(found: &Figures, expected: &Figures) -> f64 {
    let flat = |figures: &Figures| match figures {
        Figures::Scalar(value) => vec![*value],
        Figures::Rows(rows) => rows.concat(),
    };
    let (found, expected) = (flat(found), flat(expected));
    if found.len() != expected.len() {
        return f64::NAN;
    }
    let errors = found
        .iter()
        .zip(&expected)
        .map(|(f, e)| (f - e).abs() / e.abs().max(SMALL_FIGURE));
    errors.fold(0.0, |a: f64, b| if b.is_nan() { b } else { a.max(b) })
}
