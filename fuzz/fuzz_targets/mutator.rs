// Three of four changes are made to the decoded model; the others to its bytes.

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    use onnx_qat_tests::hostile::{Dice, mutate};
    use prost::Message;
    let model = data.get(..size).map(onnx::proto::ModelProto::decode);
    if let (Some(Ok(mut model)), 1..) = (model, seed % 4) {
        let mut dice = Dice(seed.into());
        for _ in 0..=seed / 4 % 3 {
            mutate(&mut model, &mut dice);
        }
        let bytes = model.encode_to_vec();
        if bytes.len() <= max_size {
            data[..bytes.len()].copy_from_slice(&bytes);
            return bytes.len();
        }
    }
    libfuzzer_sys::fuzzer_mutate(data, size, max_size)
});
