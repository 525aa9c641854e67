//! Low-rank adapters on a decoder's linear layers (LoRA, arXiv 2106.09685): W + α/r·A·B, of which A and B alone are trained.
//!
//! They are burn's, whose own way to a gradient of A and B goes through one of the whole matrix. Here products take the
//! matrix with its adapter merged into it, without a graph, and the adapter's gradient follows from what went into the
//! product and what came back: no matrix has a gradient or moments. The CPU's own form merges each matrix as it packs it;
//! elsewhere a product keeps the merged one for its way back.

use std::ops::RangeInclusive;

use burn::{
    module::{LoraAdapter, Module, ModuleMapper, Param, Reparameterizer},
    nn::Linear,
    tensor::{DType, Device, Tensor, TensorData},
};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rand_distr::{Distribution, Uniform};
use serde::{Deserialize, Serialize};

use super::{CausalLm, decoder::DecoderLayer, fused, operations::Operations};
use crate::{
    adapter::factor_of,
    weights::{TensorPath, cast, fnv_1a, named_parameter},
};

/// A linear layer that can have an adapter, by its Hugging Face name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoraTarget {
    /// Queries.
    QProj,
    /// Keys.
    KProj,
    /// Values.
    VProj,
    /// What attention found, back to the residual stream.
    OProj,
    /// The feed-forward layer's gate.
    GateProj,
    /// What the gate multiplies.
    UpProj,
    /// The feed-forward layer's way back.
    DownProj,
}

impl LoraTarget {
    /// All of them, in the order of a block's matrices.
    pub const ALL: [Self; 7] = [
        Self::QProj,
        Self::KProj,
        Self::VProj,
        Self::OProj,
        Self::GateProj,
        Self::UpProj,
        Self::DownProj,
    ];

    /// Its name in a Hugging Face folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// The layer of a block, as its weights are named.
    fn layer(self, block: usize) -> String {
        let part = match self {
            Self::QProj | Self::KProj | Self::VProj | Self::OProj => "self_attn",
            Self::GateProj | Self::UpProj | Self::DownProj => "mlp",
        };
        format!("model.layers.{block}.{part}.{}", self.name())
    }
}

/// Low-rank adapters, as PEFT has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Columns of A and rows of B.
    pub rank: usize,
    /// α: the product of the factors is multiplied by α/rank.
    pub alpha: f64,
    /// The layers, of every block, that have adapters.
    pub targets: Vec<LoraTarget>,
}

impl LoraConfig {
    /// What α may be: beyond, its factor is nothing in f32, or no number.
    pub const ALPHAS: RangeInclusive<f64> = 1e-6..=1e6;
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            targets: LoraTarget::ALL.to_vec(),
        }
    }
}

impl CausalLm {
    /// The same model with all its weights frozen and adapters on the layers that are named: A uniform within 1/√inputs,
    /// drawn from the seed, and B zero, as PEFT begins them, so that nothing changes before the first update.
    ///
    /// # Panics
    /// If it has adapters already, or the rank is 0.
    #[must_use]
    pub fn with_lora(self, config: &LoraConfig, seed: u64) -> Self {
        assert!(!self.has_adapters(), "a model with adapters gets no others");
        assert!(config.rank > 0, "adapters of rank 0");
        let config = config.clone();
        self.apply_reparameterization(Attach { config, seed })
    }

    /// The same model with its adapters merged into its weights, which have no gradients then.
    #[must_use]
    pub fn merged(self) -> Self {
        let dtype = self.dtype();
        self.merged_as(dtype)
    }

    /// The same in another type, as [`CausalLm::cast`] does it with what has no adapter; one matrix at a time is in both.
    #[must_use]
    pub fn merged_as(mut self, dtype: DType) -> Self {
        for layer in &mut self.model.layers {
            for linear in layer.linears_mut() {
                if adapter(linear).is_some() {
                    let merged = weight(linear).cast(dtype);
                    linear.weight = Param::initialized(linear.weight.id, merged);
                }
            }
        }
        self.cast(dtype)
    }

    /// The same model with its frozen weights held in another type: adapters stay as they are, and what is computed in that type
    /// is what it would be, to the rounding of weights.
    #[must_use]
    pub fn holding_frozen_as(self, dtype: DType) -> Self {
        self.map(&mut Hold {
            dtype,
            path: TensorPath::default(),
        })
    }

    /// The same model without its adapters: the one that they are for, whose tensors it shares.
    #[must_use]
    pub fn without_adapters(mut self) -> Self {
        for layer in &mut self.model.layers {
            for linear in layer.linears_mut() {
                if adapter(linear).is_some() {
                    linear.weight = Param::initialized(linear.weight.id, linear.weight.base());
                }
            }
        }
        self
    }

    /// The layers that have adapters, `model.layers.0.self_attn.q_proj` and so on.
    pub(crate) fn adapted_layers(&self) -> Vec<(String, &Linear)> {
        let layers = self.model.layers.iter().enumerate();
        let named = layers.flat_map(|(index, layer)| {
            let linears = LoraTarget::ALL.into_iter().zip(layer.linears());
            linears.map(move |(target, linear)| (target.layer(index), linear))
        });
        named
            .filter(|(_, linear)| linear.weight.adapter().is_some())
            .collect()
    }

