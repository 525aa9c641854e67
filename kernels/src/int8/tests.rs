#![allow(clippy::float_cmp)] // Where equality is asserted, every bit is meant.
#![allow(clippy::print_stdout)] // Levels that ran or were skipped are named.

use super::{Int8Level, PackedInt8, multiply, multiply::multiply_at, multiply_shared, pack::DEPTH};
use crate::{
    Start, View,
    test_matrices::{Matrix, Order, Random},
};

const ORDERS: [Order; 4] = [Order::Rows, Order::Columns, Order::Gaps, Order::Scattered];

fn at(view: View<'_>, row: usize, column: usize) -> f32 {
    view.data[row * view.row_stride + column * view.column_stride]
}

/// A row of `k` numbers as the definition rounds them: multiples of each block's factor.
fn rounded(cells: &[f32]) -> Vec<(i32, f32)> {
    let blocks = cells.chunks(DEPTH).map(|block| {
        let largest = block.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        let number = move |x: &f32| {
            let exact = f64::from(x * (127.0 / largest)).round_ties_even();
            let number = if largest == 0.0 { 0 } else { exact as i32 };
            (number, largest / 127.0)
        };
        block.iter().map(number).collect::<Vec<_>>()
    });
    blocks.flatten().collect()
}

/// The product by the definition alone: blocks exact in integers, added in the order of `k` by one rounding each.
fn by_definition(a: View<'_>, b: View<'_>, start: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let row = |r: usize| (0..a.columns).map(|i| at(a, r, i)).collect::<Vec<_>>();
    let column = |j: usize| (0..b.rows).map(|i| at(b, i, j)).collect::<Vec<_>>();
    let left: Vec<_> = (0..a.rows).map(|r| rounded(&row(r))).collect();
    let right: Vec<_> = (0..b.columns).map(|j| rounded(&column(j))).collect();
    let mut product = Vec::new();
    for (r, left) in left.iter().enumerate() {
        for (j, right) in right.iter().enumerate() {
            let mut sum = start(r, j);
            for (left, right) in left.chunks(DEPTH).zip(right.chunks(DEPTH)) {
                let block: i32 = left.iter().zip(right).map(|(x, y)| x.0 * y.0).sum();
                sum = (block as f32).mul_add(right[0].1 * left[0].1, sum);
            }
            product.push(sum);
        }
    }
    product
}

/// The product in f64, and how far two roundings to half a factor each can take it from there.
fn exact(a: View<'_>, b: View<'_>, r: usize, j: usize) -> (f64, f64) {
    let mut sum = 0.0;
    let mut room = 1e-6;
    for first in (0..a.columns).step_by(DEPTH) {
        let depth = first..a.columns.min(first + DEPTH);
        let half = |largest: f32| f64::from(largest) / 254.0 * 1.000_001;
        let x = half(
            depth
                .clone()
                .fold(0.0, |most, i| most.max(at(a, r, i).abs())),
        );
        let y = half(
            depth
                .clone()
                .fold(0.0, |most, i| most.max(at(b, i, j).abs())),
        );
        for i in depth {
            let (p, q) = (f64::from(at(a, r, i)), f64::from(at(b, i, j)));
            sum += p * q;
            room += p.abs() * y + q.abs() * x + x * y + p.abs() * q.abs() * 1e-6;
        }
    }
    (sum, room)
}

fn check(level: Int8Level, a: &Matrix, b: &Matrix, gap: usize, start: Start) {
    let (a, b) = (a.view(), b.view());
    let stride = b.columns + gap;
    let before: Vec<f32> = Random(7).values(a.rows * stride);
    let mut c = before.clone();
    multiply_at(level, a, &PackedInt8::new(b), &mut c, stride, start);
    let from = |r: usize, j: usize| match start {
        Start::Zero => 0.0,
        Start::Existing => before[r * stride + j],
    };
    let name = format!(
        "{level:?}, {} x {} x {}, {start:?}",
        a.rows, a.columns, b.columns
    );
    for (index, expected) in by_definition(a, b, from).into_iter().enumerate() {
        let (r, j) = (index / b.columns, index % b.columns);
        let actual = c[r * stride + j];
        assert_eq!(actual.to_bits(), expected.to_bits(), "{name}: c[{r}, {j}]");
        let (sum, room) = exact(a, b, r, j);
        let distance = (f64::from(actual) - f64::from(from(r, j)) - sum).abs();
        assert!(
            distance <= room,
            "{name}: c[{r}, {j}] is {actual}, {sum} in f64"
        );
    }
    for (index, (after, before)) in c.iter().zip(&before).enumerate() {
        assert!(
            index % stride < b.columns || after == before,
            "{name}: wrote beyond column n"
        );
    }
}

