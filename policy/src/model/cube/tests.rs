//! The kernels against plain arithmetic on the host, on the device that `ANNEAL_DEVICE` names; on the CPU, which has no
//! such kernels, there is nothing to test.

use burn::tensor::{DType, Device, Int, Tensor};

use crate::{
    DRAWN, EntropyPass, HeadOptions, Truncation,
    model::{operations::Operations, rope::Visibility, rows::Picks},
    open_device,
};

fn device() -> Option<Device> {
    let name = std::env::var("ANNEAL_DEVICE").ok()?;
    let device = open_device(&name).unwrap_or_else(|error| panic!("{error}"));
    super::runs_on(&device).then_some(device)
}

/// Numbers of [0, 1) that look random.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 16_777_216.0
    };
    (0..count).map(|_| next()).collect()
}

/// A row's ids that are kept, by sorting all of it, and their weights; and whether another rounding would keep others.
fn kept(logits: &[f32], truncation: Truncation) -> (Vec<(usize, f64)>, bool) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |&logit: &f32| f64::from(((logit - largest) / truncation.temperature).exp());
    let mut all: Vec<(usize, f64)> = logits.iter().map(weight).enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if truncation.top_k > 0 {
        all.truncate(truncation.top_k as usize);
    }
    let total = all.iter().map(|(_, weight)| weight).sum::<f64>();
    let target = f64::from(truncation.top_p) * total;
    let min_p = f64::from(truncation.min_p);
    let mut is_close = all
        .iter()
        .any(|(_, w)| min_p > 0.0 && (w - min_p).abs() < 1e-5);
    if truncation.top_p < 1.0 {
        let mut sum = 0.0;
        let mut count = 0;
        while sum < target && count < all.len() {
            sum += all[count].1;
            count += 1;
            is_close |= (sum - target).abs() < 1e-5 * total;
        }
        all.truncate(count.max(1));
    }
    all.retain(|(_, weight)| *weight >= min_p);
    all.sort_by_key(|(id, _)| *id);
    (all, is_close)
}

/// Rows of logits that are drawn from.
const ROWS: usize = 24;

#[test]
fn tokens_are_drawn_as_sorting_the_whole_vocabulary_would_draw_them() {
    let Some(device) = device() else { return };
    let plain = Truncation {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
    };
    let truncations = [
        plain,
        Truncation {
            temperature: 0.6,
            ..plain
        },
        Truncation { top_k: 1, ..plain },
        Truncation { top_k: 40, ..plain },
        Truncation {
            top_p: 0.9,
            ..plain
        },
        Truncation {
            top_p: 1e-6,
            ..plain
        },
        Truncation {
            min_p: 0.2,
            ..plain
        },
        Truncation {
            temperature: 1.5,
            top_k: 50,
            top_p: 0.7,
            min_p: 0.05,
        },
    ];
    let (mut drawn_rows, mut close_rows) = (0, 0);
    for vocab in [3, 255, 257, 3000] {
        // Rounded, so that many logits are equal.
        let cells = noise(ROWS * vocab, vocab as u64);
        let logits: Vec<f32> = cells.iter().map(|x| (x * 48.0).round() / 8.0).collect();
        for truncation in truncations {
            let uniforms = noise(ROWS, 9);
            let tensor = Tensor::<1>::from_data(logits.as_slice(), (&device, DType::F32));
            let (drawn, ids) = draw(&tensor.reshape([ROWS, vocab]), &uniforms, truncation);
            for row in 0..ROWS {
                let logits = &logits[row * vocab..(row + 1) * vocab];
                let (kept, is_close) = kept(logits, truncation);
                drawn_rows += 1;
                if is_close {
                    close_rows += 1;
                    continue;
                }
                let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
                let id = ids[row] as usize;
                let before: f64 = kept.iter().filter(|k| k.0 < id).map(|k| k.1).sum();
                let own = kept.iter().find(|k| k.0 == id);
                let what = format!("{vocab} ids, {truncation:?}, row {row}");
                let own = own.unwrap_or_else(|| panic!("{what}: {id} is not among the kept"));
                // Where the uniform number falls, to the rounding of f32 sums.
                let target = total * f64::from(uniforms[row]);
                let slack = 1e-5 * total;
                assert!(before - slack <= target, "{what}: {id} comes too early");
                assert!(
                    target < before + own.1 + slack,
                    "{what}: {id} comes too late"
                );
                let figures = &drawn[row * DRAWN..(row + 1) * DRAWN];
                assert_eq!(figures[0] as i32, ids[row], "{what}");
                let (log_prob, entropy) = whole(logits, id, truncation.temperature);
                assert!((f64::from(figures[1]) - log_prob).abs() < 1e-4, "{what}");
                assert!((f64::from(figures[3]) - entropy).abs() < 1e-4, "{what}");
                let (_, plain) = whole(logits, id, 1.0);
                assert!((f64::from(figures[2]) - plain).abs() < 1e-4, "{what}");
            }
        }
    }
    assert!(
        20 * close_rows < drawn_rows,
        "{close_rows} of {drawn_rows} rows tell nothing"
    );
}

