#![allow(clippy::float_cmp)] // Where equality is asserted, every bit is meant.
#![allow(clippy::print_stdout)] // Levels that ran or were skipped are named.

use half::bf16;

use super::pack::{DEPTH, round};
use super::{
    Level, PANEL_COLUMNS, PackedBf16, level, multiply_at, multiply_panels_at, multiply_shared_at,
};
use crate::{
    View,
    test_matrices::{Matrix, Order, Random},
};

/// The view's elements rounded by the `half` crate, row by row.
fn rounded(view: View) -> Vec<f64> {
    let value = |r, c| view.data[r * view.row_stride + c * view.column_stride];
    (0..view.rows)
        .flat_map(|r| (0..view.columns).map(move |c| (r, c)))
        .map(|(r, c)| bf16::from_f32(value(r, c)).to_f64())
        .collect()
}

/// `c + a · b` in f64 and, for each element, the sum of its terms' sizes.
fn reference(a: View, b: View, c: impl Fn(usize, usize) -> f64) -> Vec<(f64, f64)> {
    let (left, right) = (rounded(a), rounded(b));
    let mut sums = Vec::new();
    for row in left.chunks_exact(a.columns) {
        let start = sums.len();
        sums.extend(
            (0..b.columns)
                .map(|j| c(start / b.columns, j))
                .map(|c| (c, c.abs())),
        );
        for (x, row) in row.iter().zip(right.chunks_exact(b.columns)) {
            for ((sum, size), y) in sums[start..].iter_mut().zip(row) {
                *sum += x * y;
                *size += (x * y).abs();
            }
        }
    }
    sums
}

/// Rounding error of a sum of `k` terms in f32, relative to the sum of their sizes: at most
/// `k · 2^-24` in any order; random signs leave far less, so a tenth of it still catches a lost or
/// doubled term.
fn tolerance(k: usize) -> f64 {
    2.0_f64.powi(-24) * (k as f64 / 10.0 + 4.0)
}

/// Levels that cannot run here are named and left out.
fn for_level(level: Level, check: impl FnOnce()) {
    if level.is_available() {
        check();
        println!("{level:?}: ran");
    } else {
        println!("{level:?}: skipped, not available on this CPU");
    }
}

fn check(level: Level, a: &Matrix, b: &Matrix, gap: usize, accumulate: bool) {
    let (a, b) = (a.view(), b.view());
    let stride = b.columns + gap;
    let before: Vec<f32> = Random(7).values(a.rows * stride);
    let mut c = before.clone();
    multiply_at(
        level,
        a,
        &PackedBf16::new(b),
        &mut c[..],
        stride,
        accumulate,
    );
    let start = |r: usize, j: usize| f64::from(before[r * stride + j]);
    let expected = reference(a, b, |r, j| if accumulate { start(r, j) } else { 0.0 });
    for (index, (expected, size)) in expected.into_iter().enumerate() {
        let (r, j) = (index / b.columns, index % b.columns);
        let actual = f64::from(c[r * stride + j]);
        assert!(
            (actual - expected).abs() <= tolerance(a.columns) * size,
            "{level:?}, {} x {} x {}, accumulate {accumulate}: c[{r}, {j}] is {actual}, not {expected}",
            a.rows,
            a.columns,
            b.columns
        );
    }
    for (index, (after, before)) in c.iter().zip(&before).enumerate() {
        assert!(
            index % stride < b.columns || after == before,
            "{level:?} wrote beyond column n"
        );
    }
}

fn matches_reference(level: Level) {
    const ORDERS: [Order; 4] = [Order::Rows, Order::Columns, Order::Gaps, Order::Scattered];
    let mut random = Random(1);
    let mut run = |m, k, n, left, right, gap| {
        let a = Matrix::random(&mut random, m, k, left);
        let b = Matrix::random(&mut random, k, n, right);
        check(level, &a, &b, gap, false);
        check(level, &a, &b, gap, true);
    };
    for left in ORDERS {
        for right in ORDERS {
            run(17, 33, 35, left, right, 3);
            run(37, 64, 64, left, right, 0);
        }
    }
    let mut edges = Random(2);
    let sizes = [
        1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 65, 97,
    ];
    for _ in 0..80 {
        let mut size = || sizes[edges.below(sizes.len())];
        let (m, k, n, gap) = (size(), size(), size(), size() % 3);
        let mut order = || ORDERS[edges.below(4)];
        run(m, k, n, order(), order(), gap);
    }
    // Every height of a strip, against full and odd numbers of panels.
    for m in 1..=33 {
        run(m, 40, 112, Order::Rows, Order::Rows, 0);
    }
    // Around the models' sizes, and across the boundaries of blocks.
    for (m, k, n) in [
        (1, 575, 33),
        (33, 576, 31),
        (2, 577, 577),
        (97, 800, 20),
        (193, 1537, 17),
    ] {
        run(m, k, n, Order::Rows, Order::Rows, 0);
        run(m, k, n, Order::Columns, Order::Columns, 0);
    }
    run(31, 1600, 16, Order::Columns, Order::Rows, 0);
}

