//! A transformer block on plain slices, forward and backward, rows in parallel.

use kernels::{
    Compute, Start, View, Weight, product, rms_norm, rms_norm_backward, rotate, rotate_back,
    swiglu, swiglu_backward,
};
use rayon::prelude::*;

use super::{
    low_rank::{LowRank, Matrix},
    shape::{BlockPlan, Recompute, Shape},
};

/// Rows that one thread takes through a block's linear layers together.
const ROWS: usize = 96;

/// A block's matrices, `[inputs, outputs]`, and its small vectors in one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) vectors: &'a [f32],
    pub(super) query: &'a [f32],
    pub(super) key: &'a [f32],
    pub(super) value: &'a [f32],
    pub(super) output: &'a [f32],
    pub(super) gate: &'a [f32],
    pub(super) up: &'a [f32],
    pub(super) down: &'a [f32],
    /// The factors of the matrices' adapters, in the order of [`BlockPlan`]'s.
    pub(super) factors: &'a [f32],
}

/// What the forward pass keeps besides the block's input.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    /// Queries, keys and values before norms and rotation.
    rows: Option<Vec<f32>>,
    /// Attention's result.
    mixed: Option<Vec<f32>>,
    gate_up: Option<Vec<f32>>,
}

/// Gradients in the order of [`Weights`], `None` where not asked for.
#[derive(Debug, Default)]
pub(super) struct Gradients {
    pub(super) x: Vec<f32>,
    pub(super) vectors: Vec<f32>,
    pub(super) matrices: [Option<Vec<f32>>; 7],
    /// Those of the adapters' factors.
    pub(super) factors: Vec<f32>,
}

