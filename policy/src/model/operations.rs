//! Which operations a pass uses: burn's, which every device has, or kernels of our own where the device runs them.

use burn::{
    module::LoraAdapter,
    nn::{Linear, RmsNorm},
    tensor::{
        DType, Device, Gradients, IndexingUpdateOp, Int, Tensor,
        activation::{silu, softmax},
    },
};

#[cfg(feature = "cube")]
use super::cube;
use super::{
    lora,
    rope::{Rotation, Visibility},
    rows::{Picks, Rows},
};

/// Burn's operations or our kernels: the same figures to rounding, and the same gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operations {
    /// Burn's, on every device.
    Plain,
    /// Ours, on GPUs: one kernel for each, sums in f32 whatever the tensors hold.
    #[cfg(feature = "cube")]
    Kernels,
}

impl Operations {
    /// The fastest that a device has.
    pub fn of(device: &Device) -> Self {
        #[cfg(feature = "cube")]
        if cube::runs_on(device) {
            return Self::Kernels;
        }
        let _ = device;
        Self::Plain
    }

    /// A product of matrices, or of as many pairs of them, summed in f32.
    pub fn product<const D: usize>(self, lhs: Tensor<D>, rhs: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Plain => lhs.matmul(rhs),
            #[cfg(feature = "cube")]
            Self::Kernels => cube::product(lhs, rhs),
        }
    }

    /// Rows of a matrix by their numbers.
    ///
    /// # Shapes
    /// `[rows, width]` to `[picks, width]`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn pick_rows(self, x: Tensor<2>, picks: &[i32]) -> Tensor<2> {
        let [rows, _] = x.dims();
        let device = x.device();
        self.pick(x, &Picks::new(picks, rows, |_| true, &device))
    }

    /// The same, of picks that are on the device already.
    pub fn pick(self, x: Tensor<2>, picks: &Picks) -> Tensor<2> {
        match self {
            Self::Plain => x.select(0, picks.rows.clone()),
            #[cfg(feature = "cube")]
            Self::Kernels => cube::pick_rows(x, picks),
        }
    }

    /// x + y of one shape.
    pub fn add<const D: usize>(self, x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Plain => x + y,
            #[cfg(feature = "cube")]
            Self::Kernels => cube::add(x, y),
        }
    }

    /// x·W + b of rows of any shape, W with its adapter where it has one.
    ///
    /// # Shapes
    /// `[…, inputs]` to `[…, outputs]`.
    pub fn linear<const D: usize>(self, linear: &Linear, x: Tensor<D>) -> Tensor<D> {
        let adapter = lora::adapter(linear);
        if self == Self::Plain && adapter.is_none() {
            return linear.forward(x);
        }
        let (mut shape, dtype) = (x.dims(), x.dtype());
        let rows = shape[..D - 1].iter().product();
        let flat = x.reshape([rows, shape[D - 1]]);
        let weight = lora::weight(linear).cast(dtype);
        shape[D - 1] = weight.dims()[1];
        let y = self.product(flat.clone(), weight);
        let y = match &linear.bias {
            Some(bias) => self.add_bias(y, bias.val()),
            None => y,
        };
        let y = match adapter {
            Some(adapter) => self.with_adapter_gradient(y, flat, adapter),
            None => y,
        };
        y.reshape(shape)
    }

    /// Rows `[rows, width]` with a bias `[width]` added to each.
    fn add_bias(self, x: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
        match self {
            Self::Plain => x + bias.unsqueeze(),
            #[cfg(feature = "cube")]
            Self::Kernels => cube::add_bias(x, bias),
        }
    }

    /// `y` as it is, in which x·s·A·B is a part already; on the way back, the factors' gradients of that part, and none of `x`,
    /// which has its own from the product with the merged weight.
    ///
    /// # Shapes
    /// `y` `[rows, outputs]`, `x` `[rows, inputs]`.
    fn with_adapter_gradient(self, y: Tensor<2>, x: Tensor<2>, adapter: &LoraAdapter) -> Tensor<2> {
        let LoraAdapter { a, b, scale } = adapter;
        if !a.is_require_grad() {
            return y;
        }
        let [a, b] = [a, b].map(|factor| factor.val().cast(x.dtype()));
        match self {
            Self::Plain => {
                let part = x.detach().matmul(a).matmul(b) * *scale;
                y + (part.clone() - part.detach())
            }
            #[cfg(feature = "cube")]
            Self::Kernels => cube::with_adapter_gradient(y, x, [a, b], *scale as f32),
        }
    }

    /// The gradients below x + gated·W + b, the end of a block, given that sum's own. Kernels do not compute the sum for it.
    ///
    /// # Shapes
    /// `x` and `slope` `[batch, length, hidden_size]`, `gated` `[batch, length, intermediate_size]`; `slope` has no graph.
    pub fn pull_block(
        self,
        x: Tensor<3>,
        gated: Tensor<3>,
        down: &Linear,
        slope: Tensor<3>,
    ) -> Gradients {
        match self {
            Self::Plain => {
                let sum = self.add(x, self.linear(down, gated));
                pulled(sum, slope)
            }
            #[cfg(feature = "cube")]
            Self::Kernels => {
                let flat = |x: Tensor<3>| {
                    let [batch, length, width] = x.dims();
                    x.reshape([batch * length, width])
                };
                let x = match &down.bias {
                    Some(bias) => cube::add_bias(flat(x), bias.val()),
                    None => flat(x),
                };
                let (gated, slope) = (flat(gated), Tensor::from_inner(flat(slope)));
                let weight = lora::weight(down).cast(gated.dtype());
                // The sum's gradient is that of x too.
                let x = match lora::adapter(down) {
                    Some(adapter) => self.with_adapter_gradient(x, gated.clone(), adapter),
                    None => x,
                };
                cube::pull([x, gated, weight, slope]).backward()
            }
        }
    }

    /// x / rms(x) · γ over the last dimension (arXiv 1910.07467).
    pub fn rms_norm<const D: usize>(self, norm: &RmsNorm, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Plain => norm.forward(x),
            #[cfg(feature = "cube")]
            Self::Kernels => cube::rms_norm(x, norm.gamma.val(), norm.epsilon),
        }
    }

    /// silu(gate)·up (arXiv 2002.05202).
    ///
    /// # Shapes
    /// Two tensors of one shape.
    pub fn swiglu<const D: usize>(self, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Plain => silu(gate) * up,
            #[cfg(feature = "cube")]
            Self::Kernels => cube::swiglu(gate, up),
        }
    }

    /// Rotary positions.
    ///
    /// # Shapes
    /// `[batch, length, heads, head_dim]` to `[batch, heads, length, head_dim]`.
    pub fn rotate(self, x: Tensor<4>, rotation: &Rotation) -> Tensor<4> {
        match self {
            Self::Plain => rotation.apply(x.swap_dims(1, 2)),
            #[cfg(feature = "cube")]
            Self::Kernels => {
                let (cos, sin) = rotation.angles();
                cube::rotate(x, cos, sin).swap_dims(1, 2)
            }
        }
    }

    /// `rows` in the places `slots` of `target`, in place where nothing else holds it; kernels give no gradient. Of rows with
    /// one place any one stays.
    ///
    /// # Shapes
    /// `target` `[places, width]`, `slots` `[rows]`, `rows` `[rows, width]`.
    pub fn write_rows(
        self,
        target: Tensor<2>,
        slots: Tensor<1, Int>,
        rows: Tensor<2>,
    ) -> Tensor<2> {
        match self {
            Self::Plain => target.select_assign(0, slots, rows, IndexingUpdateOp::Assign),
            #[cfg(feature = "cube")]
            Self::Kernels => cube::write_rows(target, slots, rows),
        }
    }

    /// The same of integers.
    pub fn write_int_rows(
        self,
        target: Tensor<2, Int>,
        slots: Tensor<1, Int>,
        rows: Tensor<2, Int>,
    ) -> Tensor<2, Int> {
        match self {
            Self::Plain => target.select_assign(0, slots, rows, IndexingUpdateOp::Assign),
            #[cfg(feature = "cube")]
            Self::Kernels => cube::write_int_rows(target, slots, rows),
        }
    }

    /// softmax(scores) over the keys that each query sees, in f32 whatever the scores are in.
    ///
    /// # Shapes
    /// `[batch, heads, length, keys]` in and out.
    fn attention_weights(self, scores: Tensor<4>, visibility: &Visibility) -> Tensor<4> {
        match self {
            Self::Plain => {
                let dtype = scores.dtype();
                softmax(scores.cast(DType::F32) + visibility.bias(), 3).cast(dtype)
            }
            #[cfg(feature = "cube")]
            Self::Kernels => {
                let (queries, keys, window) = visibility.positions();
                cube::attention_weights(scores, queries, keys, window)
            }
        }
    }

    /// softmax(q·kᵀ/√d)·v of tokens over those of their own rows that each sees: none that comes after it. Where the tokens are
    /// laid end to end, their rows are made for it and taken apart again.
    ///
    /// # Shapes
    /// `query` `[batch, heads, length, head_dim]`, `key` and `value` `[batch, groups, length, head_dim]` to
    /// `[batch, length, heads · head_dim]`.
    pub fn attend(
        self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        visibility: &Visibility,
    ) -> Tensor<3> {
        let Some(rows) = visibility.rows() else {
            return self.attend_in_rows(query, key, value, visibility);
        };
        let [query, key, value] = [query, key, value].map(|x| self.in_rows(x, rows));
        let mixed = self.attend_in_rows(query, key, value, visibility);
        let [_, _, width] = mixed.dims();
        let cells = mixed.reshape([rows.count * rows.length, width]);
        let tokens = self.pick(cells, &rows.tokens);
        let [count, _] = tokens.dims();
        tokens.reshape([1, count, width])
    }

    /// Tokens `[1, heads, tokens, head_dim]` in their rows, `[rows, heads, length, head_dim]`.
    fn in_rows(self, x: Tensor<4>, rows: &Rows) -> Tensor<4> {
        let [_, heads, tokens, head_dim] = x.dims();
        let flat = x.swap_dims(1, 2).reshape([tokens, heads * head_dim]);
        let cells = self.pick(flat, &rows.cells);
        let by_token = cells.reshape([rows.count, rows.length, heads, head_dim]);
        by_token.swap_dims(1, 2)
    }

    fn attend_in_rows(
        self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        visibility: &Visibility,
    ) -> Tensor<3> {
        match self {
            Self::Plain => self.attend_whole(query, key, value, visibility),
            #[cfg(feature = "cube")]
            Self::Kernels => {
                let [batch, heads, length, head_dim] = query.dims();
                let (positions, _, window) = visibility.positions();
                let by_token = [query, key, value].map(|x| x.swap_dims(1, 2));
                let mixed = cube::attend(by_token, positions, window);
                mixed.reshape([batch, length, heads * head_dim])
            }
        }
    }

    /// Whether these are kernels of our own.
    pub fn are_kernels(self) -> bool {
        self != Self::Plain
    }

    /// Of rows of `length`, how many queries' scores attention holds at once.
    pub fn queries_at_once(self, length: usize) -> usize {
        match self {
            Self::Plain => length,
            #[cfg(feature = "cube")]
            Self::Kernels => cube::queries_at_once(length),
        }
    }

    /// softmax(q·kᵀ/√d)·v over the keys that each query sees, with all scores at once.
    ///
    /// # Shapes
    /// `query` `[batch, heads, length, head_dim]`, `key` and `value` `[batch, groups, keys, head_dim]` to
    /// `[batch, length, heads · head_dim]`.
    fn attend_whole(
        self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        visibility: &Visibility,
    ) -> Tensor<3> {
        let [batch, heads, length, head_dim] = query.dims();
        let [_, groups, keys, _] = key.dims();
        // Query heads of one group are laid as rows beside each other, so keys need no copies.
        let rows = heads / groups * length;
        // Scaled before the product, whose results f16 might not hold otherwise.
        let query = query * (1.0 / (head_dim as f64).sqrt());
        let query = query.reshape([batch, groups, rows, head_dim]);
        let scores = self.product(query, key.swap_dims(2, 3));
        let scores = scores.reshape([batch, heads, length, keys]);
        let weights = self.attention_weights(scores, visibility);
        let weights = weights.reshape([batch, groups, rows, keys]);
        let mixed = self.product(weights, value);
        mixed
            .reshape([batch, heads, length, head_dim])
            .swap_dims(1, 2)
            .reshape([batch, length, heads * head_dim])
    }

    /// softmax(q·kᵀ/√d)·v of new tokens over a cache whose tokens lie in the slots of their positions; kernels for one
    /// token a row give no gradient.
    ///
    /// # Shapes
    /// `query` `[batch, heads, length, head_dim]`, `key` and `value` `[batch, groups, slots, head_dim]` to
    /// `[batch, length, heads · head_dim]`.
    pub fn attend_cached(
        self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        visibility: &Visibility,
    ) -> Tensor<3> {
        match self {
            #[cfg(feature = "cube")]
            Self::Kernels if cube::takes_query(query.dims()) => {
                let [batch, heads, _, head_dim] = query.dims();
                let (queries, _, window) = visibility.positions();
                let query = query.reshape([batch, heads, head_dim]);
                let queries = queries.reshape([batch]);
                let mixed = cube::decode_attention(query, [key, value], queries, window);
                mixed.reshape([batch, 1, heads * head_dim])
            }
            _ => self.attend_whole(query, key, value, visibility),
        }
    }
}

/// The gradients of whatever `y` comes from, given `y`'s own, which has no graph.
pub(super) fn pulled(y: Tensor<3>, slope: Tensor<3>) -> Gradients {
    (y * Tensor::from_inner(slope)).sum().backward()
}
