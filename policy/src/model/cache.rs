//! The key-value cache of batched decoding.

use burn::tensor::{DType, Device, Int, Tensor};

use super::{operations::Operations, rope::PADDING_POSITION};
use crate::ModelConfig;

/// Keys and values of the tokens so far: `rows` sequences, each in a row of `capacity` slots.
///
/// A token lies in the slot of its position, whatever the other rows hold, so a row may be replaced
/// at any time and a row's results do not depend on its neighbours.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    /// Position of the token in each slot, `[rows, capacity]`; [`PADDING_POSITION`] in empty ones.
    positions: Tensor<2, Int>,
    operations: Operations,
}

impl KvCache {
    /// An empty cache.
    ///
    /// # Shapes
    /// Per layer, keys and values are `[rows, num_key_value_heads, capacity, head_dim]`.
    pub fn new(
        config: &ModelConfig,
        rows: usize,
        capacity: usize,
        dtype: DType,
        device: &Device,
    ) -> Self {
        let shape = [
            rows * config.num_key_value_heads * capacity,
            config.head_dim,
        ];
        let operations = Operations::of(device);
        let layer = |_| LayerCache {
            operations,
            shape: [rows, config.num_key_value_heads, capacity, config.head_dim],
            keys: Some(Tensor::zeros(shape, (device, dtype))),
            values: Some(Tensor::zeros(shape, (device, dtype))),
            slots: None,
            is_fresh: true,
        };
        Self {
            layers: (0..config.num_hidden_layers).map(layer).collect(),
            positions: Tensor::full([rows, capacity], PADDING_POSITION, (device, DType::I32)),
            operations,
        }
    }

    /// Number of rows and of slots in a row.
    pub fn dims(&self) -> [usize; 2] {
        self.positions.dims()
    }

    /// Gives back the key positions, `[rows, capacity]`.
    pub fn positions(&self) -> Tensor<2, Int> {
        self.positions.clone()
    }

    pub(super) fn layer(&mut self, index: usize) -> &mut LayerCache {
        &mut self.layers[index]
    }

    /// Announces where the next tokens go: token j of row i into slot `positions[i][j]`.
    ///
    /// `positions` is row-major over `[rows, length]`; a token of padding goes to the row's last slot, which
    /// no sequence reaches and which stays hidden.
    pub(super) fn announce(&mut self, positions: &[i32], length: usize) {
        let [rows, capacity] = self.dims();
        assert_eq!(
            positions.len(),
            rows * length,
            "positions are not [rows, length]"
        );
        let slot = |position: i32| (position as usize).min(capacity - 1);
        self.mark(positions, length, slot);
        let groups = self.layers[0].shape[1];
        let mut slots = Vec::with_capacity(rows * groups * length);
        for row in 0..rows {
            for group in 0..groups {
                for &position in &positions[row * length..(row + 1) * length] {
                    slots.push(((row * groups + group) * capacity + slot(position)) as i32);
                }
            }
        }
        let device = self.positions.device();
        let slots = Tensor::<1, Int>::from_data(slots.as_slice(), (&device, DType::I32));
        for layer in &mut self.layers {
            layer.slots = Some(slots.clone());
        }
    }

    /// Announces `steps` tokens of every row, from `positions` on, which the layers then write themselves; their positions
    /// step by step. Rows at padding stay there.
    pub(super) fn occupy(&mut self, positions: &[i32], steps: usize) -> Vec<i32> {
        let [rows, capacity] = self.dims();
        assert_eq!(positions.len(), rows, "one position for each row");
        let at = |&position: &i32, step: usize| match position {
            PADDING_POSITION => position,
            _ => position + step as i32,
        };
        let own = positions.iter();
        let of_rows = own.flat_map(|position| (0..steps).map(move |step| at(position, step)));
        let slot = |position: i32| (position as usize).min(capacity - 1);
        self.mark(&of_rows.collect::<Vec<_>>(), steps, slot);
        let of_steps = (0..steps).flat_map(|step| positions.iter().map(move |p| at(p, step)));
        of_steps.collect()
    }

    fn mark(&mut self, positions: &[i32], length: usize, slot: impl Fn(i32) -> usize) {
        let [rows, capacity] = self.dims();
        let device = self.positions.device();
        let at = (0..rows * length)
            .map(|i| (i / length * capacity + slot(positions[i])) as i32)
            .collect::<Vec<_>>();
        let at = Tensor::<1, Int>::from_data(at.as_slice(), (&device, DType::I32));
        let values = Tensor::<1, Int>::from_data(positions, (&device, DType::I32));
        let flat = self.positions.clone().reshape([rows * capacity, 1]);
        let values = values.reshape([rows * length, 1]);
        let flat = self.operations.write_int_rows(flat, at, values);
        self.positions = flat.reshape([rows, capacity]);
    }

