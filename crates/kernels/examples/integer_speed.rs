//! Prints the speed of convolutions of 8-bit codes, shapes of known networks, on one thread.
//!
//! `cargo run --release -p onnx-qat-kernels --example integer_speed [batch]`. Columns: time and speed (a multiplication
//! and an addition are two operations) of each form of the kernel that this CPU has.

mod shapes;

use onnx_qat_kernels::integer::{self, Form};
use shapes::{SHAPES, time};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let batch = std::env::args().nth(1).map_or(Ok(8), |batch| batch.parse())?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    pool.install(|| SHAPES.into_iter().try_for_each(|(name, shape)| measure(name, batch, shape)))?;
    Ok(())
}

fn measure(name: &str, batch: usize, shape: [usize; 6]) -> Result<(), String> {
    let geometry = shapes::conv(batch, shape)?;
    let outputs = geometry.out_channels;
    let x: Vec<u8> = (0..geometry.input_len()).map(|i| (i % 251) as u8).collect();
    let w: Vec<i8> = (0..geometry.weight_len()).map(|i| (i % 255) as u8 as i8).collect();
    let mut y = vec![0; geometry.output_len()];
    let operations = 2.0 * y.len() as f64 * (w.len() / outputs) as f64;
    print!("{}", shapes::describe(name, shape));
    for form in Form::ALL.into_iter().filter(|form| form.available()) {
        let conv = integer::Conv::with_form(form, geometry, &w, 10, None);
        let (scale, mut workspace) = (vec![1e-3; outputs], vec![0; conv.workspace()]);
        let time = time(|| conv.codes(&x, &scale, 20, &mut y, &mut workspace));
        print!("  | {form:?} {:8.3} ms {:6.1} GOP/s", time * 1e3, operations / time * 1e-9);
    }
    println!();
    Ok(())
}
