//! `BlackmanWindow` (ONNX 17): a sum of two cosines.

crate::cosine_window::window! {
    /// `BlackmanWindow(size)`: `0.42 - 0.5 cos(2 pi i / size) + 0.08 cos(4 pi i / size)`; `size` an integer.
    pub struct BlackmanWindow = [0.42, 0.5, 0.08]
}