fn is_by_definition(level: Int8Level) {
    let mut random = Random(1);
    let mut run = |m, k, n, left, right, gap| {
        let a = Matrix::random(&mut random, m, k, left);
        let b = Matrix::random(&mut random, k, n, right);
        check(level, &a, &b, gap, Start::Zero);
        check(level, &a, &b, gap, Start::Existing);
    };
    for left in ORDERS {
        for right in ORDERS {
            run(7, 65, 35, left, right, 3);
            run(13, 128, 32, left, right, 0);
        }
    }
    let mut edges = Random(2);
    let sizes = [
        1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 127, 129,
    ];
    for _ in 0..60 {
        let mut size = || sizes[edges.below(sizes.len())];
        let (m, k, n, gap) = (size(), size(), size(), size() % 3);
        let mut order = || ORDERS[edges.below(4)];
        run(m, k, n, order(), order(), gap);
    }
    for m in 1..=34 {
        run(m, 70, 48, Order::Rows, Order::Rows, 0);
    }
    // Across the boundaries of what is summed at a time.
    for (m, k, n) in [(1, 767, 33), (5, 769, 31), (3, 1537, 17), (99, 830, 18)] {
        run(m, k, n, Order::Rows, Order::Columns, 0);
    }
}

/// What is not finite makes its row, or its column, NaN, and nothing else.
fn tells_of_what_is_not_finite(level: Int8Level) {
    let (m, k, n) = (5, 70, 35);
    let mut a = vec![0.5; m * k];
    let mut b = vec![1.0; k * n];
    a[2 * k + 69] = f32::NAN;
    a[3 * k] = f32::INFINITY;
    b[5 * n + 34] = f32::NEG_INFINITY;
    b[69 * n + 1] = f32::NAN;
    let mut c = vec![0.0; m * n];
    let packed = PackedInt8::new(View::new(&b, k, n, n));
    let a = View::new(&a, m, k, k);
    multiply_at(level, a, &packed, &mut c, n, Start::Zero);
    for r in 0..m {
        for j in 0..n {
            let value = c[r * n + j];
            let is_lost = [2, 3].contains(&r) || [1, 34].contains(&j);
            assert_eq!(value.is_nan(), is_lost, "{level:?}: c[{r}, {j}] is {value}");
            assert!(is_lost || (value - 35.0).abs() < 1e-4, "{value}");
        }
    }
}

/// Zeros, and numbers so small that their factor has no inverse, count as zero; the largest and smallest factors hold.
fn holds_at_the_ends_of_f32(level: Int8Level) {
    for (x, y, expected) in [
        (0.0, 3.0, 0.0),
        (1e-40, 1e30, 0.0),
        (-0.0, -0.0, 0.0),
        (3e38, 1.0, 64.0 * 3e38_f64),
        (2e-36, 1.0, 64.0 * 2e-36),
    ] {
        let (a, b) = ([x; 64], [y; 64]);
        let mut c = [7.0];
        let packed = PackedInt8::new(View::new(&b, 64, 1, 1));
        let a = View::new(&a, 1, 64, 64);
        multiply_at(level, a, &packed, &mut c, 1, Start::Zero);
        let near = (f64::from(c[0]) - expected).abs() <= expected * 1e-5;
        assert!(
            near || expected > f64::from(f32::MAX) && c[0] == f32::INFINITY,
            "{x} times {y}: {c:?}"
        );
    }
    let packed = PackedInt8::new(View::new(&[], 0, 20, 20));
    let a = View::new(&[], 3, 0, 0);
    let mut c = vec![4.0; 60];
    multiply_at(level, a, &packed, &mut c, 20, Start::Existing);
    assert_eq!(c, [4.0; 60], "{level:?}");
    multiply_at(level, a, &packed, &mut c, 20, Start::Zero);
    assert_eq!(c, [0.0; 60], "{level:?}");
}

/// Levels that cannot run here are named and left out.
fn for_level(level: Int8Level, check: impl FnOnce(Int8Level)) {
    if level.is_available() {
        check(level);
        println!("{level:?}: ran");
    } else {
        println!("{level:?}: skipped, not available on this CPU");
    }
}