/// Log-probability of an id and the entropy, of the whole distribution.
fn whole(logits: &[f32], id: usize, temperature: f32) -> (f64, f64) {
    let scaled: Vec<f64> = logits
        .iter()
        .map(|&logit| f64::from(logit) / f64::from(temperature))
        .collect();
    let total = scaled.iter().map(|l| l.exp()).sum::<f64>().ln();
    let entropy = scaled.iter().map(|l| (total - l) * (l - total).exp()).sum();
    (scaled[id] - total, entropy)
}

fn draw(logits: &Tensor<2>, uniforms: &[f32], truncation: Truncation) -> (Vec<f32>, Vec<i32>) {
    let [rows, vocab] = logits.dims();
    // Logits times the identity are themselves.
    let identity = Tensor::<2>::eye(vocab, &logits.device());
    let uniforms = Tensor::<1>::from_data(uniforms, (&logits.device(), DType::F32));
    let (drawn, ids) = super::draw(logits.clone(), (identity, false), uniforms, truncation);
    assert_eq!(drawn.dims(), [rows, DRAWN]);
    let ids = ids.try_into_vec_as::<i32>();
    (
        drawn.try_into_vec_as::<f32>().expect("figures"),
        ids.expect("ids"),
    )
}

#[test]
fn logits_that_are_not_finite_are_told() {
    let Some(device) = device() else { return };
    let truncation = Truncation {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
    };
    for bad in [f32::NAN, f32::INFINITY] {
        let row = Tensor::<2>::from_data([[0.0, bad, 1.0]], (&device, DType::F32));
        let uniforms = Tensor::<1>::from_data([0.5], (&device, DType::F32));
        // By the kernel alone: a product would spread the number over the row.
        let (drawn, _) = super::draw_logits(row, uniforms, truncation);
        let figures = drawn.try_into_vec_as::<f32>().expect("figures");
        assert!(!figures[1].is_finite(), "{bad}: {figures:?}");
    }
}

