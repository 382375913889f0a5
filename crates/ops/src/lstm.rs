//! `LSTM` (ONNX 7, 14, 22): a recurrent layer with input, output, forget and cell gates (Hochreiter and Schmidhuber 1997),
//! with peepholes where given.

crate::recurrent::operator! {
    /// `LSTM(x, w, r, bias?, lengths?, initial_h?, initial_c?, peephole?)`: input, output, forget and cell gates
    /// (Hochreiter and Schmidhuber 1997), with peepholes where given. `x` is `(time, batch, width)`; results are all
    /// hidden states `(time, directions, batch, hidden)` and the last hidden and cell states
    /// `(directions, batch, hidden)`. f32, lengths i32.
    pub struct LSTM: Lstm
}
