//! Writes the models that the fuzz targets begin with: `cargo run -p onnx-qat-tests --example fuzz_seeds`.

use std::fs;
use std::path::Path;

fn main() -> std::io::Result<()> {
    for target in ["load", "infer", "compile"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        fs::create_dir_all(&folder)?;
        for (i, model) in onnx_qat_tests::hostile::seeds().iter().enumerate() {
            fs::write(folder.join(format!("{i}.onnx")), model)?;
        }
    }
    Ok(())
}