/// Parts of a few tokens and ids add up to what one part gives, in value and gradient.
#[test]
fn the_head_does_not_depend_on_how_it_is_parted() {
    let Some(device) = device() else { return };
    let (tokens, width) = (29, 24);
    let hidden = noise(tokens * width, 3);
    let weight = noise(301 * width, 4);
    let targets: Vec<u32> = (0..tokens as u32).map(|i| i * 37 % 301).collect();
    let options = HeadOptions {
        temperature: 0.7,
        entropy: EntropyPass::Gradient,
    };
    let autodiff = device.clone().autodiff();
    let leaf = |cells: &[f32], rows: usize| {
        let flat = Tensor::<1>::from_data(cells, (&autodiff, DType::F32));
        flat.reshape([rows, width]).detach().require_grad()
    };
    let results = |parts: Option<(usize, usize)>| {
        let (h, w) = (leaf(&hidden, tokens), leaf(&weight, 301));
        let figures = match parts {
            None => {
                let scores = crate::head::score_logits(
                    super::product(h.clone(), w.clone().transpose()),
                    indices(&targets, &autodiff),
                    options,
                );
                [scores.log_probs, scores.entropies.expect("entropies")]
            }
            Some((tokens_at_once, ids_at_once)) => {
                let plan = super::FigurePlan {
                    temperature: 0.7,
                    is_tied: true,
                    tokens_at_once,
                    ids_at_once,
                };
                let figures =
                    super::token_figures(h.clone(), w.clone(), indices(&targets, &autodiff), plan);
                [0, 1].map(|i| figures.clone().narrow(1, i, 1).reshape([tokens]))
            }
        };
        let [log_probs, entropies] = figures;
        let slopes = Tensor::<1>::from_data(noise(tokens, 5).as_slice(), &autodiff);
        let loss = (log_probs.clone() * slopes.clone()).sum() + (entropies.clone() * slopes).sum();
        let mut gradients = loss.backward();
        let read = |tensor: Tensor<1>| {
            let tensor = tensor.without_autodiff();
            tensor.try_into_vec_as::<f32>().expect("figures")
        };
        let gradient = |leaf: &Tensor<2>, gradients: &mut _| {
            let gradient = leaf.grad_remove(gradients).expect("a gradient");
            gradient.try_into_vec_as::<f32>().expect("figures")
        };
        let of_hidden = gradient(&h, &mut gradients);
        let of_weight = gradient(&w, &mut gradients);
        [read(log_probs), read(entropies), of_hidden, of_weight]
    };
    let expected = results(None);
    for parts in [(4096, 8192), (29, 64), (7, 301), (5, 17), (1, 300)] {
        for (found, expected) in results(Some(parts)).iter().zip(&expected) {
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                let apart = (found - expected).abs();
                assert!(
                    apart < 2e-5 * expected.abs().max(1.0),
                    "{parts:?}: {found}, not {expected}"
                );
            }
        }
    }
}

fn indices(ids: &[u32], device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    Tensor::from_data(ids.as_slice(), (device, DType::I32))
}

/// Rows land in their places, the rest stays, and so does what else holds the target.
#[test]
fn rows_are_written_to_their_places() {
    let Some(device) = device() else { return };
    for (places, width, count) in [(1, 1, 1), (300, 64, 77), (5000, 3, 4999), (6, 257, 5)] {
        let cells = noise(places * width, 1);
        let rows: Vec<f32> = noise(count * width, 2).iter().map(|x| x + 1.0).collect();
        // Each place at most once, since 7 and `places` have no common factor.
        let slots: Vec<i32> = (0..count)
            .map(|row| ((row * 7 + 3) % places) as i32)
            .collect();
        let mut expected = cells.clone();
        for (slot, row) in slots.iter().zip(rows.chunks_exact(width)) {
            expected[*slot as usize * width..][..width].copy_from_slice(row);
        }
        let float = |cells: &[f32], rows: usize| {
            Tensor::<1>::from_data(cells, (&device, DType::F32)).reshape([rows, width])
        };
        let at = || Tensor::<1, Int>::from_data(slots.as_slice(), (&device, DType::I32));
        let target = float(&cells, places);
        let held = target.clone();
        let read = |tensor: Tensor<2>| tensor.into_data().try_to_vec::<f32>().unwrap();
        let written = super::write_rows(target, at(), float(&rows, count));
        assert_eq!(read(written), expected, "{places} places of {width}");
        assert_eq!(read(held), cells, "what else holds the target");
        let alone = super::write_rows(float(&cells, places), at(), float(&rows, count));
        assert_eq!(read(alone), expected);
        let int = |tensor: Tensor<2>| (tensor * 1000.0).int();
        let (target, rows) = (int(float(&cells, places)), int(float(&rows, count)));
        let written = super::write_int_rows(target, at(), rows).float();
        assert_eq!(read(written), read(int(float(&expected, places)).float()));
    }
}

fn floats<const D: usize>(cells: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::<1>::from_data(cells, (device, DType::F32)).reshape(shape)
}