/// Splitting rows and panels changes no bit, and panels outside the range stay as they were.
fn is_split_freely(level: Level) {
    let mut random = Random(3);
    let (m, k, n) = (49, 70, 16 * 7 + 5);
    let a = Matrix::random(&mut random, m, k, Order::Rows);
    let packed = PackedBf16::new(Matrix::random(&mut random, k, n, Order::Columns).view());
    let start = random.values(m * n);
    let mut whole = start.clone();
    multiply_at(level, a.view(), &packed, &mut whole, n, true);
    for (rows, panels) in [(49, 1), (49, 3), (16, 8), (7, 2), (1, 5)] {
        let mut parts = start.clone();
        for row in (0..m).step_by(rows) {
            let part = a.view().part(row..m.min(row + rows), 0..k);
            for panel in (0..packed.panels()).step_by(panels) {
                let range = panel..packed.panels().min(panel + panels);
                let untouched = range.end * PANEL_COLUMNS..n;
                let before = parts.clone();
                // SAFETY: `parts` has all rows from `row` on, each of `n` columns.
                unsafe {
                    let c = parts.as_mut_ptr().add(row * n);
                    multiply_panels_at(level, part, &packed, range, c, n, true);
                }
                for r in 0..m {
                    for j in untouched.clone() {
                        assert_eq!(
                            parts[r * n + j],
                            before[r * n + j],
                            "{level:?}: c[{r}, {j}]"
                        );
                    }
                }
            }
        }
        assert!(
            parts == whole,
            "{level:?}: {rows} rows by {panels} panels differ from the whole"
        );
    }
}

/// Threads that share one product leave the bits that one leaves by itself: few rows and many, beyond the rows and the
/// depth that are packed at a time, with a last panel that is not full.
fn is_shared_by_threads(level: Level) {
    let mut random = Random(4);
    for (m, k, n, gap, order) in [
        (1, 96, 16 * 9, 0, Order::Rows),
        (40, 96, 16 * 9, 3, Order::Columns),
        (33, 1540, 16 * 30 + 7, 0, Order::Rows),
        (200, 200, 16 * 5 + 1, 1, Order::Scattered),
        (3, 0, 40, 0, Order::Rows),
    ] {
        let a = Matrix::random(&mut random, m, k, order);
        let packed = PackedBf16::new(Matrix::random(&mut random, k, n, Order::Rows).view());
        let start = random.values(m * (n + gap));
        for accumulate in [false, true] {
            let [mut whole, mut shared] = [start.clone(), start.clone()];
            multiply_at(level, a.view(), &packed, &mut whole, n + gap, accumulate);
            multiply_shared_at(level, a.view(), &packed, &mut shared, n + gap, accumulate);
            assert!(
                shared == whole,
                "{level:?}: {m} x {k} x {n} on threads differs from the whole"
            );
        }
    }
}

fn propagates_non_finite(level: Level) {
    let (m, k, n) = (18, 37, 35);
    let mut a = vec![0.5; m * k];
    let mut b = vec![1.0; k * n];
    a[2 * k + 36] = f32::NAN;
    a[3 * k] = f32::INFINITY;
    b[5 * n + 34] = f32::NEG_INFINITY;
    b[6 * n + 1] = f32::from_bits(0x7f80_0001);
    let mut c = vec![0.0; m * n];
    let packed = PackedBf16::new(View::new(&b, k, n, n));
    multiply_at(level, View::new(&a, m, k, k), &packed, &mut c, n, false);
    for r in 0..m {
        for j in 0..n {
            let value = c[r * n + j];
            match (r, j) {
                (2, _) | (_, 1) | (3, 34) => assert!(value.is_nan(), "{level:?}: c[{r}, {j}]"),
                (3, _) => assert_eq!(value, f32::INFINITY, "{level:?}: c[{r}, {j}]"),
                (_, 34) => assert_eq!(value, f32::NEG_INFINITY, "{level:?}: c[{r}, {j}]"),
                _ => assert_eq!(value, 18.5, "{level:?}: c[{r}, {j}]"),
            }
        }
    }
}

