//! One step in time of `RNN`, `GRU` and `LSTM` on one sequence, forwards and backwards.

/// The cell that a recurrent operator repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Rnn,
    Gru,
    Lstm,
}

impl Cell {
    pub const ALL: [Cell; 3] = [Cell::Rnn, Cell::Gru, Cell::Lstm];

    /// The operator.
    pub fn name(self) -> &'static str {
        match self {
            Cell::Rnn => "RNN",
            Cell::Gru => "GRU",
            Cell::Lstm => "LSTM",
        }
    }

    /// Number of gates: rows of the weights in units of the hidden size.
    pub fn gates(self) -> usize {
        match self {
            Cell::Rnn => 1,
            Cell::Gru => 3,
            Cell::Lstm => 4,
        }
    }

    /// Length of a state: the hidden state `h`, then the cell state `c`, which only an LSTM uses.
    pub fn state(self, hidden: usize) -> usize {
        2 * hidden
    }

    /// Length of the record of a step: value and slope of each gate, then two vectors whose meaning is the cell's.
    pub fn record(self, hidden: usize) -> usize {
        (2 * self.gates() + 2) * hidden
    }

    /// Length of the scratch memory of [`Unit::backward`].
    pub fn scratch(self, hidden: usize) -> usize {
        2 * self.gates() * hidden
    }

    /// Activations of one direction, by default.
    pub fn activations(self) -> &'static [Activation] {
        use Activation::{Sigmoid, Tanh};
        match self {
            Cell::Rnn => &[Tanh],
            Cell::Gru => &[Sigmoid, Tanh],
            Cell::Lstm => &[Sigmoid, Tanh, Tanh],
        }
    }
}

/// A function of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Activation {
    Relu,
    Sigmoid,
    Softsign,
    Tanh,
}

impl Activation {
    /// All of them by the names of ONNX.
    pub(crate) const NAMES: [(&'static str, Activation); 4] = [
        ("Relu", Activation::Relu),
        ("Sigmoid", Activation::Sigmoid),
        ("Softsign", Activation::Softsign),
        ("Tanh", Activation::Tanh),
    ];

    /// The value at `x` and the slope there.
    fn at(self, x: f32) -> (f32, f32) {
        match self {
            Activation::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
            Activation::Sigmoid => {
                let y = kernels::elementwise::math::sigmoid(x);
                (y, y * (1.0 - y))
            }
            Activation::Softsign => {
                let inverse = 1.0 / (1.0 + x.abs());
                (x * inverse, inverse * inverse)
            }
            Activation::Tanh => {
                let y = kernels::elementwise::math::tanh(x);
                (y, 1.0 - y * y)
            }
        }
    }
}

/// The cell of one direction with everything that all of its steps read. Weights are row-major: gates times hidden size
/// rows, `width` columns (`w`) or `hidden` columns (`r`). The bias of the input and that of the recurrence stand behind each
/// other. What is omitted is empty.
pub(crate) struct Unit<'a> {
    pub cell: Cell,
    pub width: usize,
    pub hidden: usize,
    pub w: &'a [f32],
    pub r: &'a [f32],
    pub bias: &'a [f32],
    pub peephole: &'a [f32],
    pub activations: &'a [Activation],
    /// Bound of what goes into the activations of gates.
    pub clip: Option<f32>,
    /// `GRU`: the reset gate multiplies behind the recurrent product.
    pub linear_before_reset: bool,
}

/// Where the gradients of a [`Unit`] and of one element of its sequence are added up. Those that nobody wants are empty.
#[derive(Default)]
pub(crate) struct Sums<'a> {
    pub x: &'a mut [f32],
    pub w: &'a mut [f32],
    pub r: &'a mut [f32],
    pub bias: &'a mut [f32],
    pub peephole: &'a mut [f32],
}

