//! `anneal bench ops`.

use anyhow::{Result, bail};
use kernels::{Packing, Softmax, Start, View, Weight, general, rms_norm, swiglu};
use serde_json::json;

use super::fastest_nanoseconds;
use crate::{args::BenchOpsArgs, commands::print_json};

pub(crate) fn run(args: &BenchOpsArgs) -> Result<()> {
    let seconds = args.seconds;
    if !(seconds > 0.0 && seconds <= 3600.0) {
        bail!("--seconds {seconds}: must be over 0 and at most 3600");
    }
    for shape in [
        [32, 576, 960],
        [32, 576, 3072],
        [32, 1536, 576],
        [32, 576, 49152],
        [2224, 576, 3072],
    ] {
        products(shape, seconds)?;
    }
    let cells: Vec<f32> = (0..2048 * 3072).map(|i| (i % 97) as f32 * 0.01).collect();
    let mut out = vec![0.0; cells.len()];
    let rate = |count: usize, nanoseconds: f64| json!({ "elements": count, "elements_per_second": count as f64 * 1e9 / nanoseconds });
    let nanoseconds =
        fastest_nanoseconds(seconds, || swiglu(&cells, 1536, &mut out[..2048 * 1536]));
    report("swiglu", &rate(2048 * 1536, nanoseconds))?;
    let nanoseconds =
        fastest_nanoseconds(seconds, || rms_norm(&cells, &cells[..576], 1e-5, &mut out));
    report("rms_norm", &rate(cells.len(), nanoseconds))?;
    let nanoseconds = fastest_nanoseconds(seconds, || {
        std::hint::black_box(Softmax::new(&cells[..49152], 1.0));
    });
    report("softmax", &rate(49152, nanoseconds))
}

/// A product by each of its routines: of weights packed once, and of the library that takes them as they are.
fn products([m, k, n]: [usize; 3], seconds: f64) -> Result<()> {
    let cells = |count: usize| -> Vec<f32> { (0..count).map(|i| (i % 89) as f32 * 0.01).collect() };
    let (a, b, mut c) = (cells(m * k), cells(k * n), vec![0.0; m * n]);
    let (left, right) = (View::dense(&a, k), View::dense(&b, n));
    let gflops = |nanoseconds: f64| 2.0 * (m * k * n) as f64 / nanoseconds;
    let library = fastest_nanoseconds(seconds, || general(left, right, &mut c, n, Start::Zero));
    let mut figures = json!({
        "shape": [m, k, n],
        "gflops_gemm_crate_all_threads": gflops(library),
    });
    let packings = [
        ("f32", Packing::F32),
        ("bf16", Packing::Bf16),
        ("int8", Packing::Int8),
    ];
    for (name, packing) in packings {
        let weight = Weight::new(right, packing);
        let one = fastest_nanoseconds(seconds, || weight.multiply(left, &mut c, n, Start::Zero));
        let all = fastest_nanoseconds(seconds, || {
            weight.multiply_shared(left, &mut c, n, Start::Zero);
        });
        figures[format!("gflops_{name}_one_thread")] = json!(gflops(one));
        figures[format!("gflops_{name}_all_threads")] = json!(gflops(all));
    }
    report("product", &figures)
}

fn report(name: &str, figures: &serde_json::Value) -> Result<()> {
    print_json(&json!({ "op": name, "figures": figures }))
}
