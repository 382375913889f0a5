//! Training on a small network: without labels, interrupted and resumed, diverging.

#![allow(clippy::unwrap_used)]

use onnx_qat::data::Dataset;
use onnx_qat::ir::{Kind, Role};
use onnx_qat::ops::QuantizeLinear;
use onnx_qat::passes::{ActivationQuantizeType, Hooks, LSQ_GROUP, QuantConfig, WeightQuantizeType};
use onnx_qat::prelude::{
    DataRole, Event, FitOptions, Model, Optimizer, ParamGroup, Preprocess, Schedule, Source,
};
use onnx_qat::tensor::Tensor;
use onnx_qat::train::{
    CheckpointOptions, Distill, DistillLoss, DivergenceOptions, GradientClip, Keep, LossConfig, NoDecay,
    Quality,
};
use onnx_qat::{calibrate, convert, fit, quant_aware};
use std::fs;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/digits").join(name)
}

/// The network with calibrated quantizers, its training data and its test data.
fn digits() -> (Model, Dataset, Dataset) {
    digits_with(&QuantConfig::default())
}

fn digits_with(config: &QuantConfig) -> (Model, Dataset, Dataset) {
    let mut model = Model::load(fixture("digits_cnn.onnx")).unwrap();
    let file = fixture("digits.npz").display().to_string();
    let open = |role| {
        let source = Source::parse(&file, role).unwrap();
        model.open_data(&source, &Preprocess::default()).unwrap()
    };
    let (train, test) = (open(DataRole::Train), open(DataRole::Eval));
    quant_aware(&mut model, config, &Hooks::default()).unwrap();
    calibrate(&mut model, &train, 64, Some(8)).unwrap();
    (model, train, test)
}

/// The same pictures without labels.
fn unlabelled(model: &Model, key: &str) -> Dataset {
    let file = fixture("digits.npz").display().to_string();
    let source = Source::parse(&format!("{file}#{key}"), DataRole::Train).unwrap();
    let data = model.open_data(&source, &Preprocess::default()).unwrap();
    assert!(data.labels().is_none());
    data
}

fn weights(rate: f32) -> ParamGroup {
    ParamGroup::weights(Optimizer::MOMENTUM, Schedule::constant(rate), 1e-4)
}

/// The emitted file after training, and what was told.
fn trained(
    options: &FitOptions,
    model: &Model,
    train: &Dataset,
    eval: Option<&Dataset>,
) -> (Vec<u8>, Vec<Event>) {
    let (mut model, mut events) = (model.clone(), Vec::new());
    fit(&mut model, train, eval, options, &mut |event| events.push(event.clone())).unwrap();
    convert(&mut model).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    model.save(&path).unwrap();
    (fs::read(path).unwrap(), events)
}

#[test]
fn the_float_model_teaches_without_labels() {
    let (model, _, _) = digits();
    let (train, test) = (unlabelled(&model, "x_train"), unlabelled(&model, "x_test"));
    let distances = |loss, rate| {
        let distill = Some(Distill { loss, ..Distill::default() });
        let loss = LossConfig { distill, ..LossConfig::default() };
        let options = FitOptions { epochs: 2, loss, groups: vec![weights(rate)], ..FitOptions::default() };
        let (_, events) = trained(&options, &model, &train, Some(&test));
        let distance = |event: &Event| match event {
            Event::Evaluated { quality: Quality::Fidelity(f), .. } => Some(f.sqnr()),
            _ => None,
        };
        let words = events.iter().find_map(|event| match event {
            Event::Begin { loss, .. } => Some(loss.clone()),
            _ => None,
        });
        (words.unwrap(), events.iter().filter_map(distance).collect::<Vec<f64>>())
    };
    let (words, found) = distances(None, 1e-3);
    assert_eq!(words, "1 * distillation (kl of \"logits\")");
    assert_eq!(found.len(), 3);
    let (words, found) = distances(Some(DistillLoss::L2), 1e-3);
    assert_eq!(words, "1 * distillation (l2 of \"logits\")");
    assert!(found[2] > found[0] + 0.5, "{found:?}");
}

