//! Gradients to an update: the global norm, its clip, and AdamW.

mod adamw;
#[cfg(feature = "cube")]
mod cube;
mod operations;

use std::{fs, io, path::Path};

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::{GradientsParams, ModuleOptimizer},
    tensor::Tensor,
};
use burn_pack::{Reader, Writer};

pub(crate) use adamw::adamw;

use crate::{
    TrainerError,
    durable::{beside, io_at},
};
use operations::{scaled, sum_of_squares};

/// Writes an optimizer's state: the same state as the same bytes always, where burn's own order is that of a hash map.
pub(crate) fn save_optimizer(optimizer: &ModuleOptimizer, path: &Path) -> Result<(), TrainerError> {
    let unordered = beside(path, ".unordered");
    let failed = |error: &dyn std::fmt::Debug| {
        let text = format!("{error:?}");
        match system_error(&text) {
            Some(source) => io_at(path)(source),
            None => TrainerError::Damaged {
                path: path.to_owned(),
                message: format!("cannot write the optimizer's state: {text}"),
            },
        }
    };
    let saved = optimizer.save(&unordered);
    saved.map_err(|error| failed(&error))?;
    let reader = Reader::from_file(&unordered).map_err(|error| failed(&error))?;
    let (scalars, metadata) = (reader.scalars().clone(), reader.metadata().clone());
    // They come in the order of their names.
    let mut writer = Writer::new(reader.into_tensors().map_err(|error| failed(&error))?);
    for (key, value) in scalars {
        writer = writer.with_scalar(&key, value);
    }
    for (key, value) in &metadata {
        writer = writer.with_metadata(key, value);
    }
    let written = writer.write_to_file_in_place(path);
    written.map_err(|error| failed(&error))?;
    fs::remove_file(&unordered).map_err(io_at(&unordered))
}

/// The system's error that burn's has as text alone.
fn system_error(text: &str) -> Option<io::Error> {
    let (_, rest) = text.split_once("(os error ")?;
    let (code, _) = rest.split_once(')')?;
    code.parse().ok().map(io::Error::from_raw_os_error)
}

/// An optimizer with the state that a file holds.
pub(crate) fn load_optimizer(
    optimizer: &ModuleOptimizer,
    path: &Path,
) -> Result<ModuleOptimizer, TrainerError> {
    let loaded = optimizer.clone().load(path);
    loaded.map_err(|error| TrainerError::Damaged {
        path: path.to_owned(),
        message: format!("{error:?}"),
    })
}

/// Euclidean norm of the whole gradient, all parameters together; the one transfer from the device.
pub(crate) fn gradient_norm(model: &impl Module, gradients: &GradientsParams) -> f64 {
    let mut squares = Squares {
        gradients,
        sums: Vec::new(),
    };
    model.visit(&mut squares);
    if squares.sums.is_empty() {
        return 0.0;
    }
    let sums = Tensor::cat(squares.sums, 0).into_data().convert::<f64>();
    sums.iter::<f64>().sum::<f64>().sqrt()
}

struct Squares<'a> {
    gradients: &'a GradientsParams,
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.sums.push(sum_of_squares(gradient));
        }
    }
}

/// Whether every parameter is finite.
pub(crate) fn is_finite(model: &impl Module) -> bool {
    let mut differences = Differences(Vec::new());
    model.visit(&mut differences);
    let sums = Tensor::cat(differences.0, 0).into_data().convert::<f64>();
    sums.iter::<f64>().all(|sum| sum == 0.0)
}

/// Each parameter's sum of x - x: 0, or NaN where any x is not finite.
struct Differences(Vec<Tensor<1>>);

impl ModuleVisitor for Differences {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val().without_autodiff();
        self.0.push((value.clone() - value).sum());
    }
}

/// Scales the whole gradient so that its norm is at most `largest`; 0 leaves it as it is.
pub(crate) fn clip(
    model: &impl Module,
    gradients: GradientsParams,
    norm: f64,
    largest: f64,
) -> GradientsParams {
    if largest > 0.0 && norm > largest {
        return scale(model, gradients, largest / norm);
    }
    gradients
}

/// Multiplies the whole gradient; by 1 it stays as it is.
pub(crate) fn scale(
    model: &impl Module,
    mut gradients: GradientsParams,
    factor: f64,
) -> GradientsParams {
    if factor.to_bits() != 1.0_f64.to_bits() {
        model.visit(&mut Scale {
            gradients: &mut gradients,
            factor,
        });
    }
    gradients
}

struct Scale<'a> {
    gradients: &'a mut GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            let gradient = scaled(gradient, self.factor);
            self.gradients.register(param.id, gradient);
        }
    }
}
