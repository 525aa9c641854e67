//! From sequences of unequal length to tensors and back.

use burn::tensor::{Int, Tensor};
use policy::{CausalLm, HeadOptions, TokenBatch, TokenScores};

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

    /// Tokens of the response.
    pub fn response_tokens(&self) -> usize {
        self.ids.len() - self.prompt_tokens
    }
}

/// Cuts sequences, in order, into runs that hold at most `max_tokens` once padded; one sequence at least each.
pub fn micro_batches(sequences: &[Sequence], max_tokens: usize) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut longest) = (0, 0);
    for (index, sequence) in sequences.iter().enumerate() {
        let length = longest.max(sequence.ids.len());
        if index > start && (index + 1 - start) * length > max_tokens {
            ranges.push(start..index);
            (start, longest) = (index, sequence.ids.len());
        } else {
            longest = length;
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
    tokens: TokenBatch,
    /// For each response token, the flat index of the hidden state that predicts it.
    predictors: Vec<i32>,
    targets: Vec<i32>,
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
        let ids: Vec<&[u32]> = sequences
            .iter()
            .map(|sequence| sequence.ids.as_slice())
            .collect();
        let tokens = TokenBatch::right_padded(&ids, None);
        let [rows, length] = tokens.dims();
        let count: usize = sequences.iter().map(Sequence::response_tokens).sum();
        let mut predictors = Vec::with_capacity(count);
        let mut targets = Vec::with_capacity(count);
        let mut cells = vec![count as i32; rows * response_len];
        for (row, sequence) in sequences.iter().enumerate() {
            assert!(
                sequence.response_tokens() <= response_len,
                "a response exceeds its row"
            );
            for place in sequence.prompt_tokens..sequence.ids.len() {
                cells[row * response_len + place - sequence.prompt_tokens] = targets.len() as i32;
                predictors.push((row * length + place - 1) as i32);
                targets.push(sequence.ids[place] as i32);
            }
        }
        let mask = cells
            .iter()
            .map(|&cell| f32::from(u8::from(cell < count as i32)))
            .collect();
        Self {
            tokens,
            predictors,
            targets,
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
        let hidden = model.hidden_states(&self.tokens, None);
        let [rows, length, width] = hidden.dims();
        let device = hidden.device();
        let predictors = Tensor::<1, Int>::from_data(self.predictors.as_slice(), &device);
        hidden.reshape([rows * length, width]).select(0, predictors)
    }

    /// Figures of every response token from the hidden states of [`Collated::hidden`].
    pub fn score_hidden(
        &self,
        model: &CausalLm,
        hidden: Tensor<2>,
        options: HeadOptions,
    ) -> TokenScores {
        let device = hidden.device();
        let targets = Tensor::<1, Int>::from_data(self.targets.as_slice(), &device);
        model.score_tokens(hidden, targets, options)
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
        assert_eq!(micro_batches(&sequences, 12), vec![0..2, 2..3, 3..4]);
        assert_eq!(micro_batches(&sequences, 1), vec![0..1, 1..2, 2..3, 3..4]);
        assert_eq!(micro_batches(&sequences, 1000), vec![0..4]);
        assert!(micro_batches(&[], 8).is_empty());
    }

    #[test]
    fn cells_lie_at_the_left_of_their_rows() {
        let collated = Collated::new(&[sequence(2, 1), sequence(1, 3)], 4);
        assert_eq!(collated.mask(), [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]);
        // Rows are 4 long: token 2 of row 0 is predicted at 1; tokens 1 to 3 of row 1 at 4, 5, 6.
        assert_eq!(collated.predictors, [1, 4, 5, 6]);
        let flat = Tensor::<1>::from_data([1.0, 2.0, 3.0, 4.0], &burn::tensor::Device::flex());
        let spread = collated.spread(flat).try_into_vec_as::<f32>().unwrap();
        assert_eq!(spread, [1.0, 0.0, 0.0, 0.0, 2.0, 3.0, 4.0, 0.0]);
    }
}
