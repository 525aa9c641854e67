//! Each routine against the formula in its documentation, written as loops in f64, on random shapes that leave no edge out.

use kernels::{
    Attention, HeadCache, Packed, Rotary, Segment, Softmax, Start, View, exp, general, multiply,
    multiply_shared, rms_norm, rms_norm_backward, rotate, rotate_back, softmax_gradient, swiglu,
    swiglu_backward,
};
use proptest::prelude::*;

/// Numbers in about ±2 that follow from a seed.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 4_194_304.0 - 2.0
    };
    (0..count).map(|_| next()).collect()
}

fn near(ours: &[f32], plain: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), plain.len());
    for (at, (x, y)) in ours.iter().zip(plain).enumerate() {
        let error = (f64::from(*x) - y).abs();
        // Written so that NaN fails.
        assert!(
            error <= tolerance * y.abs().max(1.0),
            "element {at}: {x} for {y}"
        );
    }
}

fn wide(cells: &[f32]) -> Vec<f64> {
    cells.iter().map(|&x| f64::from(x)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn products(
        // Beyond the rows, and the steps of a sum, that are gone through at a time.
        m in prop_oneof![3 => 0..40_usize, 1 => 90..220_usize], k in prop_oneof![3 => 0..90_usize, 1 => 190..400_usize],
        n in 1..70_usize, gap in 0..3_usize, turned: bool, added: bool, seed: u64
    ) {
        let (a, b) = (numbers(seed, m * k), numbers(seed ^ 1, k * n));
        let left = if turned { View::new(&a, k, m, m).transposed() } else { View::new(&a, m, k, k) };
        let right = if turned { View::new(&b, n, k, k).transposed() } else { View::new(&b, k, n, n) };
        let at = |cells: &[f32], row: usize, column: usize, rows: usize, columns: usize| {
            f64::from(if turned { cells[column * rows + row] } else { cells[row * columns + column] })
        };
        let stride = n + gap;
        let before = numbers(seed ^ 2, m * stride);
        let start = if added { Start::Existing } else { Start::Zero };
        let mut plain = wide(&before);
        for row in 0..m {
            for column in 0..n {
                let sum: f64 = (0..k).map(|i| at(&a, row, i, m, k) * at(&b, i, column, k, n)).sum();
                let cell = &mut plain[row * stride + column];
                *cell = sum + if added { *cell } else { 0.0 };
            }
        }
        let packed = Packed::new(right);
        let run = |product: &dyn Fn(&mut [f32])| {
            let mut c = before.clone();
            product(&mut c);
            c
        };
        let alone = run(&|c| multiply(left, packed.panels(), c, stride, start));
        near(&alone, &plain, 1e-4);
        let shared = run(&|c| multiply_shared(left, packed.panels(), c, stride, start));
        prop_assert_eq!(&shared, &alone);
        near(&run(&|c| general(left, right, c, stride, start)), &plain, 1e-4);
        // A row's bits are its own, however many rows are computed with it.
        for row in 0..m {
            let mut single = before[row * stride..][..n].to_vec();
            multiply(left.part(row..row + 1, 0..k), packed.panels(), &mut single, n, start);
            prop_assert_eq!(&single[..], &alone[row * stride..][..n]);
        }
    }

    #[test]
    fn long_sums_are_chained_across_blocks(m in 1..8_usize, k in 700..3_000_usize, seed: u64) {
        let (a, b) = (numbers(seed, m * k), numbers(seed ^ 1, k * 16));
        let mut c = vec![0.0; m * 16];
        multiply(View::new(&a, m, k, k), Packed::new(View::dense(&b, 16)).panels(), &mut c, 16, Start::Zero);
        for row in 0..m {
            for column in 0..16 {
                let chain = (0..k).fold(0.0_f32, |sum, i| a[row * k + i].mul_add(b[i * 16 + column], sum));
                // Without a fused multiply-add in the CPU, pulp rounds twice.
                if kernels::is_fast() {
                    prop_assert_eq!(c[row * 16 + column].to_bits(), chain.to_bits());
                } else {
                    prop_assert!((c[row * 16 + column] - chain).abs() < 1e-2);
                }
            }
        }
    }

    #[test]
    fn softmaxes(count in 1..1_500_usize, temperature in 0.2..3.0_f32, spread in 0.1..20.0_f32, weights in -2.0..2.0_f32, seed: u64) {
        let logits: Vec<f32> = numbers(seed, count).iter().map(|x| x * spread).collect();
        let target = seed as usize % count;
        let exact = |temperature: f64| {
            let largest = logits.iter().copied().fold(f32::MIN, f32::max);
            let shifted = logits.iter().map(|&l| f64::from(l - largest) / temperature);
            let total: f64 = shifted.clone().map(f64::exp).sum();
            shifted.map(|x| x - total.ln()).collect::<Vec<f64>>()
        };
        let entropy = |log_probs: &[f64]| -> f64 { -log_probs.iter().map(|x| x.exp() * x).sum::<f64>() };
        let (plain, warm) = (exact(1.0), exact(f64::from(temperature)));
        let (ours, ours_warm) = (Softmax::new(&logits, 1.0), Softmax::new(&logits, temperature));
        near(&[ours_warm.log_prob(logits[target], temperature)], &[warm[target]], 3e-6);
        near(&[ours.entropy(), ours_warm.entropy()], &[entropy(&plain), entropy(&warm)], 3e-6);
        let drawn: Vec<f64> = ours_warm.weights(&logits, temperature).iter().map(|&w| f64::from(w) / ours_warm.total).collect();
        for (p, log_p) in drawn.iter().zip(&warm) {
            prop_assert!((p - log_p.exp()).abs() < 1e-6);
        }

        // d(g·log π_T(target) + h·H)/dl
        let (g, h) = (f64::from(weights), 0.7);
        let (t, total_entropy) = (f64::from(temperature), entropy(&plain));
        let gradient: Vec<f64> = plain.iter().zip(&warm).enumerate().map(|(at, (log_p, log_warm))| {
            let hit = if at == target { 1.0 } else { 0.0 };
            g * (hit - log_warm.exp()) / t - h * log_p.exp() * (log_p + total_entropy)
        }).collect();
        let mut cells = logits.clone();
        softmax_gradient(&mut cells, target, temperature, &ours_warm, weights, Some((&ours, 0.7)));
        near(&cells, &gradient, 1e-5);
        let alone: Vec<f64> = gradient.iter().zip(&plain).map(|(x, log_p)| x + h * log_p.exp() * (log_p + total_entropy)).collect();
        let mut cells = logits.clone();
        softmax_gradient(&mut cells, target, temperature, &ours_warm, weights, None);
        near(&cells, &alone, 1e-5);
    }

    #[test]
    fn norms(rows in 1..5_usize, width in 1..100_usize, seed: u64) {
        let (x, weight, dy) = (numbers(seed, rows * width), numbers(seed ^ 1, width), numbers(seed ^ 2, rows * width));
        let epsilon = 1e-5;
        let mut y = vec![0.0; rows * width];
        rms_norm(&x, &weight, epsilon, &mut y);
        // By hand, so that the gradient is one of the formula and not of our rearrangement: J = s·(I - x·xᵀ·s²/n)·diag(w).
        let (mut plain, mut dx, mut dw) = (Vec::new(), vec![1.0; rows * width], vec![1.0; width]);
        for row in 0..rows {
            let x = wide(&x[row * width..][..width]);
            let dy = wide(&dy[row * width..][..width]);
            let s = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + f64::from(epsilon)).sqrt();
            for i in 0..width {
                plain.push(x[i] * s * f64::from(weight[i]));
                dw[i] += dy[i] * x[i] * s;
                for j in 0..width {
                    let identity = if i == j { 1.0 } else { 0.0 };
                    let slope = s * (identity - x[i] * x[j] * s * s / width as f64);
                    dx[row * width + i] += slope * f64::from(weight[j]) * dy[j];
                }
            }
        }
        near(&y, &plain, 1e-5);
        let (mut ours, mut ours_weight) = (vec![1.0; rows * width], vec![1.0; width]);
        rms_norm_backward(&x, &weight, epsilon, &dy, &mut ours, &mut ours_weight);
        near(&ours, &dx, 2e-4);
        near(&ours_weight, &dw, 2e-5);
    }

    #[test]
    fn gated_activations(rows in 1..4_usize, width in 1..60_usize, spread in 0.1..40.0_f32, seed: u64) {
        let gate_up: Vec<f32> = numbers(seed, 2 * rows * width).iter().map(|x| x * spread).collect();
        let dy = numbers(seed ^ 1, rows * width);
        let (mut y, mut d, mut again) = (vec![0.0; rows * width], gate_up.clone(), vec![0.0; rows * width]);
        swiglu(&gate_up, width, &mut y);
        swiglu_backward(&mut d, width, &dy, &mut again);
        prop_assert_eq!(&again, &y);
        let (mut plain, mut gradient) = (vec![0.0; rows * width], vec![0.0; 2 * rows * width]);
        for row in 0..rows {
            for i in 0..width {
                let [at_gate, at_up] = [2 * row * width + i, (2 * row + 1) * width + i];
                let (g, u, dy) = (f64::from(gate_up[at_gate]), f64::from(gate_up[at_up]), f64::from(dy[row * width + i]));
                let s = 1.0 / (1.0 + (-g).exp());
                plain[row * width + i] = g * s * u;
                gradient[at_gate] = dy * u * (s + g * s * (1.0 - s));
                gradient[at_up] = dy * g * s;
            }
        }
        near(&y, &plain, 2e-6);
        near(&d, &gradient, 2e-6);
    }

    #[test]
    fn rotations(heads in 1..4_usize, half in 1..40_usize, extra in 0..5_usize, seed: u64) {
        let positions = [0, 1, 7, 700];
        let frequencies: Vec<f32> = (0..half).map(|i| 10_000_f32.powf(-(i as f32) / half as f32)).collect();
        let stride = 2 * half * heads + extra;
        let before = numbers(seed, 3 * stride);
        let mut x = before.clone();
        let rotary = Rotary::new(&positions, &frequencies);
        rotate(&mut x, stride, heads, &rotary, 1);
        let mut plain = wide(&before);
        for row in 0..3 {
            for head in 0..heads {
                for (i, frequency) in frequencies.iter().enumerate() {
                    let angle = f64::from(positions[row + 1] as f32 * frequency);
                    let at = row * stride + head * 2 * half + i;
                    let (a, b) = (f64::from(before[at]), f64::from(before[at + half]));
                    plain[at] = a * angle.cos() - b * angle.sin();
                    plain[at + half] = b * angle.cos() + a * angle.sin();
                }
            }
        }
        near(&x, &plain, 1e-5);
        rotate_back(&mut x, stride, heads, &rotary, 1);
        near(&x, &wide(&before), 1e-5);
    }

    #[test]
    fn attentions(
        kv_heads in 1..3_usize, share in 1..4_usize, head_dim in prop::sample::select(vec![2_usize, 8, 16, 20, 64]),
        prompt in 1..75_usize, answers in prop::collection::vec(1..70_usize, 0..4), window in prop::option::of(1..90_usize), seed: u64
    ) {
        let attention = Attention { heads: kv_heads * share, kv_heads, head_dim, window };
        // A prompt with its answers, then a sequence by itself.
        let mut group = vec![Segment { tokens: 0..prompt, prefix: 0..0 }];
        let mut end = prompt;
        for answer in &answers {
            group.push(Segment { tokens: end..end + answer, prefix: 0..prompt });
            end += answer;
        }
        let alone = [Segment { tokens: end..end + 5, prefix: 0..0 }];
        let tokens = end + 5;
        let rows = numbers(seed, tokens * attention.row_width());
        let d_mixed = numbers(seed ^ 1, tokens * attention.heads * head_dim);
        let groups: [&[Segment]; 2] = [&group, &alone];

        let mut by_head = vec![0.0; tokens * attention.heads * head_dim];
        attention.forward(&rows, &groups, &mut by_head);
        let mut mixed = vec![0.0; by_head.len()];
        attention.gather_mixed(&by_head, 0..tokens, &mut mixed);
        let mut by_head = vec![0.0; kv_heads * tokens * (share + 2) * head_dim];
        attention.backward(&rows, &groups, &d_mixed, &mut by_head);
        let mut gradient = vec![0.0; rows.len()];
        attention.gather_gradient(&by_head, 0..tokens, &mut gradient);

        let (plain, plain_gradient) = plain_attention(&attention, &groups, &rows, &d_mixed);
        near(&mixed, &plain, 1e-5);
        near(&gradient, &plain_gradient, 1e-4);

        // Decoding gives the bits of the whole pass.
        let caches = |segment: &Segment| {
            let mut caches = vec![HeadCache::new(head_dim, 4); kv_heads];
            for token in segment.tokens.clone() {
                attention.push(&rows[token * attention.row_width()..][..attention.row_width()], &mut caches);
            }
            caches
        };
        let prefix = caches(&group[0]);
        for segment in &group[1..] {
            let mut own = vec![HeadCache::new(head_dim, 4); kv_heads];
            let (mut scores, mut out) = (Vec::new(), vec![0.0; attention.heads * head_dim]);
            for token in segment.tokens.clone() {
                let row = &rows[token * attention.row_width()..][..attention.row_width()];
                attention.push(row, &mut own);
                attention.step(row, [&prefix, &own], &mut scores, &mut out);
                prop_assert_eq!(&out[..], &mixed[token * out.len()..][..out.len()]);
            }
        }
    }
}