impl<'a> Weights<'a> {
    /// Query, key, value, output, gate, up, down, each with its number of outputs, without their adapters.
    fn bases(&self, shape: &Shape) -> [(&'a [f32], usize); 7] {
        let [query, key, value] = shape.qkv_widths();
        [
            (self.query, query),
            (self.key, key),
            (self.value, value),
            (self.output, shape.width),
            (self.gate, shape.inner),
            (self.up, shape.inner),
            (self.down, shape.width),
        ]
    }
}

fn pack_all<const N: usize>(views: [View<'_>; N], compute: Compute) -> [Weight; N] {
    let mut packed = [const { None }; N];
    let parts = packed.par_iter_mut().zip(views);
    parts.for_each(|(packed, view)| *packed = Some(Weight::new(view, compute)));
    packed.map(|packed| packed.unwrap_or_else(|| Weight::new(views[0], compute)))
}

/// The sum of products of left sides that lie side by side.
fn summed(a: &[f32], stride: usize, matrices: &[&Weight], c: &mut [f32], width: usize) {
    let rows = c.len() / width;
    let mut from = 0;
    for (index, matrix) in matrices.iter().enumerate() {
        let [k, _] = matrix.dims();
        let start = if index == 0 {
            Start::Zero
        } else {
            Start::Existing
        };
        matrix.multiply(View::new(&a[from..], rows, k, stride), c, width, start);
        from += k;
    }
}

fn add_rows(x: &mut [f32], row: &[f32]) {
    for x in x.chunks_exact_mut(row.len()) {
        add(x, row);
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Σ over rows, in their order.
fn add_columns(x: &[f32], stride: usize, sums: &mut [f32]) {
    for row in x.chunks_exact(stride) {
        add(sums, &row[..sums.len()]);
    }
}

/// How a product is computed: on the calling thread, or on all of them.
pub(super) type Product = fn(&Weight, View<'_>, &mut [f32], usize, Start);

/// A block's arithmetic on rows of tokens.
pub(super) struct Rows<'a> {
    pub(super) plan: &'a BlockPlan,
    pub(super) shape: &'a Shape,
    pub(super) vectors: &'a [f32],
    pub(super) product: Product,
}

impl<'a> Rows<'a> {
    fn vector(&self, range: &std::ops::Range<usize>) -> &'a [f32] {
        &self.vectors[range.clone()]
    }

    fn input_norm(&self) -> &'a [f32] {
        self.vector(&self.shape.vectors.input_norm)
    }

    fn post_norm(&self) -> &'a [f32] {
        self.vector(&self.shape.vectors.post_norm)
    }

    fn add_bias(&self, x: &mut [f32], bias: Option<&std::ops::Range<usize>>) {
        if let Some(bias) = bias {
            add_rows(x, self.vector(bias));
        }
    }

    /// Several products from one left side, their columns side by side.
    fn side_by_side(&self, a: View<'_>, matrices: &[&Weight], c: &mut [f32], stride: usize) {
        let mut from = 0;
        for matrix in matrices {
            (self.product)(matrix, a, &mut c[from..], stride, Start::Zero);
            from += matrix.dims()[1];
        }
    }

    /// Queries, keys and values of the normed input, before norms and rotation.
    pub(super) fn raw(
        &self,
        x: &[f32],
        matrices: &[&Weight],
        normed: &mut [f32],
        rows: &mut [f32],
    ) {
        rms_norm(x, self.input_norm(), self.shape.epsilon, normed);
        let stride = self.shape.attention.row_width();
        self.side_by_side(
            View::dense(normed, self.shape.width),
            matrices,
            rows,
            stride,
        );
        self.add_bias(rows, self.shape.vectors.qkv_bias.as_ref());
    }

    /// Norms of query and key heads where the family has them, then rotation.
    pub(super) fn place(&self, rows: &mut [f32], first_token: usize) {
        let (attention, stride) = (&self.shape.attention, self.shape.attention.row_width());
        for (norm, columns) in self.head_norms() {
            for row in rows.chunks_exact_mut(stride) {
                let heads = row[columns.clone()].to_vec();
                rms_norm(
                    &heads,
                    self.vector(norm),
                    self.shape.epsilon,
                    &mut row[columns.clone()],
                );
            }
        }
        rotate(
            rows,
            stride,
            attention.heads + attention.kv_heads,
            &self.plan.layout.rotary,
            first_token,
        );
    }

    /// The residual stream after attention: x + output(mixed).
    pub(super) fn residual(&self, x: &[f32], mixed_rows: &[f32], output: &Weight, h: &mut [f32]) {
        let mixed = View::dense(mixed_rows, self.shape.mixed_width());
        (self.product)(output, mixed, h, self.shape.width, Start::Zero);
        self.add_bias(h, self.shape.vectors.output_bias.as_ref());
        add(h, x);
    }

    /// Gate and up beside each other, of the normed residual stream.
    pub(super) fn gate_up(
        &self,
        h: &[f32],
        matrices: &[&Weight],
        normed: &mut [f32],
        gate_up: &mut [f32],
    ) {
        rms_norm(h, self.post_norm(), self.shape.epsilon, normed);
        self.side_by_side(
            View::dense(normed, self.shape.width),
            matrices,
            gate_up,
            2 * self.shape.inner,
        );
        self.add_bias(gate_up, self.shape.vectors.gate_up_bias.as_ref());
    }

    /// The block's output: h + down(activated).
    pub(super) fn finish(&self, h: &[f32], activated: &[f32], down: &Weight, y: &mut [f32]) {
        let activated = View::dense(activated, self.shape.inner);
        (self.product)(down, activated, y, self.shape.width, Start::Zero);
        self.add_bias(y, self.shape.vectors.down_bias.as_ref());
        add(y, h);
    }

    /// The norms of heads, each with the heads that it is for.
    fn head_norms(
        &self,
    ) -> impl Iterator<Item = (&'a std::ops::Range<usize>, std::ops::Range<usize>)> {
        let vectors = &self.shape.vectors;
        let [queries, keys, _] = self.shape.qkv_widths();
        let both = [
            (&vectors.query_norm, 0..queries),
            (&vectors.key_norm, queries..queries + keys),
        ];
        both.into_iter()
            .filter_map(|(norm, columns)| Some((norm.as_ref()?, columns)))
    }
}

/// One block over one batch.
pub(super) struct Block<'a> {
    rows: Rows<'a>,
    plan: &'a BlockPlan,
    shape: &'a Shape,
    weights: Weights<'a>,
}

