//! Statistics of a loss as sums, so that micro-batches add up and the device is read once.

use burn::tensor::Tensor;

/// Sums over trained tokens, in one small tensor on the device.
#[derive(Debug, Clone)]
pub struct LossStats {
    sums: Tensor<1>,
}

/// The same sums on the host, with the figures that follow from them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossSums {
    /// Trained tokens.
    pub tokens: f64,
    /// Tokens whose gradient the loss's clip removes.
    pub clipped: f64,
    /// Tokens that the entropy controller selected.
    pub selected: f64,
    /// Tokens whose gradient entropy ratio clipping removed.
    pub held: f64,
    /// `Σ -Δ`, the estimator k1 of `KL(π_old ‖ π)`.
    pub k1: f64,
    /// `Σ |Δ|`.
    pub abs_log_ratio: f64,
    /// `Σ k`, the configured estimate of the KL to the reference policy; 0 without one.
    pub reference_kl: f64,
}

/// Per-token maps that a loss reports on; all `[batch, response_len]`, without a graph.
pub(crate) struct StatMaps {
    pub(crate) mask: Tensor<2>,
    pub(crate) log_ratio: Tensor<2>,
    pub(crate) clipped: Option<Tensor<2>>,
    pub(crate) selected: Option<Tensor<2>>,
    pub(crate) held: Option<Tensor<2>>,
    pub(crate) reference_kl: Option<Tensor<2>>,
}

impl LossStats {
    /// Sums the maps over the trained tokens.
    pub(crate) fn of(maps: StatMaps) -> Self {
        let StatMaps {
            mask,
            log_ratio,
            clipped,
            selected,
            held,
            reference_kl,
        } = maps;
        let total = |map: Tensor<2>| (map * mask.clone()).sum();
        let optional = |map: Option<Tensor<2>>| total(map.unwrap_or_else(|| mask.zeros_like()));
        let sums = Tensor::cat(
            vec![
                mask.clone().sum(),
                optional(clipped),
                optional(selected),
                optional(held),
                total(log_ratio.clone().neg()),
                total(log_ratio.abs()),
                optional(reference_kl),
            ],
            0,
        );
        Self { sums }
    }

    /// The sums as one tensor, `[7]`, in the order of [`LossSums`]'s fields: for a caller that
    /// reads several tensors in one transfer.
    pub fn into_tensor(self) -> Tensor<1> {
        self.sums
    }

    /// Reads the sums: the one transfer from the device.
    ///
    /// # Panics
    /// If the device fails to deliver them.
    pub fn read(self) -> LossSums {
        LossSums::from_values(&self.sums.into_data().iter::<f64>().collect::<Vec<_>>())
    }
}

impl std::ops::Add for LossStats {
    type Output = Self;

    /// Adds another micro-batch's sums, on the device.
    fn add(self, other: Self) -> Self {
        Self {
            sums: self.sums + other.sums,
        }
    }
}

impl LossSums {
    /// The sums from the values of [`LossStats::into_tensor`].
    ///
    /// # Panics
    /// If there are not seven values.
    pub fn from_values(values: &[f64]) -> Self {
        let &[
            tokens,
            clipped,
            selected,
            held,
            k1,
            abs_log_ratio,
            reference_kl,
        ] = values
        else {
            panic!("{} values are not the 7 sums of a loss", values.len());
        };
        Self {
            tokens,
            clipped,
            selected,
            held,
            k1,
            abs_log_ratio,
            reference_kl,
        }
    }

    /// Share of the trained tokens whose gradient the clip removed.
    pub fn clip_fraction(&self) -> f64 {
        self.per_token(self.clipped)
    }

    /// Share of the trained tokens that the controller selected.
    pub fn selected_fraction(&self) -> f64 {
        self.per_token(self.selected)
    }

    /// Share of the trained tokens whose gradient entropy ratio clipping removed.
    pub fn held_fraction(&self) -> f64 {
        self.per_token(self.held)
    }

    /// Mean of `-Δ`, the estimator k1 of `KL(π_old ‖ π)`, in nats.
    pub fn approx_kl(&self) -> f64 {
        self.per_token(self.k1)
    }

    /// Mean of `|Δ|`, in nats.
    pub fn mean_abs_log_ratio(&self) -> f64 {
        self.per_token(self.abs_log_ratio)
    }

    /// Mean estimate of the KL to the reference policy, in nats.
    pub fn mean_reference_kl(&self) -> f64 {
        self.per_token(self.reference_kl)
    }

    fn per_token(&self, sum: f64) -> f64 {
        sum / self.tokens.max(1.0)
    }
}

impl std::ops::AddAssign for LossSums {
    fn add_assign(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.clipped += other.clipped;
        self.selected += other.selected;
        self.held += other.held;
        self.k1 += other.k1;
        self.abs_log_ratio += other.abs_log_ratio;
        self.reference_kl += other.reference_kl;
    }
}
