//! `RNN` (ONNX 7, 14, 22): a recurrent layer, `h = tanh(W x + R h + b)`.

crate::recurrent::operator! {
    /// `RNN(x, w, r, bias?, lengths?, initial_h?)`: `h = tanh(W x + R h + b)`. `x` is `(time, batch, width)`; results are
    /// all hidden states `(time, directions, batch, hidden)` and the last ones `(directions, batch, hidden)`. f32, lengths
    /// i32.
    pub struct RNN: Rnn
}