#[test]
fn tensors_inside_can_be_compared() {
    let (model, train, _) = digits();
    let tensors = vec!["logits".to_string(), "/down/Relu_output_0".to_string()];
    let options = |tensors: Vec<String>| {
        let distill = Distill { tensors, weight: 0.5, temperature: 4.0, ..Distill::default() };
        let loss = LossConfig { label_weight: 2.0, distill: Some(distill) };
        FitOptions { loss, groups: vec![weights(1e-3)], ..FitOptions::default() }
    };
    let (_, events) = trained(&options(tensors), &model, &train, None);
    let Event::Begin { loss, .. } = &events[0] else { panic!("{:?}", events[0]) };
    let both = "2 * loss of labels + 0.5 * distillation (kl of \"logits\", l2 of \"/down/Relu_output_0\")";
    assert_eq!(loss, both);
    let unknown = options(vec!["logit".into()]);
    let error = fit(&mut model.clone(), &train, None, &unknown, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("\"logit\"") && error.contains("no tensor of the model"), "{error}");
}

#[test]
fn a_run_that_diverges_steps_back() {
    let (model, train, test) = digits();
    let divergence = DivergenceOptions { backoff: 1e-3, ..DivergenceOptions::default() };
    let options = FitOptions { divergence, groups: vec![weights(1000.0)], ..FitOptions::default() };
    let (_, events) = trained(&options, &model, &train, Some(&test));
    let steps_back: Vec<&Event> = events.iter().filter(|e| matches!(e, Event::Diverged { .. })).collect();
    let [Event::Diverged { what, back_to, rate_factor, .. }, ..] = steps_back[..] else {
        panic!("{events:?}")
    };
    assert!(what.contains("moved furthest") || what.contains("not finite"), "{what}");
    assert_eq!((*back_to, *rate_factor), ((0, 0), 1e-3));
    let Some(Event::Epoch { loss, .. }) = events.iter().find(|e| matches!(e, Event::Epoch { .. })) else {
        panic!("{events:?}")
    };
    assert!(*loss < 1.0, "{loss}");

    let none = DivergenceOptions { retries: 0, ..divergence };
    let options = FitOptions { divergence: none, ..options };
    let error = fit(&mut model.clone(), &train, None, &options, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("diverged in epoch 0") && error.contains("lower the learning rate"), "{error}");
}

#[test]
fn the_best_state_is_kept_and_training_stops() {
    let (model, train, test) = digits();
    // A rate that spoils the model, which is never seen to explode.
    let groups = vec![weights(0.3)];
    let divergence = DivergenceOptions { factor: 1e9, ..DivergenceOptions::default() };
    let options = FitOptions { epochs: 6, patience: Some(2), divergence, groups, ..FitOptions::default() };
    let (best, events) = trained(&options, &model, &train, Some(&test));
    let scores: Vec<f64> = events
        .iter()
        .filter_map(|e| match e {
            Event::Evaluated { quality, .. } => Some(quality.score()),
            _ => None,
        })
        .collect();
    let epochs = events.iter().filter(|e| matches!(e, Event::Epoch { .. })).count();
    let most = scores.iter().copied().fold(0.0, f64::max);
    let first = scores.iter().position(|&s| s == most).unwrap();
    assert_eq!(epochs, (first + 2).min(6), "{scores:?}");
    assert_eq!(events.contains(&Event::Stopped { epochs }), first + 2 <= 6, "{scores:?}");
    if first == 0 {
        let (untrained, _) = trained(&FitOptions { epochs: 0, ..options.clone() }, &model, &train, None);
        assert!(best == untrained);
        let (last, _) = trained(&FitOptions { keep: Keep::Last, ..options }, &model, &train, Some(&test));
        assert!(best != last);
    }
}

/// Names and values of what the graph trains in the group of LSQ.
fn learned(model: &Model) -> Vec<(String, Vec<f32>)> {
    let graph = &model.graph;
    let of_lsq = |id| match &graph.node(id).kind {
        Kind::Variable(value, Role::Param(group)) if **group == *LSQ_GROUP => {
            Some((graph.node(id).name.clone(), value.to_f32()))
        }
        _ => None,
    };
    graph.nodes().into_iter().filter_map(of_lsq).collect()
}

