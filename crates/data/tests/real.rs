//! Real archives: the digits fixture, and where `ONNX_QAT_CORPUS` names a folder with them, larger ones.

use onnx_qat_data::{Dataset, InputSpec, Preprocess, Role, Source};
use std::path::Path;
use tensor::DType;

fn open(spec: &str, role: Role, input: InputSpec, preprocess: &Preprocess) -> Dataset {
    Source::parse(spec, role).and_then(|s| s.open(&[input], preprocess)).unwrap_or_else(|e| panic!("{e}"))
}

fn input(dims: &[usize]) -> InputSpec {
    let dims: Vec<Option<usize>> = dims.iter().map(|&d| Some(d)).collect();
    InputSpec::float("input", &[&[None], &dims[..]].concat())
}

/// Mean over the first samples, to see that preprocessing did what it says.
fn mean(data: &Dataset) -> f32 {
    let samples: Vec<usize> = (0..data.len().min(100)).collect();
    let mut out = vec![0.0; samples.len() * data.sample_shape(0).iter().product::<usize>()];
    data.read_f32(0, &samples, &mut out).unwrap_or_else(|e| panic!("{e}"));
    out.iter().sum::<f32>() / out.len() as f32
}

#[test]
fn digits_fixture() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/digits/digits.npz");
    let path = path.display().to_string();
    for (spec, role, len) in [
        (path.clone(), Role::Train, 1437),
        (path.clone(), Role::Eval, 360),
        (format!("{path}#train"), Role::Eval, 1437),
        (format!("{path}#test"), Role::Train, 360),
    ] {
        let data = open(&spec, role, input(&[1, 8, 8]), &Preprocess::default());
        assert_eq!((data.len(), data.sample_shape(0)), (len, &[1, 8, 8][..]));
        assert!(data.check_labels(10).is_ok() && data.check_labels(9).is_err());
        assert!((0.25..0.35).contains(&mean(&data)), "{}", mean(&data));
    }
}

#[test]
fn corpus() {
    let Ok(corpus) = std::env::var("ONNX_QAT_CORPUS") else {
        println!("skipped: ONNX_QAT_CORPUS is not set");
        return;
    };
    let at = |name: &str| format!("{corpus}/data/{name}");
    let plain = Preprocess::default();
    let (train, test) = (
        open(&at("digits.npz"), Role::Train, input(&[1, 8, 8]), &plain),
        open(&at("digits.npz"), Role::Eval, input(&[1, 8, 8]), &plain),
    );
    assert_eq!((train.len(), test.len()), (1437, 360));
    let half = open(&at("fsdd_logmel.npz"), Role::Train, input(&[1, 64, 32]), &plain);
    assert_eq!(half.len(), 450);
    assert!(half.check_labels(10).is_ok() && mean(&half).is_finite());
    let int8 = open(&at("kws01.npz#test"), Role::Train, input(&[1, 49, 10]), &plain);
    assert_eq!(int8.len(), 900);
    let tokens = InputSpec { dtype: DType::I64, ..input(&[32]) };
    let text = open(&at("sms_spam.npz"), Role::Eval, tokens, &plain);
    let mut row = [-1; 32];
    assert!(text.read_i64(0, &[1114], &mut row).is_ok() && row.iter().all(|&t| (0..3000).contains(&t)));
    assert_eq!((text.len(), text.check_labels(2).is_ok()), (1115, true));
    let norm = Preprocess { mean: vec![127.5], std: vec![127.5], ..Preprocess::default() };
    let (train, test) = (
        open(&at("mnist"), Role::Train, input(&[1, 28, 28]), &norm),
        open(&at("mnist/t10k-images-idx3-ubyte.gz"), Role::Eval, input(&[784]), &norm),
    );
    assert_eq!((train.len(), test.len()), (60000, 10000));
    assert!(train.check_labels(10).is_ok() && test.check_labels(10).is_ok());
    assert!((-0.8..-0.7).contains(&mean(&test)), "{}", mean(&test));

    let imagenet = Preprocess::preset("imagenet").unwrap_or_else(|e| panic!("{e}"));
    let (train, val) = (
        open(&at("ILSVRC2012"), Role::Train, input(&[3, 224, 224]), &imagenet),
        open(&at("ILSVRC2012"), Role::Eval, input(&[3, 160, 160]), &imagenet),
    );
    assert_eq!((train.len(), val.len()), (116, 416));
    assert!(val.check_labels(1000).is_ok() && (-0.5..0.5).contains(&mean(&val)), "{}", mean(&val));
    let cifar = Preprocess::preset("cifar10").unwrap_or_else(|e| panic!("{e}"));
    let small = open(&at("cifar10"), Role::Eval, input(&[3, 32, 32]), &cifar);
    assert_eq!((small.len(), small.sample_shape(0)), (2000, &[3, 32, 32][..]));
    assert!((-0.5..0.5).contains(&mean(&small)), "{}", mean(&small));
    let folder = open(&at("cifar10#train"), Role::Eval, input(&[3, 32, 32]), &cifar);
    assert_eq!((folder.len(), folder.check_labels(10).is_ok()), (1000, true));
}
