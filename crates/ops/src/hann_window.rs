//! `HannWindow` (ONNX 17): a raised cosine.

crate::cosine_window::window! {
    /// `HannWindow(size)`: `0.5 - 0.5 cos(2 pi i / size)`; `size` an integer.
    pub struct HannWindow = [0.5, 0.5, 0.0]
}
