//! Causal attention over packed sequences whose common prefixes are stored once.

use std::ops::Range;

use rayon::prelude::*;

use crate::{
    PANEL, Packed, Panels, Start, View, exp,
    matrix::Lines,
    multiply,
    norm::{lanes_sum, largest},
    vectorized::vectorized,
};

/// Tokens in a row that continue a prefix, if they have one: a prompt, or a response after its prompt.
///
/// A token's position is its place in the prefix and the segment together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its tokens among the packed ones.
    pub tokens: Range<usize>,
    /// The tokens before its first, elsewhere among the packed ones; empty where there are none.
    pub prefix: Range<usize>,
}

/// The shape of attention: `heads` query heads over `kv_heads` key heads, `head_dim` wide.
///
/// Rows of queries, keys and values lie in one matrix `[tokens, (heads + 2·kv_heads)·head_dim]`, in this order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// How many keys a query sees, itself included, or all.
    pub window: Option<usize>,
}

/// Queries whose scores are held at once.
const QUERY_ROWS: usize = 60;

impl Attention {
    /// Query heads of a key head.
    fn share(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Width of a row of queries, keys and values.
    pub fn row_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Elements of [`Attention::backward`]'s result for each token and key head: its queries, its key, its value.
    fn gradient_width(&self) -> usize {
        (self.share() + 2) * self.head_dim
    }

    /// softmax(q·kᵀ/√d)·v of every token over what is before it in its sequence.
    ///
    /// `groups` lists runs of segments; a run's tokens are contiguous, and its segments' prefixes lie within it.
    ///
    /// # Shapes
    /// `rows` `[tokens, row_width]`; `mixed` `[kv_heads, tokens, heads/kv_heads · head_dim]`, by key head so that
    /// threads write apart.
    pub fn forward(&self, rows: &[f32], groups: &[&[Segment]], mixed: &mut [f32]) {
        let width = self.share() * self.head_dim;
        self.each_part(groups, mixed, width, |kv, group, out| {
            let first = group[0].tokens.start;
            for segment in group {
                let keys = Keys::new(self, rows, segment, kv);
                for head in 0..self.share() {
                    for block in blocks(segment.tokens.len()) {
                        let weights =
                            keys.weights(self, rows, segment, self.share() * kv + head, &block);
                        let start = (segment.tokens.start - first + block.start) * width
                            + head * self.head_dim;
                        keys.mix(&weights, &mut out[start..], width);
                    }
                }
            }
        });
    }

    /// The gradients of queries, keys and values.
    ///
    /// # Shapes
    /// `rows` `[tokens, row_width]`, `d_mixed` `[tokens, heads·head_dim]`; the result
    /// `[kv_heads, tokens, (heads/kv_heads + 2)·head_dim]`, its rows read by [`Attention::gather_gradient`].
    pub fn backward(
        &self,
        rows: &[f32],
        groups: &[&[Segment]],
        d_mixed: &[f32],
        gradient: &mut [f32],
    ) {
        let width = self.gradient_width();
        self.each_part(groups, gradient, width, |kv, group, out| {
            out.fill(0.0);
            let part = Part {
                attention: self,
                rows,
                d_mixed,
                kv,
                first: group[0].tokens.start,
            };
            for segment in group {
                part.segment(segment, out);
            }
        });
    }

    /// Runs `work` for every key head and group on its own part of `out`, `[kv_heads, tokens, width]`.
    fn each_part(
        &self,
        groups: &[&[Segment]],
        out: &mut [f32],
        width: usize,
        work: impl Fn(usize, &[Segment], &mut [f32]) + Sync,
    ) {
        let tokens: usize = groups.iter().map(|group| group_tokens(group)).sum();
        assert_eq!(
            out.len(),
            self.kv_heads * tokens * width,
            "{} elements for {tokens} tokens",
            out.len()
        );
        let mut parts = Vec::with_capacity(self.kv_heads * groups.len());
        for (kv, mut rest) in out.chunks_mut(tokens * width).enumerate() {
            for group in groups {
                let part;
                (part, rest) = rest.split_at_mut(group_tokens(group) * width);
                parts.push((kv, *group, part));
            }
        }
        parts
            .into_par_iter()
            .for_each(|(kv, group, part)| work(kv, group, part));
    }

    /// Rows of [`Attention::forward`]'s result with their heads side by side, `[rows, heads·head_dim]`.
    pub fn gather_mixed(&self, mixed: &[f32], tokens: Range<usize>, out: &mut [f32]) {
        let (width, total) = (
            self.share() * self.head_dim,
            mixed.len() / (self.heads * self.head_dim),
        );
        for (row, token) in out.chunks_exact_mut(self.heads * self.head_dim).zip(tokens) {
            for (kv, part) in row.chunks_exact_mut(width).enumerate() {
                part.copy_from_slice(&mixed[(kv * total + token) * width..][..width]);
            }
        }
    }

    /// Rows of [`Attention::backward`]'s result as [`Attention::forward`]'s `rows` lie, `[rows, row_width]`.
    pub fn gather_gradient(&self, gradient: &[f32], tokens: Range<usize>, out: &mut [f32]) {
        let (width, d) = (self.gradient_width(), self.head_dim);
        let total = gradient.len() / (self.kv_heads * width);
        let queries = self.share() * d;
        for (row, token) in out.chunks_exact_mut(self.row_width()).zip(tokens) {
            for kv in 0..self.kv_heads {
                let part = &gradient[(kv * total + token) * width..][..width];
                let key = (self.heads + kv) * d;
                row[kv * queries..][..queries].copy_from_slice(&part[..queries]);
                row[key..][..d].copy_from_slice(&part[queries..][..d]);
                row[key + self.kv_heads * d..][..d].copy_from_slice(&part[queries + d..]);
            }
        }
    }

    /// Appends a row's keys and values to the caches of their heads.
    pub fn push(&self, row: &[f32], caches: &mut [HeadCache]) {
        let (keys, values) =
            row[self.heads * self.head_dim..].split_at(self.kv_heads * self.head_dim);
        let heads = keys
            .chunks_exact(self.head_dim)
            .zip(values.chunks_exact(self.head_dim));
        for (cache, (key, value)) in caches.iter_mut().zip(heads) {
            cache.push(key, value);
        }
    }

    /// One token's attention over cached keys, its own among them: a prompt's, then those after it.
    ///
    /// # Shapes
    /// `row` `[row_width]`, `mixed` `[heads·head_dim]`, each list of caches begins with the layer's `kv_heads`.
    pub fn step(
        &self,
        row: &[f32],
        caches: [&[HeadCache]; 2],
        scores: &mut Vec<f32>,
        mixed: &mut [f32],
    ) {
        let width = self.share() * self.head_dim;
        let heads = row.chunks_exact(width).zip(mixed.chunks_exact_mut(width));
        for (kv, (queries, mixed)) in heads.take(self.kv_heads).enumerate() {
            self.step_head(queries, caches.map(|caches| &caches[kv]), scores, mixed);
        }
    }

    fn step_head(
        &self,
        queries: &[f32],
        [prefix, own]: [&HeadCache; 2],
        scores: &mut Vec<f32>,
        mixed: &mut [f32],
    ) {
        let keys = prefix.len + own.len;
        scores.clear();
        scores.resize(self.share() * keys, 0.0);
        let queries = View::dense(queries, self.head_dim);
        multiply(queries, prefix.keys(), scores, keys, Start::Zero);
        multiply(
            queries,
            own.keys(),
            &mut scores[prefix.len..],
            keys,
            Start::Zero,
        );
        let visible = self.visible(keys - 1);
        for row in scores.chunks_exact_mut(keys) {
            softmax_row(row, visible.clone(), self.scale());
        }
        let weights =
            |from: usize, count: usize| View::new(&scores[from..], self.share(), count, keys);
        multiply(
            weights(0, prefix.len),
            prefix.values(),
            mixed,
            self.head_dim,
            Start::Zero,
        );
        multiply(
            weights(prefix.len, own.len),
            own.values(),
            mixed,
            self.head_dim,
            Start::Existing,
        );
    }

    fn scale(&self) -> f32 {
        (1.0 / (self.head_dim as f64).sqrt()) as f32
    }

    /// The keys that the query at a position sees.
    fn visible(&self, position: usize) -> Range<usize> {
        let first = self
            .window
            .map_or(0, |window| (position + 1).saturating_sub(window));
        first..position + 1
    }

    fn head<'a>(&self, rows: &'a [f32], tokens: &Range<usize>, head: usize) -> View<'a> {
        let stride = self.row_width();
        let data = &rows[(tokens.start * stride + head * self.head_dim).min(rows.len())..];
        View::new(data, tokens.len(), self.head_dim, stride)
    }

    fn key<'a>(&self, rows: &'a [f32], tokens: &Range<usize>, kv: usize) -> View<'a> {
        self.head(rows, tokens, self.heads + kv)
    }

    fn value<'a>(&self, rows: &'a [f32], tokens: &Range<usize>, kv: usize) -> View<'a> {
        self.head(rows, tokens, self.heads + self.kv_heads + kv)
    }
}

