//! The operations' backward passes.

use burn::backend::{
    Autodiff, AutodiffBackend, TensorMetadata,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    ops::FloatTensorOps,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{DType, Shape};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

use super::{
    Attention, CubeOps, FigurePlan, HeadLayout, Truncation, attention, elementwise, gather, head,
    norm,
    product::{transposed, weight_gradient},
    reduce::sum_rows,
};

#[derive(Debug)]
struct NormBackward;

impl Backward<CubeBackend, 2> for NormBackward {
    type State = (CubeTensor, CubeTensor, f32);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<CubeBackend>(&ops.node);
        let (x, gamma, epsilon) = ops.state;
        let (dtype, shape) = (gamma.dtype, gamma.shape());
        let (dx, rows) = norm::rms_norm_backward(x, gamma, dy, epsilon);
        let [of_x, of_gamma] = ops.parents;
        if let Some(node) = of_x {
            grads.register::<CubeBackend>(node.id, dx);
        }
        if let Some(node) = of_gamma {
            let sum = CubeBackend::float_reshape(sum_rows(rows), shape);
            grads.register::<CubeBackend>(node.id, head::cast(sum, dtype));
        }
    }
}

#[derive(Debug)]
struct SwigluBackward;

impl Backward<CubeBackend, 2> for SwigluBackward {
    type State = (CubeTensor, CubeTensor);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<CubeBackend>(&ops.node);
        let (gate, up) = ops.state;
        let (dgate, dup) = elementwise::swiglu_backward(gate, up, dy);
        for (parent, gradient) in ops.parents.into_iter().zip([dgate, dup]) {
            if let Some(node) = parent {
                grads.register::<CubeBackend>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct RotateBackward;

impl Backward<CubeBackend, 1> for RotateBackward {
    type State = (CubeTensor, CubeTensor);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<CubeBackend>(&ops.node);
        let (cos, sin) = ops.state;
        if let [Some(node)] = ops.parents {
            let dx = elementwise::rotate(dy, cos, sin, true);
            grads.register::<CubeBackend>(node.id, dx);
        }
    }
}

#[derive(Debug)]
struct PickBackward;

impl Backward<CubeBackend, 1> for PickBackward {
    type State = (CubeTensor, CubeTensor);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<CubeBackend>(&ops.node);
        let (order, starts) = ops.state;
        if let [Some(node)] = ops.parents {
            grads.register::<CubeBackend>(node.id, gather::scatter_add(dy, order, starts));
        }
    }
}

#[derive(Debug)]
struct AddBackward;

impl Backward<CubeBackend, 2> for AddBackward {
    type State = ();

    fn backward(self, ops: Ops<(), 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<CubeBackend>(&ops.node);
        for node in ops.parents.into_iter().flatten() {
            grads.register::<CubeBackend>(node.id, dy.clone());
        }
    }
}

#[derive(Debug)]
struct BiasBackward;

impl Backward<CubeBackend, 2> for BiasBackward {
    /// The bias's type and shape.
    type State = (DType, Shape);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<CubeBackend>(&ops.node);
        let (dtype, shape) = ops.state;
        let [of_x, of_bias] = ops.parents;
        if let Some(node) = of_bias {
            let sum = CubeBackend::float_reshape(sum_rows(dy.clone()), shape);
            grads.register::<CubeBackend>(node.id, head::cast(sum, dtype));
        }
        if let Some(node) = of_x {
            grads.register::<CubeBackend>(node.id, dy);
        }
    }
}

#[derive(Debug)]
struct ProductBackward;

impl Backward<CubeBackend, 2> for ProductBackward {
    type State = (CubeTensor, CubeTensor);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<CubeBackend>(&ops.node);
        let (lhs, rhs) = ops.state;
        let [of_lhs, of_rhs] = ops.parents;
        if let Some(node) = of_lhs {
            let dlhs = CubeBackend::product(dy.clone(), transposed(rhs));
            grads.register::<CubeBackend>(node.id, dlhs);
        }
        if let Some(node) = of_rhs {
            grads.register::<CubeBackend>(node.id, weight_gradient(lhs, dy));
        }
    }
}

