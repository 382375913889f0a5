//! `LSTM` (ONNX 7, 14, 22): a recurrent layer, input, output, forget and cell gates (Hochreiter and Schmidhuber 1997), with peepholes where given.

crate::recurrent::operator! {
    /// `LSTM(x, w, r, bias?, lengths?, initial_h?, initial_c?, peephole?)`: input, output, forget and cell gates (Hochreiter and Schmidhuber 1997), with peepholes where given. `x` is
    /// `(time, batch, width)`; results are all hidden states `(time, directions, batch, hidden)` and the last ones
    /// `(directions, batch, hidden)`. f32, lengths i32. Without gradient.
    pub struct LSTM: Lstm
}