fn group_tokens(group: &[Segment]) -> usize {
    group.iter().map(|segment| segment.tokens.len()).sum()
}

fn blocks(length: usize) -> impl Iterator<Item = Range<usize>> {
    (0..length)
        .step_by(QUERY_ROWS)
        .map(move |start| start..(start + QUERY_ROWS).min(length))
}

vectorized! {
/// Scores to probabilities over the visible keys; all others become 0.
fn softmax_row(row: &mut [f32], visible: Range<usize>, scale: f32) -> () = softmax_row_loop
}

#[inline(always)]
fn softmax_row_loop(row: &mut [f32], visible: Range<usize>, scale: f32) {
    row[..visible.start].fill(0.0);
    row[visible.end..].fill(0.0);
    let cells = &mut row[..visible.end];
    let largest = largest(&cells[visible.start..]);
    for x in &mut cells[visible.start..] {
        *x = exp((*x - largest) * scale);
    }
    // From the first key on, hidden ones being 0, so that the order is the same wherever the window stands.
    let inverse = 1.0 / lanes_sum([&*cells]);
    for x in cells {
        *x *= inverse;
    }
}

/// A segment's keys and values of one head, and its prefix's.
struct Keys {
    prefix: [Packed; 2],
    own: [Packed; 2],
}

