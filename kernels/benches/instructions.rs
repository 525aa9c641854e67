//! The hot loops, each on work of one size: `benches/instructions.py` counts what instructions a repetition takes.
//!
//! usage: instructions NAME REPETITIONS; without arguments, the names
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program to be run by a script"
)]

use std::hint::black_box;

use kernels::{
    AdamW, Attention, Packing, Segment, Softmax, Start, View, Weight, rms_norm, softmax_gradient,
    swiglu,
};

const NAMES: [&str; 10] = [
    "product_f32",
    "product_bf16",
    "product_int8",
    "pack_f32",
    "attention",
    "attention_backward",
    "rms_norm",
    "swiglu",
    "softmax_and_gradient",
    "adamw",
];

/// The sizes of SmolLM2-135M's blocks.
const WIDTH: usize = 576;
const INNER: usize = 1536;

fn cells(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i % 89) as f32 * 0.01 - 0.4).collect()
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(repetitions)) = (arguments.next(), arguments.next()) else {
        println!("{}", NAMES.join("\n"));
        return;
    };
    let mut work = work(&name);
    for _ in 0..repetitions.parse::<usize>().unwrap() {
        work();
    }
}

fn work(name: &str) -> Box<dyn FnMut()> {
    match name {
        "product_f32" => product(Packing::F32),
        "product_bf16" => product(Packing::Bf16),
        "product_int8" => product(Packing::Int8),
        "pack_f32" => {
            let b = cells(WIDTH * INNER);
            Box::new(move || drop(black_box(Weight::new(View::dense(&b, INNER), Packing::F32))))
        }
        "attention" => {
            let (attention, rows, groups) = sequences();
            let mut mixed = vec![0.0; TOKENS * WIDTH];
            Box::new(move || attention.forward(&rows, &[&groups], &mut mixed))
        }
        "attention_backward" => {
            let (attention, rows, groups) = sequences();
            let d_mixed = cells(TOKENS * WIDTH);
            let mut gradient = vec![0.0; rows.len()];
            Box::new(move || attention.backward(&rows, &[&groups], &d_mixed, &mut gradient))
        }
        "rms_norm" => {
            let (x, mut y) = (cells(64 * WIDTH), vec![0.0; 64 * WIDTH]);
            Box::new(move || rms_norm(&x, &x[..WIDTH], 1e-5, &mut y))
        }
        "swiglu" => {
            let (x, mut y) = (cells(64 * 2 * INNER), vec![0.0; 64 * INNER]);
            Box::new(move || swiglu(&x, INNER, &mut y))
        }
        "softmax_and_gradient" => {
            let logits = cells(49_152);
            Box::new(move || {
                let sums = Softmax::new(&logits, 1.0);
                let mut gradient = logits.clone();
                softmax_gradient(&mut gradient, 7, 1.0, &sums, 0.5, Some((&sums, 0.1)));
                black_box(gradient);
            })
        }
        "adamw" => {
            let adamw = AdamW {
                beta_1: 0.9,
                beta_2: 0.999,
                correction_1: 0.1,
                correction_2: 0.001,
                epsilon: 1e-8,
                rate: 1e-4,
                keep: 1.0,
            };
            let (gradient, mut parameter) = (cells(1 << 16), cells(1 << 16));
            let (mut m, mut v) = (vec![0.0; 1 << 16], vec![0.0; 1 << 16]);
            Box::new(move || adamw.step(&mut parameter, &gradient, [&mut m, &mut v]))
        }
        other => panic!("no work named {other}"),
    }
}

fn product(packing: Packing) -> Box<dyn FnMut()> {
    const ROWS: usize = 32;
    let (a, b) = (cells(ROWS * WIDTH), cells(WIDTH * INNER));
    let weight = Weight::new(View::dense(&b, INNER), packing);
    let mut c = vec![0.0; ROWS * INNER];
    Box::new(move || weight.multiply(View::dense(&a, WIDTH), &mut c, INNER, Start::Zero))
}

const TOKENS: usize = 44 + 2 * 63;

/// A prompt with two answers.
fn sequences() -> (Attention, Vec<f32>, Vec<Segment>) {
    let attention = Attention {
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        window: None,
    };
    let segment = |tokens, prefix| Segment { tokens, prefix };
    let segments = vec![
        segment(0..44, 0..0),
        segment(44..107, 0..44),
        segment(107..170, 0..44),
    ];
    (attention, cells(TOKENS * attention.row_width()), segments)
}