fn integers<const D: usize>(cells: &[i32], shape: [usize; D], device: &Device) -> Tensor<D, Int> {
    Tensor::<1, Int>::from_data(cells, (device, DType::I32)).reshape(shape)
}

fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let apart = (f64::from(*found) - expected).abs();
        assert!(apart < tolerance, "{what}: {found} at {at}, not {expected}");
    }
}

/// softmax over what is seen, in f64; zeros where nothing is.
fn softmax(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
    let weight = |score: &f64| match largest {
        f64::NEG_INFINITY => 0.0,
        _ => (score - largest).exp() / total,
    };
    scores.iter().map(weight).collect()
}

#[test]
fn weights_of_keys_are_softmax_over_what_is_seen_and_so_is_their_gradient() {
    let Some(device) = device() else { return };
    let autodiff = device.clone().autodiff();
    let (batch, heads) = (2, 3);
    for (length, keys, window) in [(1, 1, None), (5, 5, None), (4, 77, Some(9)), (3, 700, None)] {
        let count = batch * heads * length * keys;
        let scores: Vec<f32> = noise(count, 6).iter().map(|x| x * 20.0 - 10.0).collect();
        let slopes = noise(count, 7);
        // Queries at the end; of the second row some keys are padding, and of the first the first query sees nothing.
        let mut queries = Vec::new();
        let mut places = Vec::new();
        for row in 0..batch {
            queries.extend((0..length).map(|i| (keys - length + i) as i32));
            places.extend((0..keys).map(|i| {
                if row == 1 && i % 3 == 1 {
                    crate::PADDING_POSITION
                } else {
                    i as i32
                }
            }));
        }
        queries[0] = -1;
        let sees = |query: i32, key: i32| {
            key <= query && window.is_none_or(|window| query - key < window as i32)
        };
        let (mut expected, mut gradient) = (Vec::new(), Vec::new());
        for line in 0..batch * heads * length {
            let (row, i) = (line / (heads * length), line % length);
            let own = line * keys..(line + 1) * keys;
            let seen = scores[own.clone()].iter().enumerate().map(|(key, &score)| {
                if sees(queries[row * length + i], places[row * keys + key]) {
                    f64::from(score)
                } else {
                    f64::NEG_INFINITY
                }
            });
            let weights = softmax(&seen.collect::<Vec<_>>());
            let slopes: Vec<f64> = slopes[own].iter().map(|&slope| f64::from(slope)).collect();
            let pull: f64 = weights
                .iter()
                .zip(&slopes)
                .map(|(w, slope)| w * slope)
                .sum();
            let of_score = weights
                .iter()
                .zip(&slopes)
                .map(|(w, slope)| w * (slope - pull));
            gradient.extend(of_score);
            expected.extend(weights);
        }
        let leaf = floats(&scores, [batch, heads, length, keys], &autodiff);
        let leaf = leaf.detach().require_grad();
        let weights = super::attention_weights(
            leaf.clone(),
            integers(&queries, [batch, length], &autodiff),
            integers(&places, [batch, keys], &autodiff),
            window,
        );
        let what = format!("{length} queries of {keys} keys, window {window:?}");
        let slopes = floats(&slopes, [batch, heads, length, keys], &autodiff);
        let mut gradients = (weights.clone() * slopes).sum().backward();
        let found = weights.without_autodiff().try_into_vec_as::<f32>().unwrap();
        assert_close(&found, &expected, 1e-5, &what);
        let found = leaf.grad_remove(&mut gradients).expect("a gradient");
        let found = found.try_into_vec_as::<f32>().unwrap();
        assert_close(&found, &gradient, 1e-5, &format!("gradient of {what}"));
    }
    let scores = floats(&[0.0, f32::NAN, 1.0], [1, 1, 1, 3], &device);
    let positions = |cells: &[i32]| integers(cells, [1, cells.len()], &device);
    let weights = super::attention_weights(scores, positions(&[2]), positions(&[0, 1, 2]), None);
    let weights = weights.try_into_vec_as::<f32>().unwrap();
    assert!(weights.iter().all(|weight| weight.is_nan()), "{weights:?}");
}

