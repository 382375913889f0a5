//! What is measured, and our own part of it: steps of a [`Machine`].

use crate::bench::Setting;
use crate::bench::models::{CLASSES, INPUT, Network};
use crate::chore::Failure;
use onnx_qat::data::{Dataset, InputSpec, Preprocess, Rng};
use onnx_qat::exec::{Machine, Program};
use onnx_qat::passes::{Equalize, Hooks, InsertPreprocess, Normalize, Pact, Pipeline, QuantConfig};
use onnx_qat::tensor::Tensor;
use onnx_qat::train::{Optimizer, ParamGroup, Schedule, StepConfig, bind_batch, training_step};
use onnx_qat::{Model, passes, train};
use std::path::Path;
use std::sync::Arc;

/// What one step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Forward, softmax cross-entropy, backward, momentum; batch norms with the statistics of the batch.
    Training,
    /// Forward with running statistics.
    Evaluation,
}

/// Who computes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Own(Form),
    Torch,
    Paddle,
    OnnxRuntime,
}

/// The form of the graph that we run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Float,
    Qat { pact: bool },
    Int8,
}

/// One column of a comparison: a process that runs steps on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contender {
    pub name: &'static str,
    pub task: Task,
    pub side: Side,
    /// Computes with quantizers, or on codes.
    pub quantized: bool,
    /// Comparisons are with the best that runs operation by operation; a compiler is shown for itself.
    pub compiled: bool,
}

const fn contender(name: &'static str, task: Task, side: Side, quantized: bool) -> Contender {
    Contender { name, task, side, quantized, compiled: false }
}

/// All of them, in the order of the tables and of the turns: the files that ONNX Runtime reads are written before.
pub const CONTENDERS: [Contender; 15] = [
    contender("float", Task::Training, Side::Own(Form::Float), false),
    contender("qat", Task::Training, Side::Own(Form::Qat { pact: false }), true),
    contender("qat-pact", Task::Training, Side::Own(Form::Qat { pact: true }), true),
    contender("torch-nchw", Task::Training, Side::Torch, false),
    contender("torch-channels-last", Task::Training, Side::Torch, false),
    Contender { compiled: true, ..contender("torch-compile", Task::Training, Side::Torch, false) },
    contender("torch-qat-nchw", Task::Training, Side::Torch, true),
    contender("torch-qat-channels-last", Task::Training, Side::Torch, true),
    contender("paddle-float", Task::Training, Side::Paddle, false),
    contender("paddle-qat", Task::Training, Side::Paddle, true),
    contender("paddle-qat-pact", Task::Training, Side::Paddle, true),
    contender("eval-float", Task::Evaluation, Side::Own(Form::Float), false),
    contender("eval-int8", Task::Evaluation, Side::Own(Form::Int8), true),
    contender("ort-float", Task::Evaluation, Side::OnnxRuntime, false),
    contender("ort-int8", Task::Evaluation, Side::OnnxRuntime, true),
];

impl Contender {
    /// Not from here.
    pub fn is_peer(self) -> bool {
        !matches!(self.side, Side::Own(_))
    }
}

/// A machine with data in its inputs, ready to run steps.
pub struct Runner {
    machine: Machine,
    /// As a training loop does, which writes the trained values back into it.
    _model: Model,
    loss: Option<String>,
    /// Number of trained parameters of the network.
    pub parameters: usize,
}

impl Runner {
    /// Builds the network and compiles it. An evaluated network is also written to `file`.
    pub fn new(
        task: Task,
        form: Form,
        network: Network,
        setting: Setting,
        file: Option<&Path>,
    ) -> Result<Runner, Failure> {
        let (graph, parameters) = network.build(setting.batch, setting.size)?;
        let mut model = Model::new(graph);
        let fold_batch_norm = task == Task::Evaluation && form == Form::Float;
        if let (true, Some(file)) = (fold_batch_norm, file) {
            model.save(file)?;
        }
        passes::normalize(&mut model.graph, Normalize { fold_batch_norm })?;
        if form != Form::Float {
            quantize(&mut model, form, setting)?;
        }
        match task {
            Task::Training => Runner::training(model, parameters, setting),
            Task::Evaluation => {
                if form == Form::Int8 {
                    onnx_qat::convert(&mut model)?;
                    if let Some(file) = file {
                        model.save(file)?;
                    }
                }
                let mut graph = model.graph.clone();
                passes::evaluation().run(&mut graph)?;
                bind_batch(&mut graph, setting.batch, &[])?;
                let mut machine = Machine::new(Arc::new(Program::compile(&graph)?));
                machine.input_mut::<f32>(INPUT)?.copy_from_slice(&images(setting));
                Ok(Runner { machine, _model: model, loss: None, parameters })
            }
        }
    }

