//! Sequences laid end to end, without padding and with each common prompt once.

use std::ops::Range;

use kernels::Segment;

use super::super::TokenBatch;

/// Prompts with their responses as one pass computes them.
///
/// Neighbouring sequences with the same prompt share its tokens: in a causal model a prompt's hidden states do not
/// depend on what follows it. A response's last token predicts nothing that is scored and is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedTokens {
    ids: Vec<u32>,
    positions: Vec<i32>,
    segments: Vec<Segment>,
    /// Runs of segments that share a prompt.
    groups: Vec<Range<usize>>,
    /// For each response token, the packed token that predicts it.
    predictors: Vec<i32>,
    targets: Vec<u32>,
    /// Each sequence whole, with the number of its prompt's tokens: what rows of padding are made of.
    sequences: Vec<(Vec<u32>, usize)>,
}

/// Of this the lengths of padded rows are multiples: kernels read as many keys at once.
const LENGTHS: usize = 8;

impl PackedTokens {
    /// Packs sequences, each a prompt and its response.
    ///
    /// # Panics
    /// If a prompt is empty: nothing would predict the first response token.
    pub fn new<'a>(sequences: impl IntoIterator<Item = (&'a [u32], &'a [u32])>) -> Self {
        let mut packed = Self {
            ids: Vec::new(),
            positions: Vec::new(),
            segments: Vec::new(),
            groups: Vec::new(),
            predictors: Vec::new(),
            targets: Vec::new(),
            sequences: Vec::new(),
        };
        let mut last: Option<(&[u32], Range<usize>)> = None;
        for (prompt, response) in sequences {
            assert!(!prompt.is_empty(), "a prompt has at least one token");
            let tokens = match &last {
                Some((shared, tokens)) if *shared == prompt => tokens.clone(),
                _ => {
                    packed
                        .groups
                        .push(packed.segments.len()..packed.segments.len());
                    packed.push(prompt, 0..0)
                }
            };
            packed.respond(response, &tokens);
            packed
                .sequences
                .push(([prompt, response].concat(), prompt.len()));
            last = Some((prompt, tokens));
        }
        packed
    }

    /// Tokens that a pass over such sequences computes.
    pub fn count<'a>(sequences: impl IntoIterator<Item = (&'a [u32], usize)>) -> usize {
        let mut last: Option<&[u32]> = None;
        let mut count = 0;
        for (prompt, response_tokens) in sequences {
            if last != Some(prompt) {
                count += prompt.len();
            }
            count += response_tokens.saturating_sub(1);
            last = Some(prompt);
        }
        count
    }

    fn respond(&mut self, response: &[u32], prompt: &Range<usize>) {
        let Some((_, fed)) = response.split_last() else {
            return;
        };
        let tokens = self.push(fed, prompt.clone());
        self.predictors.push(prompt.end as i32 - 1);
        self.predictors.extend(tokens.map(|token| token as i32));
        self.targets.extend(response);
    }

    fn push(&mut self, ids: &[u32], prefix: Range<usize>) -> Range<usize> {
        let tokens = self.ids.len()..self.ids.len() + ids.len();
        if ids.is_empty() {
            return tokens;
        }
        let positions = prefix.len()..prefix.len() + ids.len();
        self.ids.extend(ids);
        self.positions
            .extend(positions.map(|position| position as i32));
        self.segments.push(Segment {
            tokens: tokens.clone(),
            prefix,
        });
        if let Some(group) = self.groups.last_mut() {
            group.end = self.segments.len();
        }
        tokens
    }

    /// Token ids, prompts before their responses.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Each token's position in its sequence.
    pub fn positions(&self) -> &[i32] {
        &self.positions
    }

    /// For each response token, in the sequences' order, the packed token whose hidden state predicts it.
    pub fn predictors(&self) -> &[i32] {
        &self.predictors
    }

    /// The response tokens, in the sequences' order.
    pub fn targets(&self) -> &[u32] {
        &self.targets
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &[Segment]> {
        self.groups
            .iter()
            .map(|group| &self.segments[group.clone()])
    }

    /// Tokens of each row where sequences are padded to the longest of them.
    pub fn padded_length(longest: usize) -> usize {
        longest.max(1).next_multiple_of(LENGTHS)
    }

    /// The same sequences as padded rows, with the flat index of each response token's predictor.
    pub(crate) fn padded(&self) -> (TokenBatch, Vec<i32>) {
        let rows: Vec<&[u32]> = self
            .sequences
            .iter()
            .map(|(ids, _)| ids.as_slice())
            .collect();
        let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let batch = TokenBatch::right_padded(&rows, Some(Self::padded_length(longest)));
        let [_, length] = batch.dims();
        let mut predictors = Vec::with_capacity(self.targets.len());
        for (row, (ids, prompt)) in self.sequences.iter().enumerate() {
            predictors.extend((*prompt..ids.len()).map(|place| (row * length + place - 1) as i32));
        }
        (batch, predictors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_their_prompt_and_last_tokens_are_left_out() {
        let (a, b) = ([1, 2, 3], [4]);
        let packed = PackedTokens::new([
            (&a[..], &[10, 11][..]),
            (&a[..], &[12][..]),
            (&b[..], &[][..]),
            (&b[..], &[13, 14, 15][..]),
        ]);
        assert_eq!(packed.ids(), [1, 2, 3, 10, 4, 13, 14]);
        assert_eq!(packed.positions(), [0, 1, 2, 3, 0, 1, 2]);
        assert_eq!(packed.predictors(), [2, 3, 2, 4, 5, 6]);
        assert_eq!(packed.targets(), [10, 11, 12, 13, 14, 15]);
        let groups: Vec<usize> = packed.groups().map(<[Segment]>::len).collect();
        assert_eq!(groups, [2, 2]);
        let counted = [(&a[..], 2), (&a[..], 1), (&b[..], 0), (&b[..], 3)];
        assert_eq!(PackedTokens::count(counted), packed.ids().len());
        let (rows, predictors) = packed.padded();
        assert_eq!(rows.dims(), [4, 8]);
        assert_eq!(predictors, [2, 3, 10, 24, 25, 26]);
    }
}