/// softmax(q·kᵀ/√d)·v token by token, and its gradients.
fn plain_attention(
    attention: &Attention,
    groups: &[&[Segment]],
    rows: &[f32],
    d_mixed: &[f32],
) -> (Vec<f64>, Vec<f64>) {
    let (d, width) = (attention.head_dim, attention.row_width());
    let share = attention.heads / attention.kv_heads;
    let rows = wide(rows);
    let mut mixed = vec![0.0; d_mixed.len()];
    let mut gradient = vec![0.0; rows.len()];
    for segment in groups.iter().flat_map(|group| group.iter()) {
        let tokens: Vec<usize> = segment
            .prefix
            .clone()
            .chain(segment.tokens.clone())
            .collect();
        for position in segment.prefix.len()..tokens.len() {
            let first = attention
                .window
                .map_or(0, |window| (position + 1).saturating_sub(window));
            let seen = &tokens[first..=position];
            for head in 0..attention.heads {
                let query = tokens[position] * width + head * d;
                let key = |token: usize| token * width + (attention.heads + head / share) * d;
                let value = |token: usize| key(token) + attention.kv_heads * d;
                let scale = 1.0 / (d as f64).sqrt();
                let dot =
                    |x: &[f64], y: &[f64]| -> f64 { x.iter().zip(y).map(|(a, b)| a * b).sum() };
                let scores: Vec<f64> = seen
                    .iter()
                    .map(|&t| scale * dot(&rows[query..][..d], &rows[key(t)..][..d]))
                    .collect();
                let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                let weights: Vec<f64> =
                    scores.iter().map(|s| (s - largest).exp() / total).collect();
                let at = (tokens[position] * attention.heads + head) * d;
                let d_out = wide(&d_mixed[at..][..d]);
                let pulls: Vec<f64> = seen
                    .iter()
                    .map(|&t| dot(&d_out, &rows[value(t)..][..d]))
                    .collect();
                let along = dot(&weights, &pulls);
                for (at_seen, &t) in seen.iter().enumerate() {
                    let d_score = weights[at_seen] * (pulls[at_seen] - along) * scale;
                    for i in 0..d {
                        mixed[at + i] += weights[at_seen] * rows[value(t) + i];
                        gradient[value(t) + i] += weights[at_seen] * d_out[i];
                        gradient[query + i] += d_score * rows[key(t) + i];
                        gradient[key(t) + i] += d_score * rows[query + i];
                    }
                }
            }
        }
    }
    (mixed, gradient)
}