impl<'a> Block<'a> {
    pub(super) fn new(plan: &'a BlockPlan, weights: Weights<'a>) -> Self {
        let shape = &plan.shape;
        // Threads have rows of their own.
        let rows = Rows {
            plan,
            shape,
            vectors: weights.vectors,
            product: Weight::multiply,
        };
        Self {
            rows,
            plan,
            shape,
            weights,
        }
    }

    /// Some of the matrices, from the first of them on, with their adapters.
    fn matrices<const N: usize>(&self, first: usize) -> [Matrix<'a>; N] {
        let bases = self.weights.bases(self.shape);
        std::array::from_fn(|place| {
            let (base, columns) = bases[first + place];
            Matrix::new(base, columns, self.low_rank(first + place))
        })
    }

    fn low_rank(&self, index: usize) -> Option<LowRank<'a>> {
        self.plan.adapters.low_rank(self.weights.factors, index)
    }

    /// The gradient of a matrix, leftᵀ·right, where it is wanted, and that of its adapter.
    fn set_gradients(
        &self,
        index: usize,
        [left, right]: [View<'_>; 2],
        wanted: [bool; 7],
        gradients: &mut Gradients,
    ) {
        gradients.matrices[index] = wanted[index].then(|| outer(left, right, self.plan.compute));
        if let Some(low_rank) = self.low_rank(index) {
            let range = self.plan.adapters.range(index);
            low_rank.gradient(left, right, &mut gradients.factors[range]);
        }
    }

    /// # Shapes
    /// `x` and the result `[tokens, width]`.
    pub(super) fn forward(&self, x: &[f32], keeps: bool) -> (Vec<f32>, Kept) {
        let mut rows = self.raw_rows(x);
        let recompute = self.plan.recompute;
        let raw = (keeps && recompute != Recompute::Block).then(|| rows.clone());
        self.place(&mut rows);
        let mixed = self.mixed(&rows);
        drop(rows);
        let mut gate_up = (keeps && recompute == Recompute::Nothing)
            .then(|| vec![0.0; self.plan.layout.tokens * 2 * self.shape.inner]);
        let y = self.after_attention(x, &mixed, gate_up.as_deref_mut());
        let mixed = (keeps && recompute != Recompute::Block).then_some(mixed);
        (
            y,
            Kept {
                rows: raw,
                mixed,
                gate_up,
            },
        )
    }

    /// Queries, keys and values before norms and rotation.
    fn raw_rows(&self, x: &[f32]) -> Vec<f32> {
        let (width, row_width) = (self.shape.width, self.shape.attention.row_width());
        let matrices = self.matrices::<3>(0);
        let packed = pack_all(matrices.each_ref().map(Matrix::view), self.plan.compute);
        drop(matrices);
        let mut rows = vec![0.0; self.plan.layout.tokens * row_width];
        let chunks = rows
            .par_chunks_mut(ROWS * row_width)
            .zip(x.par_chunks(ROWS * width));
        chunks.for_each_init(Scratch::default, |scratch, (rows, x)| {
            let [normed] = scratch.split([x.len()]);
            self.rows.raw(x, &packed.each_ref(), normed, rows);
        });
        rows
    }

    fn place(&self, rows: &mut [f32]) {
        let stride = self.shape.attention.row_width();
        let chunks = rows.par_chunks_mut(ROWS * stride).enumerate();
        chunks.for_each(|(chunk, rows)| self.rows.place(rows, chunk * ROWS));
    }

    fn mixed(&self, rows: &[f32]) -> Vec<f32> {
        let mut mixed = vec![0.0; self.plan.layout.tokens * self.shape.mixed_width()];
        self.shape
            .attention
            .forward(rows, &self.plan.layout.groups(), &mut mixed);
        mixed
    }

    fn after_attention(&self, x: &[f32], mixed: &[f32], keep: Option<&mut [f32]>) -> Vec<f32> {
        let (width, inner) = (self.shape.width, self.shape.inner);
        let matrices = self.matrices::<4>(3);
        let views = matrices.each_ref().map(Matrix::view);
        let [output, gate, up, down] = pack_all(views, self.plan.compute);
        drop(matrices);
        let mut y = vec![0.0; x.len()];
        let work = |scratch: &mut Scratch,
                    chunk: usize,
                    x: &[f32],
                    y: &mut [f32],
                    keep: Option<&mut [f32]>| {
            let rows = x.len() / width;
            let [mixed_rows, h, normed, own_gate_up, activated] = scratch.split([
                rows * self.shape.mixed_width(),
                x.len(),
                x.len(),
                rows * 2 * inner,
                rows * inner,
            ]);
            let gate_up = keep.unwrap_or(own_gate_up);
            let tokens = chunk * ROWS..chunk * ROWS + rows;
            self.shape.attention.gather_mixed(mixed, tokens, mixed_rows);
            self.rows.residual(x, mixed_rows, &output, h);
            self.rows.gate_up(h, &[&gate, &up], normed, gate_up);
            swiglu(gate_up, inner, activated);
            self.rows.finish(h, activated, &down, y);
        };
        let chunks = x
            .par_chunks(ROWS * width)
            .zip(y.par_chunks_mut(ROWS * width))
            .enumerate();
        match keep {
            None => chunks.for_each_init(Scratch::default, |scratch, (chunk, (x, y))| {
                work(scratch, chunk, x, y, None);
            }),
            Some(keep) => chunks
                .zip(keep.par_chunks_mut(ROWS * 2 * inner))
                .for_each_init(Scratch::default, |scratch, ((chunk, (x, y)), keep)| {
                    work(scratch, chunk, x, y, Some(keep));
                }),
        }
        y
    }

    /// The gradients of the input, the vectors, and those matrices that are `wanted`.
    pub(super) fn backward(
        &self,
        x: &[f32],
        kept: Kept,
        dy: &[f32],
        wanted: [bool; 7],
    ) -> Gradients {
        let Kept {
            rows,
            mixed,
            gate_up,
        } = kept;
        let raw = rows.unwrap_or_else(|| self.raw_rows(x));
        let mut rows = raw.clone();
        self.place(&mut rows);
        let mixed = mixed.unwrap_or_else(|| self.mixed(&rows));
        let mut gradients = Gradients {
            vectors: vec![0.0; self.shape.vectors.len],
            factors: vec![0.0; self.plan.adapters.len],
            ..Gradients::default()
        };
        let (dh, d_mixed) =
            self.feed_forward_backward(x, &mixed, gate_up, dy, wanted, &mut gradients);
        drop(mixed);
        let mut d_heads = vec![0.0; rows.len()];
        self.shape
            .attention
            .backward(&rows, &self.plan.layout.groups(), &d_mixed, &mut d_heads);
        drop((rows, d_mixed));
        self.attention_input_backward(x, &raw, &d_heads, dh, wanted, &mut gradients);
        gradients
    }

    /// From the block's output back to attention's: the gradients of the residual stream and of attention's result.
    fn feed_forward_backward(
        &self,
        x: &[f32],
        mixed: &[f32],
        gate_up: Option<Vec<f32>>,
        dy: &[f32],
        wanted: [bool; 7],
        gradients: &mut Gradients,
    ) -> (Vec<f32>, Vec<f32>) {
        let shape = self.shape;
        let (width, inner, mixed_width, tokens) = (
            shape.width,
            shape.inner,
            shape.mixed_width(),
            self.plan.layout.tokens,
        );
        let matrices = self.matrices::<4>(3);
        let views = matrices.each_ref().map(Matrix::view);
        let [output_t, gate_t, up_t, down_t] =
            pack_all(views.map(View::transposed), self.plan.compute);
        let is_kept = gate_up.is_some();
        let [output, gate, up, _] = views;
        let [output, gate, up] = pack_all([output, gate, up], self.plan.compute);
        drop(matrices);
        let mut gate_up = gate_up.unwrap_or_else(|| vec![0.0; tokens * 2 * inner]);
        let mut activated = vec![0.0; tokens * inner];
        let mut normed = vec![0.0; tokens * width];
        let mut mixed_rows = vec![0.0; tokens * mixed_width];
        let (mut dh, mut d_mixed) = (vec![0.0; tokens * width], vec![0.0; tokens * mixed_width]);
        let inputs = (x.par_chunks(ROWS * width), dy.par_chunks(ROWS * width));
        let outputs = (
            gate_up.par_chunks_mut(ROWS * 2 * inner),
            activated.par_chunks_mut(ROWS * inner),
            normed.par_chunks_mut(ROWS * width),
            mixed_rows.par_chunks_mut(ROWS * mixed_width),
            dh.par_chunks_mut(ROWS * width),
            d_mixed.par_chunks_mut(ROWS * mixed_width),
        );
        let norms: Vec<Vec<f32>> = inputs
            .into_par_iter()
            .zip(outputs.into_par_iter())
            .enumerate()
            .map_init(Scratch::default, |scratch, (chunk, ((x, dy), (gate_up, activated, normed, mixed_rows, dh, d_mixed)))| {
                let rows = x.len() / width;
                let [h, d_activated, d_normed] = scratch.split([x.len(), rows * inner, x.len()]);
                shape.attention.gather_mixed(mixed, chunk * ROWS..chunk * ROWS + rows, mixed_rows);
                self.rows.residual(x, mixed_rows, &output, h);
                if is_kept {
                    rms_norm(h, self.rows.post_norm(), shape.epsilon, normed);
                } else {
                    self.rows.gate_up(h, &[&gate, &up], normed, gate_up);
                }
                down_t.multiply(View::dense(dy, width), d_activated, inner, Start::Zero);
                swiglu_backward(gate_up, inner, d_activated, activated);
                summed(gate_up, 2 * inner, &[&gate_t, &up_t], d_normed, width);
                dh.copy_from_slice(dy);
                let mut d_norm = vec![0.0; width];
                rms_norm_backward(h, self.rows.post_norm(), shape.epsilon, d_normed, dh, &mut d_norm);
                output_t.multiply(View::dense(dh, width), d_mixed, mixed_width, Start::Zero);
                d_norm
            })
            .collect();
        drop((output_t, gate_t, up_t, down_t, output, gate, up));
        let vectors = &shape.vectors;
        for norm in &norms {
            add(&mut gradients.vectors[vectors.post_norm.clone()], norm);
        }
        let biases = [
            (&vectors.output_bias, &dh, width),
            (&vectors.gate_up_bias, &gate_up, 2 * inner),
        ];
        for (bias, cells, stride) in biases {
            if let Some(bias) = bias {
                add_columns(cells, stride, &mut gradients.vectors[bias.clone()]);
            }
        }
        if let Some(bias) = &vectors.down_bias {
            add_columns(dy, width, &mut gradients.vectors[bias.clone()]);
        }
        let d_gate = View::new(&gate_up, tokens, inner, 2 * inner);
        let d_up = View::new(
            &gate_up[inner.min(gate_up.len())..],
            tokens,
            inner,
            2 * inner,
        );
        let pairs = [
            (
                3,
                View::dense(&mixed_rows, mixed_width),
                View::dense(&dh, width),
            ),
            (4, View::dense(&normed, width), d_gate),
            (5, View::dense(&normed, width), d_up),
            (6, View::dense(&activated, inner), View::dense(dy, width)),
        ];
        for (index, left, right) in pairs {
            self.set_gradients(index, [left, right], wanted, gradients);
        }
        (dh, d_mixed)
    }

    /// From the gradients of queries, keys and values back to the block's input.
    fn attention_input_backward(
        &self,
        x: &[f32],
        raw: &[f32],
        d_heads: &[f32],
        dh: Vec<f32>,
        wanted: [bool; 7],
        gradients: &mut Gradients,
    ) {
        let shape = self.shape;
        let (width, tokens, stride) = (
            shape.width,
            self.plan.layout.tokens,
            shape.attention.row_width(),
        );
        let matrices = self.matrices::<3>(0);
        let views = matrices.each_ref().map(|matrix| matrix.view().transposed());
        let transposed = pack_all(views, self.plan.compute);
        drop(matrices);
        let (mut d_rows, mut normed, mut dx) =
            (vec![0.0; tokens * stride], vec![0.0; tokens * width], dh);
        let inputs = (x.par_chunks(ROWS * width), raw.par_chunks(ROWS * stride));
        let outputs = (
            d_rows.par_chunks_mut(ROWS * stride),
            normed.par_chunks_mut(ROWS * width),
            dx.par_chunks_mut(ROWS * width),
        );
        let vectors: Vec<Vec<f32>> = inputs
            .into_par_iter()
            .zip(outputs.into_par_iter())
            .enumerate()
            .map_init(
                Scratch::default,
                |scratch, (chunk, ((x, raw), (d_rows, normed, dx)))| {
                    let first = chunk * ROWS;
                    let mut d_vectors = vec![0.0; shape.vectors.len];
                    shape.attention.gather_gradient(
                        d_heads,
                        first..first + x.len() / width,
                        d_rows,
                    );
                    let turned = shape.attention.heads + shape.attention.kv_heads;
                    rotate_back(d_rows, stride, turned, &self.plan.layout.rotary, first);
                    self.norm_heads_backward(raw, d_rows, &mut d_vectors);
                    let [d_normed] = scratch.split([x.len()]);
                    summed(d_rows, stride, &transposed.each_ref(), d_normed, width);
                    rms_norm(x, self.rows.input_norm(), shape.epsilon, normed);
                    let d_norm = &mut d_vectors[shape.vectors.input_norm.clone()];
                    rms_norm_backward(
                        x,
                        self.rows.input_norm(),
                        shape.epsilon,
                        d_normed,
                        dx,
                        d_norm,
                    );
                    d_vectors
                },
            )
            .collect();
        for part in &vectors {
            add(&mut gradients.vectors, part);
        }
        if let Some(bias) = &shape.vectors.qkv_bias {
            add_columns(&d_rows, stride, &mut gradients.vectors[bias.clone()]);
        }
        let mut from = 0;
        for (index, columns) in shape.qkv_widths().into_iter().enumerate() {
            let right = View::new(&d_rows[from.min(d_rows.len())..], tokens, columns, stride);
            let left = View::dense(&normed, width);
            self.set_gradients(index, [left, right], wanted, gradients);
            from += columns;
        }
        gradients.x = dx;
    }

    /// Through the heads' norms, in place of their gradients.
    fn norm_heads_backward(&self, raw: &[f32], d_rows: &mut [f32], d_vectors: &mut [f32]) {
        let stride = self.shape.attention.row_width();
        for (norm, columns) in self.rows.head_norms() {
            for (raw, d_row) in raw
                .chunks_exact(stride)
                .zip(d_rows.chunks_exact_mut(stride))
            {
                let dy = d_row[columns.clone()].to_vec();
                let dx = &mut d_row[columns.clone()];
                dx.fill(0.0);
                let (x, dw) = (&raw[columns.clone()], &mut d_vectors[norm.clone()]);
                rms_norm_backward(x, self.rows.vector(norm), self.shape.epsilon, &dy, dx, dw);
            }
        }
    }
}

/// A matrix's gradient: leftᵀ·right, a sum over tokens.
fn outer(left: View<'_>, right: View<'_>, compute: Compute) -> Vec<f32> {
    let [_, rows] = left.dims();
    let [_, columns] = right.dims();
    let mut gradient = vec![0.0; rows * columns];
    product(
        compute,
        left.transposed(),
        right,
        &mut gradient,
        Start::Zero,
    );
    gradient
}

/// One thread's buffers, kept from chunk to chunk.
#[derive(Default)]
struct Scratch(Vec<f32>);

impl Scratch {
    fn split<const N: usize>(&mut self, lengths: [usize; N]) -> [&mut [f32]; N] {
        let total: usize = lengths.iter().sum();
        if self.0.len() < total {
            self.0.resize(total, 0.0);
        }
        let mut rest = self.0.as_mut_slice();
        lengths.map(|length| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(length);
            rest = tail;
            part
        })
    }
}