    fn training(model: Model, parameters: usize, setting: Setting) -> Result<Runner, Failure> {
        let groups = [
            ParamGroup::weights(Optimizer::MOMENTUM, Schedule::constant(RATE), DECAY),
            ParamGroup::pact(Optimizer::MOMENTUM, Schedule::constant(RATE), DECAY),
        ];
        let step = training_step(&model.graph, setting.batch, &[], &StepConfig::new(&groups))?;
        let trained = step.parameters.iter().filter_map(|name| step.graph.find(name));
        let trained: usize = trained.filter_map(|v| Some(step.graph.tensor(v)?.len())).sum();
        if trained != parameters {
            return Err(format!("{trained} parameters are trained, not {parameters}").into());
        }
        let mut machine = Machine::new(Arc::new(Program::compile(&step.graph)?));
        machine.input_mut::<f32>(INPUT)?.copy_from_slice(&images(setting));
        if let Some(label) = &step.signature.label {
            machine.input_mut::<i64>(label)?.copy_from_slice(&labels(setting.batch));
        }
        for group in &groups {
            let name = group.rate_input();
            if machine.has_input(&name) {
                machine.input_mut::<f32>(&name)?[0] = RATE;
            }
        }
        Ok(Runner { machine, _model: model, loss: step.signature.loss, parameters })
    }

    /// One step, as a training loop makes it: the loss is read, and must be a number.
    pub fn step(&mut self) -> Result<(), Failure> {
        self.machine.run()?;
        if let Some(name) = &self.loss {
            let loss = self.machine.output(name)?.to_f32();
            if loss.iter().any(|x| !x.is_finite()) {
                return Err(format!("the loss is {loss:?}").into());
            }
        }
        Ok(())
    }

    /// The machine, for its profile.
    pub fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }
}

/// Learning rate and decay of all contenders: they cost the same at any value, and this one does not diverge.
const RATE: f32 = 1e-3;
const DECAY: f32 = 1e-4;

/// The way to quantizers that `cargo xtask quantize` takes, with one batch to calibrate on.
fn quantize(model: &mut Model, form: Form, setting: Setting) -> Result<(), Failure> {
    let config = QuantConfig::default();
    Pipeline::new().then(Equalize).run(&mut model.graph)?;
    passes::quant_aware(&mut model.graph, &config, &Hooks::default())?;
    let shape = [setting.batch, 3, setting.size, setting.size];
    let spec = InputSpec::float(INPUT, &shape.map(Some));
    let images = Tensor::new(&shape, images(setting));
    let data = Dataset::from_arrays(&[spec], vec![images], None, &Preprocess::default())?;
    train::calibrate(&mut model.graph, &data, setting.batch, Some(1), &mut |_, _| {})?;
    if form == (Form::Qat { pact: true }) {
        let pact = InsertPreprocess { preprocess: Arc::new(Pact::default()), config };
        Pipeline::new().then(pact).run(&mut model.graph)?;
    }
    Ok(())
}

/// Numbers between -2 and 2, about what normalized images hold.
fn images(setting: Setting) -> Vec<f32> {
    let mut rng = Rng::new(2);
    let len = setting.batch * 3 * setting.size * setting.size;
    (0..len).map(|_| (rng.next_u64() >> 40) as f32 / (1u64 << 22) as f32 - 2.0).collect()
}

fn labels(batch: usize) -> Vec<i64> {
    let mut rng = Rng::new(3);
    (0..batch).map(|_| rng.below(CLASSES as u64) as i64).collect()
}