macro_rules! level_tests {
    ($($module:ident $level:ident)+) => { $(mod $module {
        use super::Int8Level::$level as LEVEL;
        #[test] fn is_by_definition() { super::for_level(LEVEL, super::is_by_definition); }
        #[test] fn tells_of_what_is_not_finite() { super::for_level(LEVEL, super::tells_of_what_is_not_finite); }
        #[test] fn holds_at_the_ends_of_f32() { super::for_level(LEVEL, super::holds_at_the_ends_of_f32); }
    })+ };
}

level_tests!(portable Portable avx2 Avx2 avx512_vnni Avx512Vnni amx Amx);

/// Rounding by intrinsics and by plain code give the same blocks, in every layout, at the ends of f32, and where something
/// is not finite.
#[cfg(target_arch = "x86_64")]
#[test]
fn rounding_by_avx512_has_the_bits_of_plain_code() {
    use super::pack::{LeftBlock, round_some_plain};

    for_level(Int8Level::Avx512Vnni, |_| {
        let mut random = Random(5);
        let ends = [
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN_POSITIVE,
            1e-40,
            -1e-45,
            -0.0,
            0.5,
        ];
        for (rows, columns) in [(1, 1), (3, 64), (5, 200), (2, 63)] {
            for order in ORDERS {
                for end in ends {
                    let mut matrix = Matrix::random(&mut random, rows, columns, order);
                    let at = random.below(rows * columns);
                    matrix.set(at / columns, at % columns, end);
                    let view = matrix.view();
                    let blocks = rows * columns.div_ceil(DEPTH);
                    let mut rounded =
                        [vec![LeftBlock::ZERO; blocks], vec![LeftBlock::ZERO; blocks]];
                    round_some_plain(view, &mut rounded[0]);
                    super::avx512::round_some(view, &mut rounded[1]);
                    let [plain, vectors] = rounded;
                    for (plain, vectors) in plain.iter().zip(&vectors) {
                        assert_eq!(plain.scale.is_nan(), vectors.scale.is_nan(), "{end}");
                        if !plain.scale.is_nan() {
                            assert_eq!(plain.scale.to_bits(), vectors.scale.to_bits(), "{end}");
                            assert_eq!(plain.quads, vectors.quads, "{end}");
                            assert_eq!(plain.start, vectors.start, "{end}");
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn threads_and_neighbours_change_no_bit() {
    let mut random = Random(3);
    let (m, k) = (9, 200);
    let a = Matrix::random(&mut random, m, k, Order::Rows);
    let parts: Vec<Matrix> = [320, 48, 1601]
        .into_iter()
        .zip(ORDERS)
        .map(|(n, order)| Matrix::random(&mut random, k, n, order))
        .collect();
    let views: Vec<View<'_>> = parts.iter().map(Matrix::view).collect();
    let n = 320 + 48 + 1601;
    let beside = PackedInt8::beside(&views);
    let (mut one, mut shared) = (vec![0.0; m * n], vec![0.0; m * n]);
    multiply(a.view(), &beside, &mut one, n, Start::Zero);
    multiply_shared(a.view(), &beside, &mut shared, n, Start::Zero);
    assert!(one == shared);
    let mut first = 0;
    for view in views {
        let mut alone = vec![0.0; m * view.columns];
        let packed = PackedInt8::new(view);
        multiply(a.view(), &packed, &mut alone, view.columns, Start::Zero);
        for (row, alone) in alone.chunks_exact(view.columns).enumerate() {
            assert!(alone == &one[row * n + first..][..view.columns]);
        }
        first += view.columns;
    }
    // More rows, and longer sums, than are gone through at a time.
    let long = Matrix::random(&mut random, 200, 830, Order::Rows);
    let right = PackedInt8::new(Matrix::random(&mut random, 830, 35, Order::Rows).view());
    let [mut whole, mut split] = [vec![0.0; 200 * 35], vec![0.0; 200 * 35]];
    multiply(long.view(), &right, &mut whole, 35, Start::Zero);
    multiply_shared(long.view(), &right, &mut split, 35, Start::Zero);
    assert!(whole == split);
    // No columns, no rows.
    let none = PackedInt8::new(View::new(&[], k, 0, 0));
    multiply_shared(a.view(), &none, &mut [], 0, Start::Zero);
    let rows = a.view().part(0..0, 0..k);
    multiply_shared(rows, &beside, &mut [], n, Start::Zero);
    // A row's figures are the same whatever rows are computed with it.
    for row in 0..m {
        let mut alone = vec![0.0; n];
        let part = a.view().part(row..row + 1, 0..k);
        multiply(part, &beside, &mut alone, n, Start::Zero);
        assert!(alone == one[row * n..][..n]);
    }
}
