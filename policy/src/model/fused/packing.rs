//! Sequences laid end to end, without padding and with each common prompt once.

use std::ops::Range;

use kernels::Segment;

use super::super::{TokenBatch, rows::RowLayout};

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
    /// Of each sequence its prompt's packed tokens and its response's.
    sequences: Vec<[Range<usize>; 2]>,
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
            let fed = packed.respond(response, &tokens);
            packed.sequences.push([tokens.clone(), fed]);
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

    fn respond(&mut self, response: &[u32], prompt: &Range<usize>) -> Range<usize> {
        let Some((_, fed)) = response.split_last() else {
            return 0..0;
        };
        let tokens = self.push(fed, prompt.clone());
        self.predictors.push(prompt.end as i32 - 1);
        self.predictors
            .extend(tokens.clone().map(|token| token as i32));
        self.targets.extend(response);
        tokens
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

    /// The packed tokens as one row, filled up to a number that products are fast with.
    pub(crate) fn batch(&self) -> TokenBatch {
        let filled = self.filled();
        let (mut ids, mut positions) = (self.ids.clone(), self.positions.clone());
        ids.resize(filled, 0);
        positions.resize(filled, 0);
        TokenBatch::one_row(&ids, &positions)
    }

    fn filled(&self) -> usize {
        const MANY: usize = 1024;
        let count = self.ids.len().max(1);
        let multiple = if count < MANY { LENGTHS } else { 128 };
        count.next_multiple_of(multiple)
    }

    /// Where they lie in rows of one length.
    pub(in crate::model) fn rows(&self) -> RowLayout {
        let of = |[prompt, response]: &[Range<usize>; 2]| {
            let tokens = prompt.clone().chain(response.clone());
            tokens.collect::<Vec<_>>()
        };
        let rows: Vec<Vec<usize>> = self.sequences.iter().map(of).collect();
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        RowLayout::new(&rows, Self::padded_length(longest), self.filled())
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
        assert_eq!(packed.batch().dims(), [1, 8]);
        let rows = [vec![0, 1, 2, 3], vec![0, 1, 2], vec![4], vec![4, 5, 6]];
        assert_eq!(packed.rows(), RowLayout::new(&rows, 8, 8));
    }
}