#[test]
fn logits_that_are_not_finite() {
    assert!(Softmax::new(&[0.0, f32::NAN], 1.0).entropy().is_nan());
    assert!(
        Softmax::new(&[0.0, f32::INFINITY], 1.0)
            .log_prob(0.0, 1.0)
            .is_nan()
    );
    // A token that a model rules out has no part in it.
    let softmax = Softmax::new(&[0.0, f32::NEG_INFINITY, 0.0], 1.0);
    near(&[softmax.log_prob(0.0, 1.0)], &[-(2.0_f64.ln())], 1e-6);
}

/// Matrices side by side, large enough to be packed by several threads, are multiplied with as each alone.
#[test]
fn matrices_side_by_side() {
    for (k, widths) in [(300, [1_024, 16, 901]), (0, [16, 32, 5]), (7, [16, 16, 1])] {
        let a = numbers(1, 2 * k);
        let left = View::new(&a, 2, k, k);
        let n: usize = widths.iter().sum();
        let parts = widths.map(|width| numbers(width as u64, k * width));
        let views = [0, 1, 2].map(|part| View::new(&parts[part], k, widths[part], widths[part]));
        let mut together = vec![1.0; 2 * n];
        let beside = Packed::beside(&views);
        multiply(left, beside.panels(), &mut together, n, Start::Zero);
        let mut plain = Vec::new();
        for row in 0..2 {
            for (part, width) in parts.iter().zip(widths) {
                plain.extend((0..width).map(|column| {
                    let terms = (0..k)
                        .map(|i| f64::from(a[row * k + i]) * f64::from(part[i * width + column]));
                    terms.sum::<f64>()
                }));
            }
        }
        near(&together, &plain, 1e-4);
        let mut first = 0;
        for (view, width) in views.into_iter().zip(widths) {
            let mut alone = vec![1.0; 2 * width];
            multiply(
                left,
                Packed::new(view).panels(),
                &mut alone,
                width,
                Start::Zero,
            );
            for (row, alone) in alone.chunks_exact(width).enumerate() {
                assert_eq!(&together[row * n + first..][..width], alone);
            }
            first += width;
        }
    }
}