fn sums_nothing_to_zero(level: Level) {
    let packed = PackedBf16::new(View::new(&[], 0, 20, 20));
    let a = View::new(&[], 3, 0, 0);
    let mut c = vec![4.0; 60];
    multiply_at(level, a, &packed, &mut c, 20, true);
    assert_eq!(c, [4.0; 60], "{level:?}");
    multiply_at(level, a, &packed, &mut c, 20, false);
    assert_eq!(c, [0.0; 60], "{level:?}");
    multiply_at(level, View::new(&[], 0, 0, 0), &packed, &mut [], 20, false);
}

macro_rules! level_tests {
    ($($module:ident $level:ident)+) => { $(mod $module {
        use super::Level::$level as LEVEL;
        #[test] fn matches_reference() { super::for_level(LEVEL, || super::matches_reference(LEVEL)); }
        #[test] fn is_split_freely() { super::for_level(LEVEL, || super::is_split_freely(LEVEL)); }
        #[test] fn is_shared_by_threads() { super::for_level(LEVEL, || super::is_shared_by_threads(LEVEL)); }
        #[test] fn propagates_non_finite() { super::for_level(LEVEL, || super::propagates_non_finite(LEVEL)); }
        #[test] fn sums_nothing_to_zero() { super::for_level(LEVEL, || super::sums_nothing_to_zero(LEVEL)); }
    })+ };
}

level_tests!(portable Portable avx2 Avx2 avx512_bf16 Avx512Bf16 amx Amx);

#[test]
fn the_best_level_is_available() {
    println!("best level here: {:?}", level());
    assert!(level().is_available() && Level::Portable.is_available());
}

/// Products of bf16 are exact in f32, so fused and separate additions agree.
#[test]
fn portable_and_avx2_agree_bit_for_bit() {
    for_level(Level::Avx2, || {
        let mut random = Random(5);
        for m in [1, 2, 3, 4, 7, 13, 24] {
            let (k, n) = (801, 16 * 5 + 3);
            let a = Matrix::random(&mut random, m, k, Order::Rows);
            let packed = PackedBf16::new(Matrix::random(&mut random, k, n, Order::Rows).view());
            let mut sums = [Level::Portable, Level::Avx2].map(|level| {
                let mut c = vec![0.0; m * n];
                multiply_at(level, a.view(), &packed, &mut c, n, false);
                c
            });
            let [portable, avx2] = &mut sums;
            assert!(portable == avx2, "{m} rows");
        }
    });
}

#[test]
fn rounding_is_to_nearest_even_as_half_rounds() {
    let mut random = Random(6);
    let ties = (0..=u32::from(u16::MAX))
        .flat_map(|high| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| high << 16 | low));
    for bits in ties.chain((0..100_000).map(|_| random.next() as u32)) {
        let value = f32::from_bits(bits);
        assert_eq!(
            (round(value) >> 16) as u16,
            bf16::from_f32(value).to_bits(),
            "{bits:#x}"
        );
    }
}

/// Matrices side by side are packed as each by itself, whatever its order in memory and however many panels are packed
/// together.
#[test]
fn matrices_side_by_side_are_packed_as_each_alone() {
    let mut random = Random(8);
    for k in [5, 64, 70, 700] {
        let parts: Vec<Matrix> = [320, 48, 16, 433]
            .into_iter()
            .zip([Order::Rows, Order::Columns, Order::Scattered, Order::Gaps])
            .map(|(n, order)| Matrix::random(&mut random, k, n, order))
            .collect();
        let views: Vec<View> = parts.iter().map(Matrix::view).collect();
        let beside = PackedBf16::beside(&views);
        assert_eq!((beside.k(), beside.n()), (k, 320 + 48 + 16 + 433));
        let mut panel = 0;
        for view in views {
            let alone = PackedBf16::new(view);
            let depth = 0..k.div_ceil(DEPTH);
            for own in 0..alone.panels() {
                assert_eq!(
                    alone.panel(own, depth.clone()),
                    beside.panel(panel, depth.clone())
                );
                panel += 1;
            }
            // By the definition: the identity gives what is packed.
            let columns = view.columns;
            let identity: Vec<f32> = (0..k * k).map(|i| f32::from(i / k == i % k)).collect();
            let mut c = vec![9.0; k * columns];
            let identity = View::new(&identity, k, k, k);
            multiply_at(Level::Portable, identity, &alone, &mut c, columns, false);
            assert!(c.iter().map(|&x| f64::from(x)).eq(rounded(view)));
        }
        assert_eq!(panel, beside.panels());
    }
}

#[test]
#[should_panic(expected = "[2, 3] times [4, 5]")]
fn shapes_must_agree() {
    let b = PackedBf16::new(View::new(&[0.0; 20], 4, 5, 5));
    multiply_at(
        Level::Portable,
        View::new(&[0.0; 6], 2, 3, 3),
        &b,
        &mut [0.0; 10],
        5,
        false,
    );
}