/// What attention gives for queries, keys and values, and their gradients for slopes, all in f32.
fn attended(
    operations: Operations,
    cells: &[Vec<f32>; 4],
    [batch, length, heads, groups, head_dim]: [usize; 5],
    positions: &[i32],
    window: Option<usize>,
    (device, dtype): (&Device, DType),
) -> [Vec<f32>; 4] {
    let device = device.clone().autodiff();
    let leaf = |cells: &[f32], heads| {
        let leaf = floats(cells, [batch, length, heads, head_dim], &device).cast(dtype);
        leaf.detach().require_grad()
    };
    let [query, key, value, slopes] = cells;
    let leaves = [leaf(query, heads), leaf(key, groups), leaf(value, groups)];
    let positions = integers(positions, [batch, length], &device);
    let visibility = Visibility::new(positions.clone(), positions, window);
    let [query, key, value] = leaves.clone().map(|leaf| leaf.swap_dims(1, 2));
    let mixed = operations.attend(query, key, value, &visibility);
    let slopes = floats(slopes, mixed.dims(), &device).cast(dtype);
    let mut gradients = (mixed.clone() * slopes).sum().backward();
    let [dquery, dkey, dvalue] = leaves.map(|leaf| {
        let gradient = leaf.grad_remove(&mut gradients).expect("a gradient");
        gradient.cast(DType::F32).try_into_vec_as().unwrap()
    });
    let mixed = mixed.without_autodiff().cast(DType::F32);
    [mixed.try_into_vec_as().unwrap(), dquery, dkey, dvalue]
}

#[test]
fn a_pass_attends_some_queries_at_a_time_as_to_all_at_once() {
    let Some(device) = device() else { return };
    let (batch, heads, groups, head_dim) = (2, 4, 2, 16);
    for (length, window) in [(40, None), (256, None), (261, None), (600, Some(300))] {
        let sizes = [batch, length, heads, groups, head_dim];
        // The second row has padding at its end and within it; nothing reads what its queries find.
        let place = |row: usize, column: usize| {
            if row == 1 && (column + 8 >= length || column == 3) {
                crate::PADDING_POSITION
            } else {
                column as i32
            }
        };
        let places = (0..batch).flat_map(|row| (0..length).map(move |column| place(row, column)));
        let places: Vec<i32> = places.collect();
        let row = |of: usize| batch * length * of * head_dim;
        let rows = [heads, groups, groups, heads].into_iter().zip(11..);
        let cells: Vec<Vec<f32>> = rows.map(|(of, seed)| noise(row(of), seed)).collect();
        let mut cells: [Vec<f32>; 4] = cells.try_into().unwrap();
        for (at, slope) in cells[3].iter_mut().enumerate() {
            if places[at / (heads * head_dim)] == crate::PADDING_POSITION {
                *slope = 0.0;
            }
        }
        for cells in &mut cells[..2] {
            for cell in cells {
                *cell = *cell * 4.0 - 2.0;
            }
        }
        let attended = |operations, on| attended(operations, &cells, sizes, &places, window, on);
        let cpu = Device::flex();
        let expected = attended(Operations::Plain, (&cpu, DType::F32));
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            if !device.supports_dtype(dtype) {
                continue;
            }
            let found = attended(Operations::of(&device), (&device, dtype));
            let named = ["result", "query", "key", "value"].into_iter();
            for ((name, found), expected) in named.zip(found).zip(&expected) {
                let largest = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                let allowed = f64::from(largest)
                    * match dtype {
                        DType::F32 => 1e-5,
                        DType::F16 => 4e-3,
                        _ => 3e-2,
                    };
                let read = |(at, _): &(usize, &f32)| {
                    name != "result" || places[at / (heads * head_dim)] != crate::PADDING_POSITION
                };
                let [found, expected] =
                    [&found, expected].map(|cells| cells.iter().enumerate().filter(read));
                let found: Vec<f32> = found.map(|(_, &cell)| cell).collect();
                let expected: Vec<f64> = expected.map(|(_, &cell)| f64::from(cell)).collect();
                let what = format!("{name}, {length} tokens, window {window:?}, {dtype:?}");
                assert_close(&found, &expected, allowed, &what);
            }
        }
    }
}

