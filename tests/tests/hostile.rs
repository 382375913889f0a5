//! Damaged and malicious models are refused or compiled, without a panic and in little time: what the fuzz targets look for
//! at length, looked for briefly; and what they once found.

#![allow(clippy::unwrap_used)]

use onnx_qat_tests::hostile::{self, Dice, mutate};
use ops::Ops;
use proptest::prelude::*;
use prost::Message;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Far beyond what any of the small models here takes, also in a debug build beside other tests.
const LONGEST: Duration = Duration::from_secs(10);

static MODELS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(hostile::seeds);

fn within(bytes: &[u8], what: impl FnOnce(&[u8])) {
    let start = Instant::now();
    what(bytes);
    assert!(start.elapsed() < LONGEST, "{:?}", start.elapsed());
}

#[test]
fn there_are_models_to_begin_with() {
    assert!(MODELS.len() > 40, "{}", MODELS.len());
    assert!(MODELS.iter().all(|m| hostile::load(m).is_some()));
}

/// A case takes a fraction of a millisecond, so there are more than `PROPTEST_CASES` says.
fn many() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases.saturating_mul(8), failure_persistence: None, ..usual }
}

proptest! {
    #![proptest_config(many())]

    #[test]
    fn damaged_bytes(model in any::<prop::sample::Index>(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = MODELS[model.index(MODELS.len())].clone();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        within(&bytes, |b| drop(hostile::load(b)));
        within(&bytes, |b| hostile::infer(b, 2));
    }

    #[test]
    fn changed_models(model in any::<prop::sample::Index>(), seed in any::<u64>(), changes in 1usize..6) {
        let bytes = &MODELS[model.index(MODELS.len())];
        let mut model = onnx::proto::ModelProto::decode(&bytes[..]).unwrap();
        let mut dice = Dice(seed);
        (0..changes).for_each(|_| mutate(&mut model, &mut dice));
        let bytes = model.encode_to_vec();
        within(&bytes, |b| hostile::infer(b, 3));
        within(&bytes, hostile::compile);
    }
}

/// A file with the graph of this text.
fn file(text: &str) -> Vec<u8> {
    let graph = ir::text::parse(text, &Ops).unwrap();
    onnx::export(&graph, &onnx::Meta::default(), None).unwrap().0.encode_to_vec()
}

#[test]
fn sizes_that_overflow() {
    for bytes in MODELS.iter() {
        let mut model = onnx::proto::ModelProto::decode(&bytes[..]).unwrap();
        let graph = model.graph.as_mut().unwrap();
        for value in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
            let Some(ty) = value.r#type.as_mut().and_then(|t| t.value.as_mut()) else { continue };
            let onnx::proto::type_proto::Value::TensorType(tensor) = ty else { continue };
            for dim in tensor.shape.iter_mut().flat_map(|s| &mut s.dim) {
                let huge = onnx::proto::tensor_shape_proto::dimension::Value::DimValue(i64::MAX / 2);
                dim.value = Some(huge);
            }
        }
        let bytes = model.encode_to_vec();
        within(&bytes, |b| hostile::infer(b, 2));
        within(&bytes, hostile::compile);
    }
}