/// Probabilities of a block of queries, `[queries, keys]`.
struct Weights {
    cells: Vec<f32>,
    queries: usize,
    /// Keys of the segment itself that any of the queries sees.
    own: usize,
    prefix: usize,
}

impl Weights {
    fn keys(&self) -> usize {
        self.prefix + self.own
    }
}

impl Keys {
    fn new(attention: &Attention, rows: &[f32], segment: &Segment, kv: usize) -> Self {
        let pack = |tokens: &Range<usize>| {
            let key = attention.key(rows, tokens, kv).transposed();
            [
                Packed::new(key),
                Packed::new(attention.value(rows, tokens, kv)),
            ]
        };
        Self {
            prefix: pack(&segment.prefix),
            own: pack(&segment.tokens),
        }
    }

    fn weights(
        &self,
        attention: &Attention,
        rows: &[f32],
        segment: &Segment,
        head: usize,
        block: &Range<usize>,
    ) -> Weights {
        let (prefix, own) = (segment.prefix.len(), block.end);
        let keys = prefix + own;
        let tokens = segment.tokens.start + block.start..segment.tokens.start + block.end;
        let queries = attention.head(rows, &tokens, head);
        let mut cells = vec![0.0; block.len() * keys];
        multiply(
            queries,
            self.prefix[0].panels(),
            &mut cells,
            keys,
            Start::Zero,
        );
        multiply(
            queries,
            self.own[0].panels().first_columns(own),
            &mut cells[prefix..],
            keys,
            Start::Zero,
        );
        for (row, place) in cells.chunks_exact_mut(keys).zip(block.clone()) {
            softmax_row(row, attention.visible(prefix + place), attention.scale());
        }
        Weights {
            cells,
            queries: block.len(),
            own,
            prefix,
        }
    }