#[test]
fn one_token_a_row_attends_to_the_slots_up_to_its_own() {
    let Some(device) = device() else { return };
    // Heads, groups, head_dim, capacity, window: groups of one and of many, heads that are no power of two, more slots
    // than a tile holds.
    for (heads, groups, head_dim, capacity, window) in [
        (14, 2, 64, 331, None),
        (9, 3, 64, 2100, None),
        (4, 4, 80, 97, Some(10)),
        (16, 1, 24, 300, Some(290)),
        (22, 2, 128, 65, None),
        (1, 1, 6, 2, None),
        (2, 1, 256, 40, None),
    ] {
        let rows = 4;
        let queries: Vec<f32> = noise(rows * heads * head_dim, 1)
            .iter()
            .map(|x| x * 4.0 - 2.0)
            .collect();
        let count = rows * groups * capacity * head_dim;
        let (keys, values) = (noise(count, 2), noise(count, 3));
        // The first slot alone, some, all but the last, and a row that is idle.
        let at = [
            0,
            capacity as i32 / 2,
            capacity as i32 - 1,
            crate::PADDING_POSITION,
        ];
        let mut expected = Vec::new();
        for line in 0..rows * heads {
            let (row, head) = (line / heads, line % heads);
            let cache = (row * groups + head / (heads / groups)) * capacity * head_dim;
            let query = &queries[line * head_dim..][..head_dim];
            let visible = |slot: &usize| {
                let behind = at[row] - *slot as i32;
                at[row] < capacity as i32
                    && behind >= 0
                    && window.is_none_or(|window| behind < window as i32)
            };
            let slots: Vec<usize> = (0..capacity).filter(visible).collect();
            let dot = |&slot: &usize| {
                let key = &keys[cache + slot * head_dim..][..head_dim];
                let products = query
                    .iter()
                    .zip(key)
                    .map(|(q, k)| f64::from(*q) * f64::from(*k));
                products.sum::<f64>() / (head_dim as f64).sqrt()
            };
            let weights = softmax(&slots.iter().map(dot).collect::<Vec<_>>());
            for d in 0..head_dim {
                let value = |slot: &usize| f64::from(values[cache + slot * head_dim + d]);
                expected.push(slots.iter().zip(&weights).map(|(s, w)| w * value(s)).sum());
            }
        }
        let cache = |cells: &[f32]| floats(cells, [rows, groups, capacity, head_dim], &device);
        let mixed = super::decode_attention(
            floats(&queries, [rows, heads, head_dim], &device),
            [cache(&keys), cache(&values)],
            integers(&at, [rows], &device),
            window,
        );
        let found = mixed.try_into_vec_as::<f32>().unwrap();
        let what = format!("{heads} heads of {groups} groups, {head_dim} wide, {capacity} slots");
        assert_close(&found, &expected, 2e-5, &what);
    }
}

#[test]
fn picked_rows_send_their_gradients_back() {
    let Some(device) = device() else { return };
    let autodiff = device.clone().autodiff();
    for (rows, width, count) in [(1, 1, 1), (300, 64, 77), (5, 257, 400), (4096, 24, 3)] {
        let cells = noise(rows * width, 1);
        let slopes = noise(count * width, 2);
        let picks: Vec<i32> = (0..count).map(|i| (i * i * 7 % rows) as i32).collect();
        let mut expected = vec![0.0; rows * width];
        let mut picked = Vec::new();
        for (at, (slopes, &pick)) in slopes.chunks_exact(width).zip(&picks).enumerate() {
            let own = pick as usize * width;
            picked.extend_from_slice(&cells[own..own + width]);
            if at % 3 == 2 {
                continue;
            }
            for (sum, slope) in expected[own..own + width].iter_mut().zip(slopes) {
                *sum += f64::from(*slope);
            }
        }
        let leaf = floats(&cells, [rows, width], &autodiff)
            .detach()
            .require_grad();
        // Of every third pick the gradient is said to be 0.
        let counted = |at: usize| at % 3 != 2;
        let found = super::pick_rows(leaf.clone(), &Picks::new(&picks, rows, counted, &autodiff));
        let slopes = floats(&slopes, [count, width], &autodiff);
        let mut gradients = (found.clone() * slopes).sum().backward();
        let found = found.without_autodiff().try_into_vec_as::<f32>().unwrap();
        assert_eq!(found, picked, "{count} of {rows} rows of {width}");
        let found = leaf.grad_remove(&mut gradients).expect("a gradient");
        let found = found.try_into_vec_as::<f32>().unwrap();
        assert_close(
            &found,
            &expected,
            1e-4,
            &format!("{count} of {rows} rows of {width}"),
        );
    }
}