/// The data has no shape, so that only the parameters can tell the number of channels; they disagree.
#[test]
fn batch_norm_with_parameters_that_disagree() {
    let mut model = onnx::proto::ModelProto::decode(
        &file(
            "net (float[N,1,2,2] x) => (float[N,2,2,2] y)
             <
               float[2,1,1,1] w = {1.0, 2.0},
               float[2] gamma = {2.0, -1.0},
               float[2] beta = {0.5, 1.0},
               float[2] mean = {3.0, 4.0},
               float[2] var = {1.0, 1.0}
             >
             {
               c = Conv (x, w)
               y = BatchNormalization (c, gamma, beta, mean, var)
             }",
        )[..],
    )
    .unwrap();
    let graph = model.graph.as_mut().unwrap();
    graph
        .input
        .iter_mut()
        .chain(&mut graph.output)
        .chain(&mut graph.value_info)
        .for_each(|v| v.r#type = None);
    let beta = graph.initializer.iter_mut().find(|t| t.name() == "beta").unwrap();
    *beta = onnx::from_tensor("beta", &tensor::Tensor::new(&[1], vec![1f32]));
    assert!(hostile::load(&model.encode_to_vec()).is_none());
}

/// A list of sizes or axes so long that even a shape of unknown sizes would fill the memory.
#[test]
fn lists_of_sizes_that_are_longer_than_any_rank() {
    for operation in
        ["Expand (x, list)", "Reshape (x, list)", "Unsqueeze (x, list)", "ConstantOfShape (list)"]
    {
        let text =
            format!("net (float[2,3] x, int64[1099511627776] list) => (float[] y) {{ y = {operation} }}");
        let refused = ir::text::parse(&text, &Ops).unwrap_err().to_string();
        assert!(refused.contains("longer than the 64 of any tensor"), "{operation}: {refused}");
    }
}

/// A scale per channel, for each of the 2^31 channels of a weight that takes no room in the file.
#[test]
fn weights_of_many_channels_without_elements() {
    let bytes = file(
        "net (float[N,0] x) => (float[N,2147483647] y)
         <float[0,2147483647] w = {}>
         { y = MatMul (x, w) }",
    );
    within(&bytes, hostile::compile);
}

#[test]
fn codes_that_no_type_has() {
    for low in ["-2147483648", "255", "-32769"] {
        let text = format!(
            "net (float[4] state) => (float[] scale) {{ scale, zero_point = qat.ActivationScale <low={low}> (state) }}"
        );
        let refused = ir::text::parse(&text, &Ops).unwrap_err().to_string();
        assert!(refused.contains("at most 16 bits"), "{low}: {refused}");
    }
}

/// Only the fused form of a convolution adds a fourth operand.
#[test]
fn convolution_with_an_operand_too_many() {
    let bytes = file(
        "net (float[1,1] x) => (float[2,2,1] y)
         <float[2,2,1] w = {1.0, 2.0, 3.0, 4.0}, float[2] b = {10.0, 20.0}, float[2,1] more = {0.25, 4.0}>
         {
           c = Conv (w, w, b, more)
           y = Mul (c, x)
         }",
    );
    within(&bytes, hostile::compile);
}

/// Weights and data that are finite, with a bias whose scale is not.
#[test]
fn scales_whose_product_overflows() {
    let text = "net (float[N,2] x) => (float[N,2] y)
         <
           float[4] x_range = {-1.0, 1.0, -1e30, 1e30},
           float[2,2] w = {1e30, 2e30, 1e30, -1e30},
           float[2] b = {0.5, -0.5}
         >
         {
           x_scale, x_scale_zero_point = qat.ActivationScale (x_range)
           x_fq = qat.FakeQuant (x, x_scale, x_scale_zero_point)
           w_abs_max = qat.AbsMax <axis=1> (w)
           w_scale = qat.WeightScale (w_abs_max)
           w_fq = qat.FakeQuant <axis=1, low=-127, high=127> (w, w_scale)
           y = Gemm (x_fq, w_fq, b)
         }";
    let refused = passes::convert(&mut ir::text::parse(text, &Ops).unwrap()).unwrap_err().to_string();
    assert!(refused.contains("is not finite"), "{refused}");
}

/// A scale per channel of an activation, or none at all: only constants are frozen with several.
#[test]
fn scales_of_an_activation_that_are_not_one() {
    for (scale, other) in [("float[0] s = {}", "t"), ("float[2] s = {0.5, 0.25}", "x")] {
        let bytes = file(&format!(
            "net (float[N,2] x, float h) => (float y, float z) <{scale}, int32[2] zero = {{0, 0}}>
             {{
               t = qat.BitwiseXor (x)
               y = qat.FakeQuant <axis=1, low=-127, high=127> (t, s)
               z = qat.FakeQuant <axis=1, low=-127, high=127> ({other}, s)
             }}"
        ));
        within(&bytes, hostile::compile);
    }
}

/// The only number among the outputs, which is taken for the loss, is one that a fusion computes otherwise.
#[test]
fn a_loss_that_a_fusion_replaces() {
    let bytes = file(
        "net (float[2,1,2,2] x, float[2,1,2,2] other) => (float[2,1,2,2] y, float[] scale)
         <
           float[1,1,1,1] k = {0.5},
           float[4] range = {0.0, 0.0, 0.0, 0.0},
           float[] zero = {0.0},
           float[] six = {6.0}
         >
         {
           sum = Add (x, other)
           relu = Clip (sum, zero, six)
           observed = qat.Observe (relu, range)
           scale, zp = qat.ActivationScale (observed)
           fq = qat.FakeQuant <clipped=1> (relu, scale, zp)
           y = Conv (fq, k)
         }",
    );
    within(&bytes, hostile::compile);
}

/// A bias as large as the file says, which no memory holds, and one that is the sum of a weight with itself so often that
/// computing each operand anew would never end.
#[test]
fn a_bias_that_is_computed() {
    let convolution = |bias: &str| {
        file(&format!(
            "net (float x) => (float y)
             <float[2,1,1,1] w = {{1.0, 2.0}}, float[] zero = {{0.0}}, int64[1] channels = {{1073741824002}},
              int8[2] codes = {{1, 2}}, float[] scale = {{0.5}}, int8[] zero_point = {{0}}>
             {{
               {bias}
               y = Conv (x, w, b)
             }}"
        ))
    };
    within(&convolution("b = Expand (zero, channels)"), hostile::compile);
    let sums: Vec<String> = (0..64).map(|i| format!("s{} = Add (s{i}, s{i})", i + 1)).collect();
    let sums =
        format!("s0 = DequantizeLinear (codes, scale, zero_point) {} b = Identity (s64)", sums.join(" "));
    within(&convolution(&sums), hostile::compile);
}

#[test]
fn a_program_that_no_memory_holds() {
    let bytes = file(
        "net (float[1] x) => (float[1048576,1048576,64] y)
         <int64[3] shape = {1048576, 1048576, 64}>
         { y = Expand (x, shape) }",
    );
    let (graph, _) = hostile::load(&bytes).unwrap();
    let error = exec::Program::compile(&graph).map(drop).unwrap_err().to_string();
    assert!(error.contains("more than this machine gives"), "{error}");
}

/// Constants that are small in the file, and whose results take hours.
#[test]
fn constants_that_take_long() {
    for operation in [
        "Conv (wide, high)",
        "AveragePool <kernel_shape=[2048, 2048]> (wide)",
        "Einsum <equation=\"abcd,efgh->a\"> (wide, high)",
        "MatMul (wide, wide)",
        "LRN <size=2000> (channels)",
    ] {
        let bytes = file(&format!(
            "net (float[1] x) => (float y)
             <float[] one = {{1.0}}, int64[4] sizes = {{1, 1, 4000, 4000}}, int64[4] kernel = {{1, 1, 2048, 2048}},
              int64[4] many = {{1, 4000, 2000, 2}}>
             {{
               wide = Expand (one, sizes)
               high = Expand (one, kernel)
               channels = Expand (one, many)
               made = {operation}
               y = Add (made, x)
             }}"
        ));
        within(&bytes, hostile::compile);
    }
}

/// Deeper than any stack, if each of them were looked through by a call.
#[test]
fn a_convolution_behind_many_transposes() {
    let turns: Vec<String> =
        (0..3000).map(|i| format!("x{} = Transpose <perm=[0, 1, 3, 2]> (x{i})", i + 1)).collect();
    let bytes = file(&format!(
        "net (float[1,1,2,2] x0) => (float[1,1,2,2] y) <float[1,1,1,1] w = {{1.0}}>
         {{ {} y = Conv (x3000, w) }}",
        turns.join(" ")
    ));
    within(&bytes, hostile::compile);
}

/// A bias of one number that is taken of millions, for each convolution anew.
#[test]
fn a_bias_that_all_share() {
    let layers: Vec<String> = (0..300).map(|i| format!("x{} = Conv (x{i}, w, b)", i + 1)).collect();
    let bytes = file(&format!(
        "net (float[1,1,2] x0) => (float[1,1,2] x300)
         <float[1,1,1] w = {{1.0}}, int8[1] codes = {{1}}, float[] scale = {{0.5}}, int8[] zero_point = {{0}},
          int64[1] sizes = {{4194304}}, int64[1] from = {{7}}, int64[1] to = {{8}}>
         {{
           number = DequantizeLinear (codes, scale, zero_point)
           wide = Expand (number, sizes)
           b = Slice (wide, from, to)
           {}
         }}",
        layers.join(" ")
    ));
    within(&bytes, hostile::compile);
}
