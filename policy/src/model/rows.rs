//! Tokens laid end to end, as all of a block takes them but attention, and rows of one length, as attention does.

use burn::tensor::{DType, Device, Int, Tensor};

use super::rope::PADDING_POSITION;

/// Rows to pick of a matrix, and whose gradients each of them gets.
#[derive(Debug, Clone)]
#[cfg_attr(
    not(feature = "cube"),
    expect(dead_code, reason = "burn's own selection needs the rows alone")
)]
pub struct Picks {
    /// The rows picked, `[picks]`.
    pub(super) rows: Tensor<1, Int>,
    /// The picks by their rows, of those that count: those of row r are `order[starts[r]..starts[r + 1]]`.
    pub(super) order: Tensor<1, Int>,
    pub(super) starts: Tensor<1, Int>,
}

impl Picks {
    /// Rows `picks` of `rows`. Of picks that are not `counted`, the gradient is known to be 0.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn new(
        picks: &[i32],
        rows: usize,
        counted: impl Fn(usize) -> bool,
        device: &Device,
    ) -> Self {
        let last = picks.iter().max().copied().unwrap_or(0);
        assert!((last as usize) < rows, "no row {last} of {rows}");
        let on_device =
            |numbers: &[i32]| Tensor::<1, Int>::from_data(numbers, (device, DType::I32));
        let [order, starts] = if cfg!(feature = "cube") && device.is_autodiff() {
            by_row(picks, rows, counted)
        } else {
            // There is no way back, or burn's own selection finds it.
            [vec![0], vec![0]]
        };
        Self {
            rows: on_device(picks),
            order: on_device(&order),
            starts: on_device(&starts),
        }
    }
}

/// The picks that are counted by their rows, and where each row's begin.
fn by_row(picks: &[i32], rows: usize, counted: impl Fn(usize) -> bool) -> [Vec<i32>; 2] {
    let own = |&(at, _): &(usize, &i32)| counted(at);
    let mut starts = vec![0; rows + 1];
    for (_, &pick) in picks.iter().enumerate().filter(own) {
        starts[pick as usize + 1] += 1;
    }
    for row in 0..rows {
        starts[row + 1] += starts[row];
    }
    let mut next = starts.clone();
    let mut order = vec![0; picks.len()];
    for (at, &pick) in picks.iter().enumerate().filter(own) {
        let place = &mut next[pick as usize];
        order[*place as usize] = at as i32;
        *place += 1;
    }
    [order, starts]
}

/// Where tokens laid end to end lie in rows, a sequence each. A prompt's tokens may lie in several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RowLayout {
    length: usize,
    tokens: usize,
    /// For each cell of the rows its token, 0 where there is none.
    cells: Vec<i32>,
    /// For each cell its token's position, [`PADDING_POSITION`] where there is none.
    positions: Vec<i32>,
    /// For each token the first cell that has it, [`NOWHERE`] for what only fills the tokens up.
    first: Vec<i32>,
}

const NOWHERE: i32 = -1;

impl RowLayout {
    /// Rows of `length` with the tokens of each sequence, of `tokens` in all.
    ///
    /// # Panics
    /// If a sequence is longer than its row.
    pub(super) fn new(rows: &[Vec<usize>], length: usize, tokens: usize) -> Self {
        let mut cells = vec![0; rows.len() * length];
        let mut positions = vec![PADDING_POSITION; rows.len() * length];
        let mut first = vec![None; tokens];
        for (row, sequence) in rows.iter().enumerate() {
            assert!(sequence.len() <= length, "a sequence exceeds its row");
            for (position, &token) in sequence.iter().enumerate() {
                let cell = row * length + position;
                cells[cell] = token as i32;
                positions[cell] = position as i32;
                first[token].get_or_insert(cell as i32);
            }
        }
        let first = first.into_iter().map(|cell| cell.unwrap_or(NOWHERE));
        Self {
            length,
            tokens,
            cells,
            positions,
            first: first.collect(),
        }
    }

    pub(super) fn on(&self, device: &Device) -> Rows {
        let count = self.cells.len() / self.length;
        let positions =
            Tensor::<1, Int>::from_data(self.positions.as_slice(), (device, DType::I32));
        let from: Vec<i32> = self.first.iter().map(|&cell| cell.max(0)).collect();
        // Padding is a key that nothing sees, and a query whose result is not picked.
        let is_token = |cell: usize| self.positions[cell] != PADDING_POSITION;
        Rows {
            count,
            length: self.length,
            positions: positions.reshape([count, self.length]),
            cells: Picks::new(&self.cells, self.tokens, is_token, device),
            tokens: Picks::new(
                &from,
                self.cells.len(),
                |token| self.first[token] != NOWHERE,
                device,
            ),
        }
    }
}

/// A [`RowLayout`] on a device.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub(super) count: usize,
    pub(super) length: usize,
    /// Of each cell, `[count, length]`.
    pub(super) positions: Tensor<2, Int>,
    /// From tokens to the cells of the rows.
    pub(super) cells: Picks,
    /// From the cells back to the tokens.
    pub(super) tokens: Picks,
}