/// Of few rows in one product, of many in parts.
#[test]
fn a_weights_gradient_is_one_sum_over_all_rows() {
    let Some(device) = device() else { return };
    let autodiff = device.clone().autodiff();
    for (rows, inputs, outputs) in [(30, 24, 16), (2048, 24, 16), (3072, 130, 66), (2049, 8, 8)] {
        let (x, dy) = (noise(rows * inputs, 1), noise(rows * outputs, 2));
        let mut expected = vec![0.0; inputs * outputs];
        for (x, dy) in x.chunks_exact(inputs).zip(dy.chunks_exact(outputs)) {
            for (sums, x) in expected.chunks_exact_mut(outputs).zip(x) {
                for (sum, dy) in sums.iter_mut().zip(dy) {
                    *sum += f64::from(*x) * f64::from(*dy);
                }
            }
        }
        let weight = floats(&noise(inputs * outputs, 3), [inputs, outputs], &autodiff);
        let weight = weight.detach().require_grad();
        let y = super::product(floats(&x, [rows, inputs], &autodiff), weight.clone());
        let mut gradients = (y * floats(&dy, [rows, outputs], &autodiff))
            .sum()
            .backward();
        let found = weight.grad_remove(&mut gradients).expect("a gradient");
        let found = found.try_into_vec_as::<f32>().unwrap();
        let what = format!("{inputs} to {outputs} over {rows} rows");
        assert_close(&found, &expected, 1e-4 * rows as f64 / 100.0, &what);
    }
}

/// Many rows, whose sums have parts, few of them, and sizes that fill no tile.
#[test]
fn an_adapters_gradient_is_that_of_its_own_product() {
    let Some(device) = device() else {
        return;
    };
    let device = device.autodiff();
    for [rows, inputs, rank, outputs] in [[2048, 24, 3, 40], [5, 7, 2, 9], [130, 96, 16, 64]] {
        let cells = |count: usize, seed| noise(count, seed);
        let (x, dy) = (cells(rows * inputs, 1), cells(rows * outputs, 2));
        let (a, b) = (cells(inputs * rank, 3), cells(rank * outputs, 4));
        let scale = 1.5;
        let leaf = |cells: &[f32], shape| floats(cells, shape, &device).detach().require_grad();
        let [of_a, of_b] = [leaf(&a, [inputs, rank]), leaf(&b, [rank, outputs])];
        let y = leaf(&vec![1.0; rows * outputs], [rows, outputs]);
        let passed = super::with_adapter_gradient(
            y.clone(),
            floats(&x, [rows, inputs], &device),
            [of_a.clone(), of_b.clone()],
            scale,
        );
        let slopes = floats(&dy, [rows, outputs], &device);
        let mut gradients = (passed.clone() * slopes).sum().backward();
        let found = passed.without_autodiff().try_into_vec_as::<f32>().unwrap();
        assert!(
            found
                .iter()
                .all(|&cell| cell.to_bits() == 1.0_f32.to_bits())
        );
        let at = |cells: &[f32], index: usize| f64::from(cells[index]);
        let sum = |terms: &mut dyn Iterator<Item = f64>| f64::from(scale) * terms.sum::<f64>();
        let back = |row: usize, r: usize| -> f64 {
            (0..outputs)
                .map(|o| at(&dy, row * outputs + o) * at(&b, r * outputs + o))
                .sum()
        };
        let inner = |row: usize, r: usize| -> f64 {
            (0..inputs)
                .map(|i| at(&x, row * inputs + i) * at(&a, i * rank + r))
                .sum()
        };
        let expected_a: Vec<f64> = (0..inputs * rank)
            .map(|cell| {
                let (i, r) = (cell / rank, cell % rank);
                sum(&mut (0..rows).map(|row| at(&x, row * inputs + i) * back(row, r)))
            })
            .collect();
        let expected_b: Vec<f64> = (0..rank * outputs)
            .map(|cell| {
                let (r, o) = (cell / outputs, cell % outputs);
                sum(&mut (0..rows).map(|row| inner(row, r) * at(&dy, row * outputs + o)))
            })
            .collect();
        let what = format!("{rows} rows, {inputs} × {rank} × {outputs}");
        let pairs = [
            (of_a, expected_a, "A"),
            (of_b, expected_b, "B"),
            (y, dy.iter().map(|&cell| f64::from(cell)).collect(), "y"),
        ];
        for (leaf, expected, name) in pairs {
            let found = leaf.grad_remove(&mut gradients).expect("a gradient");
            let found = found.try_into_vec_as::<f32>().unwrap();
            let largest = expected
                .iter()
                .fold(1.0_f64, |most, cell| most.max(cell.abs()));
            assert_close(
                &found,
                &expected,
                1e-5 * largest,
                &format!("{name} of {what}"),
            );
        }
    }
}

