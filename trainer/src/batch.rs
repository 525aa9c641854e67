//! From sequences of unequal length to tensors and back.

use burn::tensor::{DType, Int, Tensor};
use policy::{BlockInputs, CausalLm, HeadOptions, PackedTokens, TokenScores};

/// A sequence whose response is scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    /// The prompt and the response after it.
    pub ids: Vec<u32>,
    /// Tokens of the prompt; at least one.
    pub prompt_tokens: usize,
}

impl Sequence {
    /// Joins a prompt and its response.
    ///
    /// # Panics
    /// If the prompt is empty: nothing would predict the first response token.
    pub fn new(prompt: &[u32], response: &[u32]) -> Self {
        assert!(!prompt.is_empty(), "a prompt has at least one token");
        Self {
            ids: [prompt, response].concat(),
            prompt_tokens: prompt.len(),
        }
    }

    /// The prompt and the response.
    pub fn parts(&self) -> (&[u32], &[u32]) {
        self.ids.split_at(self.prompt_tokens)
    }

    /// Tokens of the response.
    pub fn response_tokens(&self) -> usize {
        self.ids.len() - self.prompt_tokens
    }
}

/// How many tokens go through the model at once, and how they are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBudget {
    /// The most tokens of a pass.
    pub tokens: usize,
    /// Whether tokens are counted as they are laid end to end, neighbours sharing their prompt, rather than in the rows of one
    /// length that attention makes of them on devices.
    pub is_packed: bool,
}

/// What a run of sequences holds.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    packed: usize,
    rows: usize,
    longest: usize,
}

impl TokenBudget {
    /// Tokens of a pass over these sequences, as the budget counts them.
    pub(crate) fn count(self, sequences: &[Sequence]) -> usize {
        let mut count = Count::default();
        for (index, sequence) in sequences.iter().enumerate() {
            count = count.and(
                sequence,
                index > 0 && shares_prompt(&sequences[index - 1], sequence),
            );
        }
        count.tokens(self)
    }
}

fn shares_prompt(before: &Sequence, sequence: &Sequence) -> bool {
    before.parts().0 == sequence.parts().0
}

impl Count {
    fn and(self, sequence: &Sequence, shares_prompt: bool) -> Self {
        let prompt = if shares_prompt {
            0
        } else {
            sequence.prompt_tokens
        };
        Self {
            packed: self.packed + prompt + sequence.response_tokens(),
            rows: self.rows + 1,
            longest: self.longest.max(sequence.ids.len()),
        }
    }

    fn tokens(self, budget: TokenBudget) -> usize {
        if budget.is_packed {
            self.packed
        } else {
            self.rows * PackedTokens::padded_length(self.longest)
        }
    }
}

/// Cuts sequences, in order, into runs that fit the budget; one sequence at least each.
pub fn micro_batches(sequences: &[Sequence], budget: TokenBudget) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut count) = (0, Count::default());
    for (index, sequence) in sequences.iter().enumerate() {
        let is_first = index == start;
        let shares = !is_first && shares_prompt(&sequences[index - 1], sequence);
        let grown = count.and(sequence, shares);
        if is_first || grown.tokens(budget) <= budget.tokens {
            count = grown;
        } else {
            ranges.push(start..index);
            (start, count) = (index, Count::default().and(sequence, false));
        }
    }
    if start < sequences.len() {
        ranges.push(start..sequences.len());
    }
    ranges
}

/// Sequences laid out for one pass: where each response token is predicted, and where its figures go.
#[derive(Debug, Clone)]
pub struct Collated {
    tokens: PackedTokens,
    /// For each cell of `[rows, response_len]`, the response token's number, or one past the last for padding.
    cells: Vec<i32>,
    mask: Vec<f32>,
    rows: usize,
    response_len: usize,
}

impl Collated {
    /// Lays out sequences, responses aligned to the left of `[rows, response_len]`.
    ///
    /// # Panics
    /// If a response is longer than `response_len`.
    pub fn new(sequences: &[Sequence], response_len: usize) -> Self {
        let rows = sequences.len();
        let count: usize = sequences.iter().map(Sequence::response_tokens).sum();
        let mut cells = vec![count as i32; rows * response_len];
        let mut next = 0..count as i32;
        for (cells, sequence) in cells.chunks_mut(response_len).zip(sequences) {
            let tokens = sequence.response_tokens();
            assert!(tokens <= response_len, "a response exceeds its row");
            for (cell, number) in cells.iter_mut().zip(next.by_ref().take(tokens)) {
                *cell = number;
            }
        }
        let mask = cells
            .iter()
            .map(|&cell| f32::from(u8::from(cell < count as i32)))
            .collect();
        Self {
            tokens: PackedTokens::new(sequences.iter().map(Sequence::parts)),
            cells,
            mask,
            rows,
            response_len,
        }
    }

