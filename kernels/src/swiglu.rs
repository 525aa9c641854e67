//! The gated activation silu(gate)·up and its gradient.

use crate::{exp, vectorized::vectorized};

vectorized! {
/// activated = silu(gate)·up, element by element; gate and up lie beside each other in each row.
///
/// # Shapes
/// `gate_up` `[rows, 2·width]`, `activated` `[rows, width]`.
pub fn swiglu(gate_up: &[f32], width: usize, activated: &mut [f32]) -> () = swiglu_loop
}

#[inline(always)]
fn swiglu_loop(gate_up: &[f32], width: usize, activated: &mut [f32]) {
    for (row, out) in gate_up
        .chunks_exact(2 * width)
        .zip(activated.chunks_exact_mut(width))
    {
        let (gate, up) = row.split_at(width);
        for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
            *out = g * sigmoid(*g) * u;
        }
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

vectorized! {
/// Replaces gate and up by their gradients and gives the activation that they had.
///
/// # Shapes
/// `gate_up` `[rows, 2·width]`, `gradient` and `activated` `[rows, width]`.
pub fn swiglu_backward(gate_up: &mut [f32], width: usize, gradient: &[f32], activated: &mut [f32]) -> () = swiglu_backward_loop
}

#[inline(always)]
fn swiglu_backward_loop(
    gate_up: &mut [f32],
    width: usize,
    gradient: &[f32],
    activated: &mut [f32],
) {
    let rows = gate_up
        .chunks_exact_mut(2 * width)
        .zip(gradient.chunks_exact(width));
    for ((row, dy), out) in rows.zip(activated.chunks_exact_mut(width)) {
        let (gate, up) = row.split_at_mut(width);
        let cells = gate.iter_mut().zip(up).zip(dy).zip(out);
        for (((gate, up), dy), out) in cells {
            let (g, u) = (*gate, *up);
            let s = sigmoid(g);
            *out = g * s * u;
            *up = dy * g * s;
            *gate = dy * u * s * (1.0 + g * (1.0 - s));
        }
    }
}