fn lsq_config() -> QuantConfig {
    QuantConfig {
        weight_quantize_type: WeightQuantizeType::ChannelWiseLsqWeight,
        activation_quantize_type: ActivationQuantizeType::LsqPlusAct,
        ..QuantConfig::default()
    }
}

#[test]
fn learned_scales_move_and_are_those_of_the_file() {
    let (mut model, train, test) = digits_with(&lsq_config());
    let mut untrained = model.clone();
    fit(&mut untrained, &train, None, &FitOptions { epochs: 0, ..FitOptions::default() }, &mut |_| {})
        .unwrap();
    let before = learned(&untrained);
    let float = Model::load(fixture("digits_cnn.onnx")).unwrap().evaluate(&test, 64).unwrap();
    let schedule = Schedule::constant(0.01);
    let groups = vec![weights(1e-3), ParamGroup::lsq(Optimizer::MOMENTUM, schedule)];
    let mut events = Vec::new();
    let options = FitOptions { epochs: 2, groups, keep: Keep::Last, ..FitOptions::default() };
    fit(&mut model, &train, Some(&test), &options, &mut |event| events.push(event.clone())).unwrap();
    let after = learned(&model);
    assert_eq!(before.len(), after.len());
    assert!(after.iter().any(|(name, _)| name.ends_with("_below")), "{after:?}");
    for ((name, before), (other, after)) in before.iter().zip(&after) {
        assert_eq!(name, other);
        // The end of a range moves where values lie beyond it.
        assert!(before != after || name.ends_with("_below"), "\"{name}\" stays at {before:?}");
        assert!(after.iter().all(|&s| s > 0.0), "{name}: {after:?}");
    }
    let tells = |event: &Event| match event {
        Event::Epoch { thresholds, .. } => thresholds.iter().any(|(name, _)| name.ends_with("_scale")),
        _ => false,
    };
    assert!(events.iter().any(tells), "scales are told at the end of an epoch");

    convert(&mut model).unwrap();
    let scales: Vec<f32> = after
        .iter()
        .filter(|(name, s)| name.ends_with("_scale") && s.len() == 1)
        .map(|(_, s)| s[0])
        .collect();
    let written = |scale: &f32| {
        let node = |id| model.graph.node(id);
        let scale_of = |id| model.graph.constant(node(id).ins[1]?).map(Tensor::to_f32);
        let nodes = model.graph.nodes().into_iter();
        let mut quantizers = nodes.filter(|&id| node(id).is::<QuantizeLinear>().is_some());
        quantizers.any(|id| scale_of(id).is_some_and(|s| s == [*scale]))
    };
    assert!(scales.len() > 5 && scales.iter().all(written), "{scales:?}");
    assert!(model.evaluate(&test, 64).unwrap().top1() >= float.top1() - 0.01);
}

#[test]
fn a_parameter_without_an_optimizer_is_told() {
    let (model, train, _) = digits_with(&lsq_config());
    let options = FitOptions { groups: vec![weights(1e-3)], ..FitOptions::default() };
    let error = fit(&mut model.clone(), &train, None, &options, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("group \"lsq\"") && error.contains("rate 0"), "{error}");
}