#[test]
fn a_sum_of_nothing_is_zero() {
    let mut c = vec![3.0; 5 * 20];
    let packed = Packed::new(View::new(&[], 0, 20, 20));
    multiply(
        View::new(&[], 5, 0, 0),
        packed.panels(),
        &mut c,
        20,
        Start::Existing,
    );
    assert!(c.iter().all(|x| x.to_bits() == 3.0_f32.to_bits()));
    multiply(
        View::new(&[], 5, 0, 3).part(1..4, 0..0),
        packed.panels(),
        &mut c,
        20,
        Start::Zero,
    );
    assert!(c[..60].iter().all(|x| x.to_bits() == 0.0_f32.to_bits()));
}

#[test]
fn exponentials_at_the_edges() {
    assert_eq!(exp(0.0).to_bits(), 1.0_f32.to_bits());
    assert_eq!(exp(-1e9).to_bits(), 0.0_f32.to_bits());
    assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0.0_f32.to_bits());
    assert!(exp(f32::NAN).is_nan());
}

#[test]
#[should_panic(expected = "[2, 3] times [4, 2]")]
fn a_product_of_unfitting_shapes() {
    let packed = Packed::new(View::dense(&[0.0; 8], 2));
    multiply(
        View::dense(&[0.0; 6], 3),
        packed.panels(),
        &mut [0.0; 4],
        2,
        Start::Zero,
    );
}

#[test]
#[should_panic(expected = "[2, 2] by 2 in 3 elements")]
fn a_product_into_too_little_room() {
    let packed = Packed::new(View::dense(&[0.0; 6], 2));
    multiply(
        View::dense(&[0.0; 6], 3),
        packed.panels(),
        &mut [0.0; 3],
        2,
        Start::Zero,
    );
}
