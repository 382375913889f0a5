//! `HammingWindow` (ONNX 17): a raised cosine that does not end at zero.

crate::cosine_window::window! {
    /// `HammingWindow(size)`: `25 / 46 - 21 / 46 cos(2 pi i / size)`; `size` an integer.
    pub struct HammingWindow = [25.0 / 46.0, 21.0 / 46.0, 0.0]
}