    fn mix(&self, weights: &Weights, out: &mut [f32], stride: usize) {
        let keys = weights.keys();
        let part = |from: usize, count: usize| {
            View::new(&weights.cells[from..], weights.queries, count, keys)
        };
        multiply(
            part(0, weights.prefix),
            self.prefix[1].panels(),
            out,
            stride,
            Start::Zero,
        );
        let values = self.own[1].panels().first_rows(weights.own);
        multiply(
            part(weights.prefix, weights.own),
            values,
            out,
            stride,
            Start::Existing,
        );
    }
}

/// One key head's share of a group's backward pass.
struct Part<'a> {
    attention: &'a Attention,
    rows: &'a [f32],
    d_mixed: &'a [f32],
    kv: usize,
    /// The group's first token.
    first: usize,
}

impl Part<'_> {
    fn segment(&self, segment: &Segment, out: &mut [f32]) {
        let attention = self.attention;
        let keys = Keys::new(attention, self.rows, segment, self.kv);
        // For the gradients, the other orientation of each.
        let turned = |tokens: &Range<usize>| {
            let value = attention.value(self.rows, tokens, self.kv).transposed();
            [
                Packed::new(attention.key(self.rows, tokens, self.kv)),
                Packed::new(value),
            ]
        };
        let turned = [turned(&segment.prefix), turned(&segment.tokens)];
        for head in 0..attention.share() {
            for block in blocks(segment.tokens.len()) {
                self.block(segment, &keys, &turned, head, &block, out);
            }
        }
    }

    fn block(
        &self,
        segment: &Segment,
        keys: &Keys,
        [prefix_turned, own_turned]: &[[Packed; 2]; 2],
        head: usize,
        block: &Range<usize>,
        out: &mut [f32],
    ) {
        let attention = self.attention;
        let (d, share, width) = (
            attention.head_dim,
            attention.share(),
            attention.gradient_width(),
        );
        let query_head = share * self.kv + head;
        let weights = keys.weights(attention, self.rows, segment, query_head, block);
        let (prefix, own, count) = (weights.prefix, weights.own, weights.keys());
        let tokens = segment.tokens.start + block.start..segment.tokens.start + block.end;
        let stride = attention.heads * d;
        let d_out = View::new(
            &self.d_mixed[tokens.start * stride + query_head * d..],
            block.len(),
            d,
            stride,
        );
        let mut d_scores = vec![0.0; block.len() * count];
        multiply(
            d_out,
            prefix_turned[1].panels(),
            &mut d_scores,
            count,
            Start::Zero,
        );
        let values = own_turned[1].panels().first_columns(own);
        multiply(d_out, values, &mut d_scores[prefix..], count, Start::Zero);
        for (d_row, row) in d_scores
            .chunks_exact_mut(count)
            .zip(weights.cells.chunks_exact(count))
        {
            softmax_row_backward(d_row, row, attention.scale());
        }
        let place = |token: usize| (token - self.first) * width;
        let part = |cells: &[f32], from: usize, keys: usize| -> Vec<f32> {
            let rows = cells.chunks_exact(count);
            rows.flat_map(|row| row[from..from + keys].iter().copied())
                .collect()
        };
        let query_gradient = &mut out[place(tokens.start) + head * d..];
        let left =
            |from: usize, keys: usize| View::new(&d_scores[from..], block.len(), keys, count);
        multiply(
            left(0, prefix),
            prefix_turned[0].panels(),
            query_gradient,
            width,
            Start::Zero,
        );
        let own_keys = own_turned[0].panels().first_rows(own);
        multiply(
            left(prefix, own),
            own_keys,
            query_gradient,
            width,
            Start::Existing,
        );
        let queries = Packed::new(attention.head(self.rows, &tokens, query_head));
        let d_out = Packed::new(d_out);
        for (from, keys, token) in [
            (0, prefix, segment.prefix.start),
            (prefix, own, segment.tokens.start),
        ] {
            if keys == 0 {
                continue;
            }
            let at = place(token) + share * d;
            let [d_part, part] = [
                part(&d_scores, from, keys),
                part(&weights.cells, from, keys),
            ];
            let turned = |cells| View::dense(cells, keys).transposed();
            multiply(
                turned(&d_part),
                queries.panels(),
                &mut out[at..],
                width,
                Start::Existing,
            );
            multiply(
                turned(&part),
                d_out.panels(),
                &mut out[at + d..],
                width,
                Start::Existing,
            );
        }
    }
}