    /// 1 for a response token and 0 for padding, row-major `[rows, response_len]`.
    pub fn mask(&self) -> &[f32] {
        &self.mask
    }

    /// One pass: figures of every response token, flat in row order.
    pub fn score(&self, model: &CausalLm, options: HeadOptions) -> TokenScores {
        self.score_hidden(model, self.hidden(model), options)
    }

    /// The hidden states that predict the response tokens, flat in row order: `[tokens, hidden_size]`.
    pub fn hidden(&self, model: &CausalLm) -> Tensor<2> {
        model.response_states(&self.tokens)
    }

    /// The same, with what it takes to compute each block but the last `kept` again in the backward pass.
    pub(crate) fn hidden_of_blocks(
        &self,
        model: &CausalLm,
        dtype: DType,
        kept: usize,
    ) -> (Tensor<2>, BlockInputs) {
        model.block_states(&self.tokens, dtype, kept)
    }

    /// Figures of every response token from the hidden states of [`Collated::hidden`].
    pub fn score_hidden(
        &self,
        model: &CausalLm,
        hidden: Tensor<2>,
        options: HeadOptions,
    ) -> TokenScores {
        model.score_tokens(hidden, self.tokens.targets(), options)
    }

    /// Puts flat figures of response tokens into `[rows, response_len]`, zero at padding.
    pub fn spread(&self, flat: Tensor<1>) -> Tensor<2> {
        let device = flat.device();
        let cells = Tensor::<1, Int>::from_data(self.cells.as_slice(), &device);
        let zero = Tensor::zeros([1], (&device, flat.dtype()));
        let padded = Tensor::cat(vec![flat, zero], 0);
        padded
            .select(0, cells)
            .reshape([self.rows, self.response_len])
    }
}

/// The width of a batch of responses; at least one.
pub(crate) fn longest_response(sequences: &[Sequence]) -> usize {
    sequences
        .iter()
        .map(Sequence::response_tokens)
        .max()
        .unwrap_or(0)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(prompt: usize, response: usize) -> Sequence {
        Sequence::new(&vec![1; prompt], &vec![2; response])
    }

    #[test]
    fn micro_batches_keep_order_and_budget() {
        let sequences = [
            sequence(2, 2),
            sequence(2, 4),
            sequence(1, 1),
            sequence(5, 9),
        ];
        let packed = |tokens| {
            let is_packed = true;
            micro_batches(&sequences, TokenBudget { tokens, is_packed })
        };
        // The second shares the first one's prompt: 4 + 4 tokens.
        assert_eq!(packed(8), vec![0..2, 2..3, 3..4]);
        assert_eq!(packed(1), vec![0..1, 1..2, 2..3, 3..4]);
        assert_eq!(packed(1000), vec![0..4]);
        // Rows of 4 and 6 tokens, padded to 8, are 16; with the third, of 2, they are 24; with the last, of 14, they are 64.
        let padded = |tokens| {
            let is_packed = false;
            micro_batches(&sequences, TokenBudget { tokens, is_packed })
        };
        assert_eq!(padded(15), vec![0..1, 1..2, 2..3, 3..4]);
        assert_eq!(padded(16), vec![0..2, 2..3, 3..4]);
        assert_eq!(padded(24), vec![0..3, 3..4]);
        assert_eq!(padded(64), vec![0..4]);
        let budget = TokenBudget {
            tokens: 8,
            is_packed: true,
        };
        assert!(micro_batches(&[], budget).is_empty());
    }

    #[test]
    fn cells_lie_at_the_left_of_their_rows() {
        let collated = Collated::new(&[sequence(2, 1), sequence(1, 3)], 4);
        assert_eq!(collated.mask(), [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]);
        let flat = Tensor::<1>::from_data([1.0, 2.0, 3.0, 4.0], &burn::tensor::Device::flex());
        let spread = collated.spread(flat).try_into_vec_as::<f32>().unwrap();
        assert_eq!(spread, [1.0, 0.0, 0.0, 0.0, 2.0, 3.0, 4.0, 0.0]);
    }
}