#[derive(Debug)]
struct PullBackward;

impl Backward<CubeBackend, 3> for PullBackward {
    /// What is multiplied, and the result's gradient.
    type State = (CubeTensor, CubeTensor, CubeTensor);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        // That of nothing.
        grads.consume::<CubeBackend>(&ops.node);
        let (inner, weight, slope) = ops.state;
        let [of_x, of_inner, of_weight] = ops.parents;
        if let Some(node) = of_inner {
            let dinner = CubeBackend::product(slope.clone(), transposed(weight));
            grads.register::<CubeBackend>(node.id, dinner);
        }
        if let Some(node) = of_weight {
            let dweight = weight_gradient(inner, slope.clone());
            grads.register::<CubeBackend>(node.id, dweight);
        }
        if let Some(node) = of_x {
            grads.register::<CubeBackend>(node.id, slope);
        }
    }
}

#[derive(Debug)]
struct AdapterBackward;

impl Backward<CubeBackend, 3> for AdapterBackward {
    /// What was multiplied, the factors and their scale.
    type State = (CubeTensor, [CubeTensor; 2], f32);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<CubeBackend>(&ops.node);
        let (x, [a, b], scale) = ops.state;
        let scaled = |product| CubeBackend::float_mul_scalar(product, scale.into());
        let [of_y, of_a, of_b] = ops.parents;
        if let Some(node) = of_a {
            let back = scaled(CubeBackend::product(dy.clone(), transposed(b)));
            grads.register::<CubeBackend>(node.id, weight_gradient(x.clone(), back));
        }
        if let Some(node) = of_b {
            let inner = scaled(CubeBackend::product(x, a));
            grads.register::<CubeBackend>(node.id, weight_gradient(inner, dy.clone()));
        }
        if let Some(node) = of_y {
            grads.register::<CubeBackend>(node.id, dy);
        }
    }
}

#[derive(Debug)]
struct WeightsBackward;

impl Backward<CubeBackend, 1> for WeightsBackward {
    type State = CubeTensor;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dweights = grads.consume::<CubeBackend>(&ops.node);
        if let [Some(node)] = ops.parents {
            let dscores = attention::attention_weights_backward(ops.state, dweights);
            grads.register::<CubeBackend>(node.id, dscores);
        }
    }
}

#[derive(Debug)]
struct AttendBackward;

impl Backward<CubeBackend, 3> for AttendBackward {
    type State = Attention;

