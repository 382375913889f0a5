//! `GRU` (ONNX 7, 14, 22): a recurrent layer, update, reset and new gates (Cho et al. 2014, arXiv 1406.1078).

crate::recurrent::operator! {
    /// `GRU(x, w, r, bias?, lengths?, initial_h?)`: update, reset and new gates (Cho et al. 2014, arXiv 1406.1078). `x` is
    /// `(time, batch, width)`; results are all hidden states `(time, directions, batch, hidden)` and the last ones
    /// `(directions, batch, hidden)`. f32, lengths i32.
    pub struct GRU: Gru
}