    /// The adapters, each with its layer.
    pub(crate) fn adapters(&self) -> Vec<(String, &LoraAdapter)> {
        let layers = self.adapted_layers().into_iter();
        layers
            .filter_map(|(layer, linear)| Some((layer, linear.weight.adapter()?)))
            .collect()
    }

    /// Whether there are any.
    pub fn has_adapters(&self) -> bool {
        let mut linears = self.model.layers.iter().flat_map(DecoderLayer::linears);
        linears.any(|linear| linear.weight.adapter().is_some())
    }

    /// Numbers that training changes: those of the adapters where there are any.
    pub fn trained_parameters(&self) -> u64 {
        let adapters = self.adapters().into_iter();
        let adapters: usize = adapters
            .map(|(_, adapter)| adapter.a.num_params() + adapter.b.num_params())
            .sum();
        match adapters {
            0 => self.num_params() as u64,
            adapters => adapters as u64,
        }
    }
}

/// Casts each parameter but the adapters' factors, without a graph.
struct Hold {
    dtype: DType,
    path: TensorPath,
}

impl ModuleMapper for Hold {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if factor_of(&self.path.name()).is_some() {
            return param;
        }
        param.map(|weight| {
            let device = weight.device();
            tracked_on(&device, weight.without_autodiff().cast(self.dtype))
        })
    }
}

/// A tensor without a graph as one of a device, which may track gradients.
fn tracked_on<const D: usize>(device: &Device, tensor: Tensor<D>) -> Tensor<D> {
    if device.is_autodiff() {
        Tensor::from_inner(tensor)
    } else {
        tensor
    }
}

/// Freezes each parameter, and gives the targets their adapters.
struct Attach {
    config: LoraConfig,
    seed: u64,
}

impl Reparameterizer for Attach {
    type Reparam = LoraAdapter;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LoraAdapter>) {
        let shape = param.lazy_shape().to_vec();
        let device = param.lazy_device();
        let param = param.set_require_grad(false);
        let layer = path.strip_suffix(".weight").unwrap_or_default();
        let is_named = |target: &LoraTarget| {
            layer
                .strip_suffix(target.name())
                .is_some_and(|before| before.ends_with('.'))
        };
        let [inputs, outputs] = shape[..] else {
            return (param, None);
        };
        if !self.config.targets.iter().any(is_named) {
            return (param, None);
        }
        let adapter = self.adapter(layer, [inputs, outputs], &device);
        (param, Some(adapter))
    }
}

impl Attach {
    fn adapter(&self, layer: &str, [inputs, outputs]: [usize; 2], device: &Device) -> LoraAdapter {
        let (rank, alpha) = (self.config.rank, self.config.alpha);
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&fnv_1a(layer).to_le_bytes());
        key[16..20].copy_from_slice(b"lora");
        let most = (inputs as f32).sqrt().recip();
        let a: Vec<f32> = match Uniform::new(-most, most) {
            Ok(uniform) => uniform
                .sample_iter(ChaCha8Rng::from_seed(key))
                .take(inputs * rank)
                .collect(),
            // A layer without inputs.
            Err(_) => Vec::new(),
        };
        let a = TensorData::new(a, [inputs, rank]);
        let b = TensorData::new(vec![0.0_f32; rank * outputs], [rank, outputs]);
        LoraAdapter {
            a: named_parameter(&factor_name(layer, "lora_A"), a, device),
            b: named_parameter(&factor_name(layer, "lora_B"), b, device),
            scale: alpha / rank as f64,
        }
    }
}

/// The name that a factor's id follows from.
pub(crate) fn factor_name(layer: &str, factor: &str) -> String {
    format!("{layer}.{factor}")
}

/// A layer's adapter, where its weight is frozen as adapters leave it: one that is trained beside them has a gradient of
/// its own to go through.
pub(super) fn adapter(linear: &Linear) -> Option<&LoraAdapter> {
    let adapter = linear.weight.adapter();
    adapter.filter(|_| !linear.weight.base().is_require_grad())
}

/// A layer's weight as products take it, `[inputs, outputs]`: with its adapter merged into it in f32, without a graph.
pub(crate) fn weight(linear: &Linear) -> Tensor<2> {
    let Some(LoraAdapter { a, b, scale }) = adapter(linear) else {
        return linear.weight.val();
    };
    let device = linear.weight.base().device();
    let parts = [linear.weight.base(), a.val(), b.val()];
    let [weight, a, b] = parts.map(Tensor::without_autodiff);
    let merged = if weight.device() == Device::flex() && weight.dtype() == DType::F32 {
        fused::merged(weight, [a, b], *scale as f32)
    } else {
        // In f32, whatever the weight is held in.
        let delta = Operations::of(&weight.device()).product(a, b) * *scale;
        weight.cast(DType::F32) + delta
    };
    tracked_on(&device, merged)
}

/// A layer in another type; a weight with an adapter stays as it is, as products take it in their own type once merged.
pub(super) fn cast_linear(linear: &mut Linear, dtype: DType) {
    linear.bias = cast(linear.bias.take(), dtype);
    if adapter(linear).is_none() {
        linear.weight = cast(linear.weight.clone(), dtype);
    }
}