    fn backward(self, ops: Ops<Attention, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dmixed = grads.consume::<CubeBackend>(&ops.node);
        let gradients = ops.state.backward(dmixed);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = parent {
                grads.register::<CubeBackend>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct FiguresBackward;

/// What the head's backward pass needs.
#[derive(Debug, Clone)]
struct FiguresState {
    inputs: [CubeTensor; 3],
    plan: FigurePlan,
    kept: CubeTensor,
}

impl Backward<CubeBackend, 2> for FiguresBackward {
    type State = FiguresState;

    fn backward(self, ops: Ops<FiguresState, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradients = grads.consume::<CubeBackend>(&ops.node);
        let FiguresState { inputs, plan, kept } = ops.state;
        let [of_hidden, of_weight] = ops.parents;
        let wants_weight = of_weight.is_some();
        let (hidden, weight) = head::figures_backward(inputs, plan, &kept, gradients, wants_weight);
        if let Some(node) = of_hidden {
            grads.register::<CubeBackend>(node.id, hidden);
        }
        if let (Some(node), Some(weight)) = (of_weight, weight) {
            grads.register::<CubeBackend>(node.id, weight);
        }
    }
}

impl<C: CheckpointStrategy> CubeOps for Autodiff<CubeBackend, C> {
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        let ((x, of_x), (gamma, of_gamma)) = (x.into_parts(), gamma.into_parts());
        let y = norm::rms_norm(x.clone(), gamma.clone(), epsilon);
        match NormBackward
            .prepare::<C>([of_x, of_gamma])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish((x, gamma, epsilon), y),
            OpsKind::UnTracked(operation) => operation.finish(y),
        }
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((gate, of_gate), (up, of_up)) = (gate.into_parts(), up.into_parts());
        let y = elementwise::swiglu(gate.clone(), up.clone());
        match SwigluBackward
            .prepare::<C>([of_gate, of_up])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish((gate, up), y),
            OpsKind::UnTracked(operation) => operation.finish(y),
        }
    }

    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (x, of_x) = x.into_parts();
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        let y = elementwise::rotate(x, cos.clone(), sin.clone(), false);
        match RotateBackward
            .prepare::<C>([of_x])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish((cos, sin), y),
            OpsKind::UnTracked(operation) => operation.finish(y),
        }
    }

    fn token_figures(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        plan: FigurePlan,
    ) -> FloatTensor<Self> {
        let ((hidden, of_hidden), (weight, of_weight)) = (hidden.into_parts(), weight.into_parts());
        let inputs = [hidden, weight, targets];
        let [hidden, weight, targets] = inputs.clone();
        let (figures, kept) = head::figures(hidden, weight, targets, plan);
        match FiguresBackward
            .prepare::<C>([of_hidden, of_weight])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => {
                operation.finish(FiguresState { inputs, plan, kept }, figures)
            }
            OpsKind::UnTracked(operation) => operation.finish(figures),
        }
    }

    fn pick_rows(
        x: FloatTensor<Self>,
        picks: IntTensor<Self>,
        order: IntTensor<Self>,
        starts: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let (x, of_x) = x.into_parts();
        let y = gather::pick_rows(x, picks);
        match PickBackward.prepare::<C>([of_x]).compute_bound().stateful() {
            OpsKind::Tracked(operation) => operation.finish((order, starts), y),
            OpsKind::UnTracked(operation) => operation.finish(y),
        }
    }

    fn add(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((x, of_x), (y, of_y)) = (x.into_parts(), y.into_parts());
        let sum = elementwise::add(x, y);
        match AddBackward
            .prepare::<C>([of_x, of_y])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish((), sum),
            OpsKind::UnTracked(operation) => operation.finish(sum),
        }
    }

    fn add_bias(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((x, of_x), (bias, of_bias)) = (x.into_parts(), bias.into_parts());
        let state = (bias.dtype, bias.shape());
        let sum = elementwise::add(x, bias);
        match BiasBackward
            .prepare::<C>([of_x, of_bias])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish(state, sum),
            OpsKind::UnTracked(operation) => operation.finish(sum),
        }
    }

    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((lhs, of_lhs), (rhs, of_rhs)) = (lhs.into_parts(), rhs.into_parts());
        let y = CubeBackend::product(lhs.clone(), rhs.clone());
        match ProductBackward
            .prepare::<C>([of_lhs, of_rhs])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish((lhs, rhs), y),
            OpsKind::UnTracked(operation) => operation.finish(y),
        }
    }

    fn pull(
        x: FloatTensor<Self>,
        inner: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        slope: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let ((x, of_x), (inner, of_inner), (weight, of_weight)) =
            (x.into_parts(), inner.into_parts(), weight.into_parts());
        let slope = slope.into_primitive();
        let nothing = CubeBackend::pull(x, inner.clone(), weight.clone(), slope.clone());
        match PullBackward
            .prepare::<C>([of_x, of_inner, of_weight])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish((inner, weight, slope), nothing),
            OpsKind::UnTracked(operation) => operation.finish(nothing),
        }
    }

    fn with_adapter_gradient(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self> {
        let ((y, of_y), (a, of_a), (b, of_b)) = (y.into_parts(), a.into_parts(), b.into_parts());
        let x = x.into_primitive();
        match AdapterBackward
            .prepare::<C>([of_y, of_a, of_b])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish((x, [a, b], scale), y),
            OpsKind::UnTracked(operation) => operation.finish(y),
        }
    }

    fn attention_weights(
        scores: FloatTensor<Self>,
        query_positions: IntTensor<Self>,
        key_positions: IntTensor<Self>,
        window: i32,
    ) -> FloatTensor<Self> {
        let (scores, of_scores) = scores.into_parts();
        let weights = attention::attention_weights(scores, query_positions, key_positions, window);
        match WeightsBackward
            .prepare::<C>([of_scores])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish(weights.clone(), weights),
            OpsKind::UnTracked(operation) => operation.finish(weights),
        }
    }

    fn attend(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        positions: IntTensor<Self>,
        window: i32,
    ) -> FloatTensor<Self> {
        let ((query, of_query), (key, of_key), (value, of_value)) =
            (query.into_parts(), key.into_parts(), value.into_parts());
        let attention = Attention::new([query, key, value], positions, window);
        let mixed = attention.mixed();
        match AttendBackward
            .prepare::<C>([of_query, of_key, of_value])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish(attention, mixed),
            OpsKind::UnTracked(operation) => operation.finish(mixed),
        }
    }

    fn decode_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        query_positions: IntTensor<Self>,
        window: i32,
    ) -> FloatTensor<Self> {
        Self::from_inner(CubeBackend::decode_attention(
            query.into_primitive(),
            keys.into_primitive(),
            values.into_primitive(),
            query_positions,
            window,
        ))
    }

    fn place_heads(
        projected: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        query_norm: FloatTensor<Self>,
        key_norm: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        positions: IntTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        sizes: HeadLayout,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let inner = FloatTensor::<Self>::into_primitive;
        let (query, keys, values) = CubeBackend::place_heads(
            inner(projected),
            inner(bias),
            inner(query_norm),
            inner(key_norm),
            inner(cos),
            inner(sin),
            positions,
            inner(keys),
            inner(values),
            sizes,
            epsilon,
        );
        (
            Self::from_inner(query),
            Self::from_inner(keys),
            Self::from_inner(values),
        )
    }

    fn add_norm(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [x, y, gamma] = [x, y, gamma].map(FloatTensor::<Self>::into_primitive);
        let (sum, normed) = CubeBackend::add_norm(x, y, gamma, epsilon);
        (Self::from_inner(sum), Self::from_inner(normed))
    }

    fn gated(gate_up: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::from_inner(CubeBackend::gated(gate_up.into_primitive()))
    }

    fn write_rows(
        target: FloatTensor<Self>,
        slots: IntTensor<Self>,
        rows: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let [target, rows] = [target, rows].map(FloatTensor::<Self>::into_primitive);
        Self::from_inner(CubeBackend::write_rows(target, slots, rows))
    }

    fn write_int_rows(
        target: IntTensor<Self>,
        slots: IntTensor<Self>,
        rows: IntTensor<Self>,
    ) -> IntTensor<Self> {
        CubeBackend::write_int_rows(target, slots, rows)
    }

    fn logits(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        is_tied: bool,
    ) -> FloatTensor<Self> {
        let [hidden, weight] = [hidden, weight].map(FloatTensor::<Self>::into_primitive);
        Self::from_inner(CubeBackend::logits(hidden, weight, is_tied))
    }

    fn draw_logits(
        logits: FloatTensor<Self>,
        uniforms: FloatTensor<Self>,
        truncation: Truncation,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        let [logits, uniforms] = [logits, uniforms].map(FloatTensor::<Self>::into_primitive);
        let (drawn, ids) = CubeBackend::draw_logits(logits, uniforms, truncation);
        (Self::from_inner(drawn), ids)
    }
}