    /// Puts row `sources[i]` of `other` into row `targets[i]` of this cache; slots beyond `other`'s are emptied.
    ///
    /// # Panics
    /// If `other` has more slots than this cache, or the lists differ in length.
    pub fn adopt(&mut self, other: &Self, sources: &[usize], targets: &[usize]) {
        assert_eq!(sources.len(), targets.len(), "one source for each target");
        let device = self.positions.device();
        let pick = index_tensor(sources, &device);
        let [_, capacity] = self.dims();
        let [_, filled] = other.dims();
        assert!(
            filled <= capacity,
            "cannot adopt {filled} slots into {capacity}"
        );
        let tail = Tensor::full(
            [sources.len(), capacity - filled],
            PADDING_POSITION,
            (&device, DType::I32),
        );
        let rows = Tensor::cat(vec![other.positions().select(0, pick), tail], 1);
        let put = index_tensor(targets, &device);
        self.positions = self
            .operations
            .write_int_rows(self.positions.clone(), put, rows);
        for (layer, source) in self.layers.iter_mut().zip(&other.layers) {
            layer.adopt(source, sources, targets);
        }
    }
}

fn index_tensor(indices: &[usize], device: &Device) -> Tensor<1, Int> {
    let indices = indices.iter().map(|&i| i as i32).collect::<Vec<_>>();
    Tensor::from_data(indices.as_slice(), (device, DType::I32))
}

/// One layer's keys and values, stored flat as `[rows · heads · capacity, head_dim]` so that slots are rows.
///
/// The tensors are options so that an update can own them: backends write in place where they hold the only handle.
#[derive(Debug, Clone)]
pub(super) struct LayerCache {
    operations: Operations,
    shape: [usize; 4],
    keys: Option<Tensor<2>>,
    values: Option<Tensor<2>>,
    slots: Option<Tensor<1, Int>>,
    /// Whether nothing has been written yet.
    is_fresh: bool,
}

impl LayerCache {
    /// Whether nothing has been written yet: then tokens see those alone that come with them.
    pub(super) fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Writes new keys and values to the announced slots and gives back all of the cache's.
    ///
    /// # Shapes
    /// `[rows, heads, length, head_dim]` in, `[rows, heads, capacity, head_dim]` out.
    pub(super) fn update(&mut self, key: Tensor<4>, value: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        self.is_fresh = false;
        let slots = self
            .slots
            .clone()
            .expect("slots are announced before the layers run");
        let keys = write(self.operations, self.keys.take(), slots.clone(), key);
        let values = write(self.operations, self.values.take(), slots, value);
        let views = (
            keys.clone().reshape(self.shape),
            values.clone().reshape(self.shape),
        );
        (self.keys, self.values) = (Some(keys), Some(values));
        views
    }

    /// Hands keys and values `[rows, heads, capacity, head_dim]` to what writes to them and gives them back with a result.
    #[cfg(feature = "cube")]
    pub(super) fn change<T>(
        &mut self,
        write: impl FnOnce([Tensor<4>; 2]) -> (T, [Tensor<4>; 2]),
    ) -> (T, [Tensor<4>; 2]) {
        self.is_fresh = false;
        let kept = [self.keys.take(), self.values.take()];
        let kept = kept.map(|kept| {
            let kept = kept.expect("a layer's cache is whole between updates");
            kept.reshape(self.shape)
        });
        let (result, kept) = write(kept);
        let [rows, heads, capacity, head_dim] = self.shape;
        let flat = |kept: &Tensor<4>| {
            let kept = kept.clone();
            Some(kept.reshape([rows * heads * capacity, head_dim]))
        };
        (self.keys, self.values) = (flat(&kept[0]), flat(&kept[1]));
        (result, kept)
    }

    fn adopt(&mut self, other: &Self, sources: &[usize], targets: &[usize]) {
        self.is_fresh = false;
        let [_, heads, capacity, _] = self.shape;
        let [_, _, filled, _] = other.shape;
        let slots = |rows: &[usize], stride: usize| {
            let row =
                |&row: &usize| (row * heads * stride..(row + 1) * heads * stride).step_by(stride);
            rows.iter()
                .flat_map(row)
                .flat_map(|start| start..start + filled)
                .collect::<Vec<_>>()
        };
        let Some(device) = self.keys.as_ref().map(Tensor::device) else {
            return;
        };
        let from = index_tensor(&slots(sources, filled), &device);
        let to = index_tensor(&slots(targets, capacity), &device);
        let operations = self.operations;
        let copy = |target: Option<Tensor<2>>, source: &Option<Tensor<2>>| {
            let picked = source.clone()?.select(0, from.clone());
            Some(operations.write_rows(target?, to.clone(), picked))
        };
        self.keys = copy(self.keys.take(), &other.keys);
        self.values = copy(self.values.take(), &other.values);
    }
}

fn write(
    operations: Operations,
    cache: Option<Tensor<2>>,
    slots: Tensor<1, Int>,
    new: Tensor<4>,
) -> Tensor<2> {
    let [rows, heads, length, head_dim] = new.dims();
    let new = new.reshape([rows * heads * length, head_dim]);
    let cache = cache.expect("a layer's cache is whole between updates");
    operations.write_rows(cache, slots, new)
}