impl Unit<'_> {
    /// One step: from the state `before` to the state `after`. The record keeps what [`Unit::backward`] reads.
    pub fn forward(&self, x: &[f32], before: &[f32], after: &mut [f32], record: &mut [f32]) {
        let (n, rows) = (self.hidden, self.cell.gates() * self.hidden);
        let (h, c) = before.split_at(n);
        let (h_next, c_next) = after.split_at_mut(n);
        let (gates, record) = record.split_at_mut(rows);
        let (slopes, extra) = record.split_at_mut(rows);
        let (extra, extra_slopes) = extra.split_at_mut(n);
        let bias = |i: usize| self.bias.get(i).copied().unwrap_or(0.0);
        let recurrent = |i: usize, h: &[f32]| dot(&self.r[i * n..][..n], h) + bias(rows + i);
        for (i, gate) in gates.iter_mut().enumerate() {
            *gate = dot(&self.w[i * self.width..][..self.width], x) + bias(i);
        }
        match self.cell {
            Cell::Rnn => {
                gates.iter_mut().enumerate().for_each(|(i, gate)| *gate += recurrent(i, h));
                self.activate(0, gates, slopes);
                h_next.copy_from_slice(gates);
            }
            Cell::Gru => {
                // Gates: update, reset, candidate. The extra vector is what the reset gate multiplies, or has multiplied.
                let (gates, candidate) = gates.split_at_mut(2 * n);
                gates.iter_mut().enumerate().for_each(|(i, gate)| *gate += recurrent(i, h));
                self.activate(0, gates, &mut slopes[..2 * n]);
                let (update, reset) = gates.split_at(n);
                if self.linear_before_reset {
                    for i in 0..n {
                        extra[i] = recurrent(2 * n + i, h);
                        candidate[i] += reset[i] * extra[i];
                    }
                } else {
                    extra.iter_mut().zip(reset).zip(h).for_each(|((e, r), h)| *e = r * h);
                    for (i, candidate) in candidate.iter_mut().enumerate() {
                        *candidate += recurrent(2 * n + i, extra);
                    }
                }
                self.activate(1, candidate, &mut slopes[2 * n..]);
                for i in 0..n {
                    h_next[i] = (1.0 - update[i]) * candidate[i] + update[i] * h[i];
                }
            }
            Cell::Lstm => {
                // Gates: input, output, forget, candidate. The extra vectors are value and slope of the activated cell state.
                gates.iter_mut().enumerate().for_each(|(i, gate)| *gate += recurrent(i, h));
                let peep = |gate: usize, values: &mut [f32], c: &[f32]| {
                    let weights = self.peephole.get(gate * n..).unwrap_or_default();
                    values.iter_mut().zip(weights).zip(c).for_each(|((v, p), c)| *v += p * c);
                };
                peep(0, &mut gates[..n], c);
                peep(2, &mut gates[2 * n..3 * n], c);
                self.activate(0, &mut gates[..n], &mut slopes[..n]);
                self.activate(0, &mut gates[2 * n..3 * n], &mut slopes[2 * n..3 * n]);
                self.activate(1, &mut gates[3 * n..], &mut slopes[3 * n..]);
                for i in 0..n {
                    c_next[i] = gates[2 * n + i] * c[i] + gates[i] * gates[3 * n + i];
                }
                peep(1, &mut gates[n..2 * n], c_next);
                self.activate(0, &mut gates[n..2 * n], &mut slopes[n..2 * n]);
                for i in 0..n {
                    (extra[i], extra_slopes[i]) = self.activations[2].at(c_next[i]);
                    h_next[i] = gates[n + i] * extra[i];
                }
            }
        }
    }

    /// Replaces what goes into activation `k` by its values, and gives their slopes.
    fn activate(&self, k: usize, values: &mut [f32], slopes: &mut [f32]) {
        let limit = self.clip.unwrap_or(f32::INFINITY);
        for (value, slope) in values.iter_mut().zip(slopes) {
            let outside = value.abs() > limit;
            (*value, *slope) = self.activations[k].at(value.clamp(-limit, limit));
            if outside {
                *slope = 0.0;
            }
        }
    }

    /// The way back through one step, after [`Unit::forward`] with the same states and record: `d_state`, the gradient of
    /// the state after it, becomes that of the state before it, and all others are added to `sums`.
    pub fn backward(
        &self,
        x: &[f32],
        [before, after]: [&[f32]; 2],
        record: &[f32],
        d_state: &mut [f32],
        sums: &mut Sums,
        scratch: &mut [f32],
    ) {
        let (n, rows) = (self.hidden, self.cell.gates() * self.hidden);
        let (h, c) = before.split_at(n);
        let (d_h, d_c) = d_state.split_at_mut(n);
        let (gates, record) = record.split_at(rows);
        let (slopes, extra) = record.split_at(rows);
        let (extra, extra_slopes) = extra.split_at(n);
        // Gradients of what goes into the gates from the element, and of what goes into them from the state.
        let (d_gates, d_recurrent) = scratch[..2 * rows].split_at_mut(rows);
        match self.cell {
            Cell::Rnn => {
                for i in 0..n {
                    d_gates[i] = d_h[i] * slopes[i];
                }
                d_recurrent.copy_from_slice(d_gates);
                d_h.fill(0.0);
            }
            Cell::Gru => {
                let (update, reset, candidate) = (&gates[..n], &gates[n..2 * n], &gates[2 * n..]);
                for i in 0..n {
                    d_gates[i] = d_h[i] * (h[i] - candidate[i]) * slopes[i];
                    d_gates[2 * n + i] = d_h[i] * (1.0 - update[i]) * slopes[2 * n + i];
                    d_h[i] *= update[i];
                }
                let (d_others, d_candidate) = d_gates.split_at_mut(2 * n);
                let d_reset = &mut d_others[n..];
                if self.linear_before_reset {
                    for i in 0..n {
                        d_reset[i] = d_candidate[i] * extra[i] * slopes[n + i];
                        d_recurrent[2 * n + i] = d_candidate[i] * reset[i];
                    }
                } else {
                    d_reset.fill(0.0);
                    add_transposed(&self.r[2 * n * n..], d_candidate, d_reset);
                    for i in 0..n {
                        d_h[i] += d_reset[i] * reset[i];
                        d_reset[i] *= h[i] * slopes[n + i];
                    }
                    d_recurrent[2 * n..].copy_from_slice(d_candidate);
                }
                d_recurrent[..2 * n].copy_from_slice(d_others);
            }
            Cell::Lstm => {
                let peephole =
                    |gate: usize, i: usize| self.peephole.get(gate * n + i).copied().unwrap_or(0.0);
                for i in 0..n {
                    let [input, output, forget, candidate] = [0, 1, 2, 3].map(|k| gates[k * n + i]);
                    let d_output = d_h[i] * extra[i] * slopes[n + i];
                    let d = d_c[i] + d_h[i] * output * extra_slopes[i] + d_output * peephole(1, i);
                    d_gates[i] = d * candidate * slopes[i];
                    d_gates[n + i] = d_output;
                    d_gates[2 * n + i] = d * c[i] * slopes[2 * n + i];
                    d_gates[3 * n + i] = d * input * slopes[3 * n + i];
                    d_c[i] = d * forget + d_gates[i] * peephole(0, i) + d_gates[2 * n + i] * peephole(2, i);
                }
                for (k, sums) in sums.peephole.chunks_exact_mut(n).enumerate() {
                    let c = if k == 1 { &after[n..] } else { c };
                    sums.iter_mut().zip(&d_gates[k * n..]).zip(c).for_each(|((sum, d), c)| *sum += d * c);
                }
                d_recurrent.copy_from_slice(d_gates);
                d_h.fill(0.0);
            }
        }
        // The rows of the recurrent weight that multiply `h`, and what the others multiply.
        let reset_first = self.cell == Cell::Gru && !self.linear_before_reset;
        let (from_state, last_operand) = if reset_first { (2 * n, extra) } else { (rows, h) };
        add_transposed(self.r, &d_recurrent[..from_state], d_h);
        add_transposed(self.w, d_gates, sums.x);
        add_outer(d_gates, x, sums.w);
        add_outer(&d_recurrent[..from_state], h, sums.r);
        add_outer(
            &d_recurrent[from_state..],
            last_operand,
            sums.r.get_mut(from_state * n..).unwrap_or_default(),
        );
        let d_bias = d_gates.iter().chain(&*d_recurrent);
        sums.bias.iter_mut().zip(d_bias).for_each(|(sum, d)| *sum += d);
    }
}

/// The sum of products, in eight parts so that it vectorizes.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<8>();
    let (b_lanes, b_rest) = b.as_chunks::<8>();
    let mut sums = [0f32; 8];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// Adds the matrix `d x^T` to `sums`, where those are wanted.
fn add_outer(d: &[f32], x: &[f32], sums: &mut [f32]) {
    for (sums, d) in sums.chunks_exact_mut(x.len().max(1)).zip(d) {
        sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += d * x);
    }
}

/// Adds the vector `m^T d` to `sums`, where those are wanted; `m` has a row for each element of `d`.
fn add_transposed(m: &[f32], d: &[f32], sums: &mut [f32]) {
    if sums.is_empty() {
        return;
    }
    for (row, d) in m.chunks_exact(sums.len()).zip(d) {
        sums.iter_mut().zip(row).for_each(|(sum, m)| *sum += d * m);
    }
}
