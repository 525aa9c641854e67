//! The kernels against plain arithmetic on the host, on the device that `ANNEAL_DEVICE` names; on the CPU, which has no
//! such kernels, there is nothing to test.

use burn::tensor::{DType, Device, Int, Tensor};

use crate::{DRAWN, EntropyPass, HeadOptions, Truncation, open_device};

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

/// A row's ids that are kept, by sorting all of it, and their weights.
fn kept(logits: &[f32], truncation: Truncation) -> Vec<(usize, f64)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |&logit: &f32| f64::from(((logit - largest) / truncation.temperature).exp());
    let mut all: Vec<(usize, f64)> = logits.iter().map(weight).enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if truncation.top_k > 0 {
        all.truncate(truncation.top_k as usize);
    }
    let target = f64::from(truncation.top_p) * all.iter().map(|(_, weight)| weight).sum::<f64>();
    if truncation.top_p < 1.0 {
        let mut sum = 0.0;
        let mut count = 0;
        while sum < target && count < all.len() {
            sum += all[count].1;
            count += 1;
        }
        all.truncate(count.max(1));
    }
    all.retain(|(_, weight)| *weight >= f64::from(truncation.min_p));
    all.sort_by_key(|(id, _)| *id);
    all
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
                let kept = kept(logits, truncation);
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
    let (drawn, ids) = super::draw(logits.clone(), identity, uniforms, truncation, false);
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
                    h.clone().matmul(w.clone().transpose()),
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