/// Options in which everything that has a state takes part.
fn everything(folder: Option<&Path>, resume: bool) -> FitOptions {
    let checkpoint = folder.map(|folder| CheckpointOptions { folder: folder.into(), every: Some(3), resume });
    let all = ParamGroup {
        clip: Some(GradientClip::GlobalNorm(0.5)),
        no_decay: NoDecay { one_dimensional: false, patterns: vec!["bias".into()] },
        ..ParamGroup::weights(Optimizer::ADAM, Schedule { warmup: 3, ..Schedule::constant(1e-3) }, 1e-4)
    };
    FitOptions {
        epochs: 3,
        batch: 200,
        ema_decay: Some(0.9),
        freeze_batch_norm_after: Some(1),
        freeze_observers_after: Some(2),
        loss: LossConfig { distill: Some(Distill::default()), ..LossConfig::default() },
        checkpoint,
        groups: vec![all, ParamGroup::lsq(Optimizer::MOMENTUM, Schedule::constant(1e-2))],
        ..FitOptions::default()
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn every_checkpoint_leads_to_the_same_bytes() {
    let (model, train, test) = digits_with(&lsq_config());
    let (expected, _) = trained(&everything(None, false), &model, &train, Some(&test));
    let (folder, stash) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut count = 0;
    let mut own = model.clone();
    let options = everything(Some(folder.path()), false);
    fit(&mut own, &train, Some(&test), &options, &mut |event| {
        if let Event::Checkpoint { path } = event {
            copy(path, &stash.path().join(count.to_string()).join(path.file_name().unwrap()));
            count += 1;
        }
    })
    .unwrap();
    // 7 steps per epoch: 3 epoch ends, and steps 3, 6, 9, 12, 15, 18.
    assert_eq!(count, 9);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "old checkpoints go");
    for i in 0..count {
        let (found, events) =
            trained(&everything(Some(&stash.path().join(i.to_string())), true), &model, &train, Some(&test));
        assert!(matches!(events[0], Event::Begin { resumed: Some(_), .. }));
        assert!(found == expected, "the bytes after checkpoint {i} differ");
    }
}

#[test]
fn a_checkpoint_is_of_one_run() {
    let (model, train, test) = digits();
    let folder = tempfile::tempdir().unwrap();
    let options = FitOptions { epochs: 1, ..everything(Some(folder.path()), false) };
    trained(&options, &model, &train, None);
    let resumed = |model: &Model, options: &FitOptions, data: &Dataset| {
        let checkpoint = Some(CheckpointOptions { folder: folder.path().into(), every: None, resume: true });
        let options = FitOptions { checkpoint, ..options.clone() };
        fit(&mut model.clone(), data, None, &options, &mut |_| {}).map_err(|e| e.to_string())
    };
    resumed(&model, &options, &train).unwrap();
    let again = fit(&mut model.clone(), &train, None, &options, &mut |_| {}).unwrap_err().to_string();
    assert!(again.contains("holds checkpoints already"), "{again}");

    let longer = FitOptions { epochs: 5, ..options.clone() };
    let error = resumed(&model, &longer, &train).unwrap_err();
    assert!(error.contains("its option epochs is 1, this run's 5"), "{error}");
    let error = resumed(&model, &options, &test).unwrap_err();
    assert!(error.contains("1437 samples") && error.contains("360 samples"), "{error}");
    let mut other = model.clone();
    let bias = other.graph.find("head.bias").unwrap();
    let zeros = Tensor::new(&[10], vec![0f32; 10]);
    other.graph.set_leaf(bias.node, Kind::Const(zeros)).unwrap();
    let error = resumed(&other, &options, &train).unwrap_err();
    assert!(error.contains("another model"), "{error}");

    // The last one damaged: the one before it serves. Both damaged: an error.
    let mut paths: Vec<PathBuf> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let flip = |path: &Path| {
        let path = path.join("state.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
    };
    flip(paths.last().unwrap());
    resumed(&model, &options, &train).unwrap();
    let paths: Vec<PathBuf> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
    paths.iter().for_each(|path| fs::remove_file(path.join("state.toml")).unwrap());
    let error = resumed(&model, &options, &train).unwrap_err();
    assert!(error.contains("state.toml is damaged"), "{error}");
}

#[test]
fn options_survive_a_file() {
    let options = everything(Some(Path::new("checkpoints")), true);
    let text = toml::to_string(&options).unwrap();
    assert!(text.contains("ema_decay = 0.9\n"), "{text}");
    assert_eq!(toml::from_str::<FitOptions>(&text).unwrap(), options);
    assert_eq!(toml::from_str::<FitOptions>("").unwrap(), FitOptions::default());
    let error = toml::from_str::<FitOptions>("epoch = 3").unwrap_err().to_string();
    assert!(error.contains("unknown field `epoch`"), "{error}");
}