vectorized! {
/// dS = P·(dP - Σ P·dP)·scale, in place of dP.
fn softmax_row_backward(d_row: &mut [f32], row: &[f32], scale: f32) -> () = softmax_row_backward_loop
}

#[inline(always)]
fn softmax_row_backward_loop(d_row: &mut [f32], row: &[f32], scale: f32) {
    let along = lanes_sum([&*d_row, row]);
    for (d, p) in d_row.iter_mut().zip(row) {
        *d = p * (*d - along) * scale;
    }
}

/// Keys and values of one head of one sequence, packed as they come.
#[derive(Debug, Clone)]
pub struct HeadCache {
    keys: Lines,
    values: Lines,
    head_dim: usize,
    capacity: usize,
    len: usize,
}

impl HeadCache {
    /// An empty cache with room for `capacity` tokens; it grows by itself.
    pub fn new(head_dim: usize, capacity: usize) -> Self {
        let capacity = capacity.next_multiple_of(PANEL);
        let value_panels = head_dim.div_ceil(PANEL) * PANEL;
        Self {
            keys: Lines::zeros(head_dim * capacity),
            values: Lines::zeros(value_panels * capacity),
            head_dim,
            capacity,
            len: 0,
        }
    }

    /// Forgets every token and keeps the room.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends a token's key and value.
    pub fn push(&mut self, key: &[f32], value: &[f32]) {
        if self.len == self.capacity {
            self.grow();
        }
        let at = self.len / PANEL * self.head_dim * PANEL + self.len % PANEL;
        for (cell, &x) in self.keys[at..].iter_mut().step_by(PANEL).zip(key) {
            *cell = x;
        }
        for (panel, part) in self
            .values
            .chunks_exact_mut(self.capacity * PANEL)
            .zip(value.chunks(PANEL))
        {
            panel[self.len * PANEL..][..part.len()].copy_from_slice(part);
        }
        self.len += 1;
    }

    fn grow(&mut self) {
        let capacity = (2 * self.capacity).max(PANEL);
        self.keys.grow(self.head_dim * capacity);
        let mut values = Lines::zeros(self.head_dim.div_ceil(PANEL) * PANEL * capacity);
        if self.capacity > 0 {
            let panels = self.values.chunks_exact(self.capacity * PANEL);
            for (new, old) in values.chunks_exact_mut(capacity * PANEL).zip(panels) {
                new[..old.len()].copy_from_slice(old);
            }
        }
        (self.values, self.capacity) = (values, capacity);
    }

    fn keys(&self) -> Panels<'_> {
        Panels::new(&self.keys, self.head_dim, self.len, self.head_dim * PANEL)
    }

    fn values(&self) -> Panels<'_> {
        Panels::new(&self.values, self.len, self.head_dim, self.capacity * PANEL)
    }
}