#[test]
fn products_are_sums_in_f32_of_exact_products() {
    let Some(device) = device() else { return };
    // Rows, depth, columns, whether the right side is transposed: those of decoding, odd ones, and one of many rows.
    for (rows, depth, columns, is_transposed) in [
        (64, 896, 1152, false),
        (16, 64, 48, false),
        (48, 2064, 4128, false),
        (128, 896, 4096, true),
        (32, 48, 304, true),
        (7, 33, 9, false),
        (600, 96, 64, true),
        (1001, 200, 75, false),
        (200, 1001, 75, true),
        (9, 24, 33_000, true),
    ] {
        // Halves, which every type holds exactly; sums of them are exact in f32 and rounded by bf16.
        let halves = |count: usize, seed| -> Vec<f32> {
            let cells = noise(count, seed);
            cells
                .iter()
                .map(|x| (x * 16.0).floor() / 2.0 - 4.0)
                .collect()
        };
        let (a, b) = (halves(rows * depth, 1), halves(depth * columns, 2));
        let at = |k: usize, column: usize| {
            if is_transposed {
                b[column * depth + k]
            } else {
                b[k * columns + column]
            }
        };
        let mut expected = vec![0.0; rows * columns];
        for (cell, sum) in expected.iter_mut().enumerate() {
            let (row, column) = (cell / columns, cell % columns);
            let products = (0..depth).map(|k| f64::from(a[row * depth + k] * at(k, column)));
            *sum = products.sum::<f64>();
        }
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            if !device.supports_dtype(dtype) {
                continue;
            }
            let lhs = floats(&a, [rows, depth], &device).cast(dtype);
            let rhs = if is_transposed {
                let rows = floats(&b, [columns, depth], &device).cast(dtype);
                rows.transpose()
            } else {
                floats(&b, [depth, columns], &device).cast(dtype)
            };
            let found = super::product(lhs, rhs).cast(DType::F32);
            let found = found.try_into_vec_as::<f32>().unwrap();
            let rounding = match dtype {
                DType::F32 => 0.0,
                DType::BF16 => f64::from(f32::EPSILON) * 65536.0 / 2.0,
                _ => f64::from(f32::EPSILON) * 8192.0 / 2.0,
            };
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let apart = (f64::from(*found) - expected).abs();
                assert!(
                    apart <= rounding * expected.abs(),
                    "{rows}x{depth}x{columns}, transposed {is_transposed}, {dtype:?}: {found} at {at}, not {expected}"
                );
            }
        }
    }
}
