//! What to quantize and how: the configuration of PaddleSlim's `quant_aware` and of its `QAT`, as typed structs.
//!
//! Keys, defaults and checks are PaddleSlim 2.6's, except that an unknown key or value is an error by name, where
//! PaddleSlim keeps the default silently.

use crate::selection::Selector;
use crate::tensor_override::TensorOverride;
use observe::Statistic;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which arithmetic the quantizers of training have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Numerics {
    /// What the emitted file will compute: ONNX `QuantizeLinear` and `DequantizeLinear`, scales of the final weights,
    /// a pair on every tensor that the target's contract wants quantized.
    #[default]
    Deploy,
    /// What PaddleSlim's static program flow computes, quirks included, in the format that `onnx_format` says.
    Compat,
}

/// How the scale of a weight follows from the weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightQuantizeType {
    /// One scale for the tensor.
    AbsMax,
    /// One scale per output channel.
    #[default]
    ChannelWiseAbsMax,
    /// One scale, the largest magnitude in a sliding window of steps.
    RangeAbsMax,
    /// One scale, a moving average of the magnitudes.
    MovingAverageAbsMax,
    /// One scale, which is trained: LSQ.
    LsqWeight,
    /// One trained scale per output channel.
    ChannelWiseLsqWeight,
}

impl WeightQuantizeType {
    /// Whether there is a scale per output channel.
    pub fn per_channel(self) -> bool {
        matches!(self, WeightQuantizeType::ChannelWiseAbsMax | WeightQuantizeType::ChannelWiseLsqWeight)
    }

    /// Whether the scale is trained.
    pub fn learned(self) -> bool {
        matches!(self, WeightQuantizeType::LsqWeight | WeightQuantizeType::ChannelWiseLsqWeight)
    }

    /// The same with trained scales, one per channel or one in all.
    pub fn to_learned(self) -> WeightQuantizeType {
        match self.per_channel() {
            true => WeightQuantizeType::ChannelWiseLsqWeight,
            false => WeightQuantizeType::LsqWeight,
        }
    }
}

/// How the range of an activation is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationQuantizeType {
    /// The magnitude of the current batch alone.
    AbsMax,
    /// The largest magnitude in a sliding window of batches.
    RangeAbsMax,
    /// A moving average of the magnitudes. Emitted as uint8 with zero point 128, or 0 where nothing is negative.
    MovingAverageAbsMax,
    /// A moving average of minimum and maximum: an asymmetric range. The default here; PaddleSlim has no such type.
    #[default]
    MovingAverageMinMax,
    /// Minimum and maximum over all batches: static calibration.
    MinMax,
    /// A trained scale, which starts at a moving average of the magnitudes; zero point as for `moving_average_abs_max`: LSQ.
    LsqAct,
    /// Both ends of the range are trained; they start at a moving average of minimum and maximum: LSQ+. Ours; Paddle calls both
    /// `lsq_act`.
    LsqPlusAct,
}

impl ActivationQuantizeType {
    /// Whether the range may lie on one side of 0 more than on the other.
    pub fn asymmetric(self) -> bool {
        use ActivationQuantizeType::{LsqPlusAct, MinMax, MovingAverageMinMax};
        matches!(self, MovingAverageMinMax | MinMax | LsqPlusAct)
    }

    /// Whether the range is trained.
    pub fn learned(self) -> bool {
        matches!(self, ActivationQuantizeType::LsqAct | ActivationQuantizeType::LsqPlusAct)
    }

    /// The same with trained ranges.
    pub fn to_learned(self) -> ActivationQuantizeType {
        if self.asymmetric() { ActivationQuantizeType::LsqPlusAct } else { ActivationQuantizeType::LsqAct }
    }
}

/// PaddleSlim's hardware presets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum DeployBackend {
    TensorRT,
    Mkldnn,
    Arm,
}

/// One name or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn patterns<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    Ok(match OneOrMany::deserialize(d)? {
        OneOrMany::One(s) => vec![s],
        OneOrMany::Many(list) => list,
    })
}

/// Configuration of [`quant_aware`](crate::quant_aware): PaddleSlim's `quant_aware` config, table A.1.
///
/// ```
/// # use onnx_qat_passes::QuantConfig;
/// let config = QuantConfig::builder().activation_bits(8).not_quant_pattern(["head"]).build()?;
/// assert_eq!(config, QuantConfig::from_toml("not_quant_pattern = 'head'")?);
/// assert!(QuantConfig::from_toml("weight_bit = 8").unwrap_err().to_string().contains("weight_bit"));
/// # Ok::<(), onnx_qat_passes::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuantConfig {
    /// How the scale of a weight follows from the weight.
    pub weight_quantize_type: WeightQuantizeType,
    /// How the range of an activation is followed.
    pub activation_quantize_type: ActivationQuantizeType,
    /// Bits of a weight code, 2 to 16; files are emitted for 2 to 8.
    pub weight_bits: u32,
    /// Bits of an activation code, 2 to 16; files are emitted for 2 to 8.
    pub activation_bits: u32,
    /// Nodes whose name contains one of these are left in floating point.
    #[serde(deserialize_with = "patterns")]
    pub not_quant_pattern: Vec<String>,
    /// Operators to quantize, by Paddle's names (`conv2d`, `mul`, …) or ONNX's (`Conv`, `Gemm`, …). Empty: what the
    /// target runs on integers.
    pub quantize_op_types: Vec<String>,
    /// Nodes to quantize, of the operators above; empty: all of them.
    pub include: Vec<Selector>,
    /// Nodes to leave in floating point.
    pub exclude: Vec<Selector>,
    /// Storage of weights. Only `int8`.
    pub dtype: String,
    /// Window of `range_abs_max`, in batches.
    pub window_size: usize,
    /// Decay of the moving averages.
    pub moving_rate: f32,
    /// PaddleSlim's operator set for TensorRT instead of `quantize_op_types`.
    pub for_tensorrt: bool,
    /// Everything that has a quantizer, instead of `quantize_op_types`.
    pub is_full_quantize: bool,
    /// PaddleSlim's second format (`quantize_linear` pairs in the program). Our emitted file always holds pairs; under
    /// [`Numerics::Compat`] this chooses the arithmetic of training: half to even instead of half away from zero, always
    /// moving averages, and constant operands do not keep an operator from being quantized.
    pub onnx_format: bool,
    /// Calibrate on data before the first training step.
    pub quant_post_first: bool,
    /// Whether ranges go on moving in training. `false` keeps those of the calibration.
    pub scale_trainable: bool,
    /// Hardware preset for the operator lists.
    pub deploy_backend: Option<DeployBackend>,
    /// Which arithmetic the quantizers of training have. Ours, not PaddleSlim's.
    pub numerics: Numerics,
    /// What is said of single tensors, by name. Ours, not PaddleSlim's.
    pub tensor_overrides: BTreeMap<String, TensorOverride>,
}

impl Default for QuantConfig {
    fn default() -> Self {
        QuantConfig {
            weight_quantize_type: WeightQuantizeType::default(),
            activation_quantize_type: ActivationQuantizeType::default(),
            weight_bits: 8,
            activation_bits: 8,
            not_quant_pattern: vec!["skip_quant".into()],
            quantize_op_types: Vec::new(),
            include: Vec::new(),
            exclude: Vec::new(),
            dtype: "int8".into(),
            window_size: 10000,
            moving_rate: 0.9,
            for_tensorrt: false,
            is_full_quantize: false,
            onnx_format: true,
            quant_post_first: true,
            scale_trainable: true,
            deploy_backend: None,
            numerics: Numerics::default(),
            tensor_overrides: BTreeMap::new(),
        }
    }
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConfigError {
    #[error("quantization configuration: {0}")]
    Toml(String),
    #[error("overrides of tensors are no JSON as ONNX Runtime has it: {0}")]
    Json(String),
    #[error("override of tensor \"{tensor}\": {what}")]
    Tensor { tensor: String, what: String },
    #[error("quantization configuration: {key} is {found}, expected {expected}")]
    Value { key: &'static str, expected: String, found: String },
}

/// Paddle's operator names, all 92 that PaddleSlim accepts, and the ONNX operators that do the same; none where ONNX has
/// no operator of its own for it.
const PADDLE_NAMES: &[(&str, &[&str])] = &[
    ("conv2d", &["Conv"]),
    ("depthwise_conv2d", &["Conv"]),
    ("conv2d_transpose", &["ConvTranspose"]),
    ("mul", &["Gemm", "MatMul"]),
    ("matmul", &["Gemm", "MatMul"]),
    ("matmul_v2", &["Gemm", "MatMul"]),
    ("pool2d", &["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"]),
    ("elementwise_add", &["Add"]),
    ("elementwise_sub", &["Sub"]),
    ("elementwise_mul", &["Mul"]),
    ("elementwise_pow", &["Pow"]),
    ("concat", &["Concat"]),
    ("softmax", &["Softmax"]),
    ("argmax", &["ArgMax"]),
    ("arg_max", &["ArgMax"]),
    ("transpose", &["Transpose"]),
    ("transpose2", &["Transpose"]),
    ("gather", &["Gather"]),
    ("mean", &["ReduceMean"]),
    ("reduce_mean", &["ReduceMean"]),
    ("reduce_sum", &["ReduceSum"]),
    ("reduce_max", &["ReduceMax"]),
    ("reshape", &["Reshape"]),
    ("reshape2", &["Reshape"]),
    ("slice", &["Slice"]),
    ("strided_slice", &["Slice"]),
    ("squeeze", &["Squeeze"]),
    ("squeeze2", &["Squeeze"]),
    ("unsqueeze2", &["Unsqueeze"]),
    ("flatten", &["Flatten"]),
    ("flatten2", &["Flatten"]),
    ("flatten_contiguous_range", &["Flatten"]),
    ("split", &["Split"]),
    ("pad2d", &["Pad"]),
    ("pad3d", &["Pad"]),
    ("nearest_interp", &["Resize"]),
    ("nearest_interp_v2", &["Resize"]),
    ("bilinear_interp", &["Resize"]),
    ("bilinear_interp_v2", &["Resize"]),
    ("relu", &["Relu"]),
    ("relu6", &["Clip"]),
    ("leaky_relu", &["LeakyRelu"]),
    ("prelu", &["PRelu"]),
    ("tanh", &["Tanh"]),
    ("sigmoid", &["Sigmoid"]),
    ("swish", &["Sigmoid", "Mul"]),
    ("hard_swish", &["HardSwish"]),
    ("hard_sigmoid", &["HardSigmoid"]),
    ("gelu", &["Gelu"]),
    ("softplus", &["Softplus"]),
    ("abs", &["Abs"]),
    ("clip", &["Clip"]),
    ("dropout", &["Dropout"]),
    ("batch_norm", &["BatchNormalization"]),
    ("layer_norm", &["LayerNormalization"]),
    ("instance_norm", &["InstanceNormalization"]),
    ("lookup_table", &["Gather"]),
    ("lookup_table_v2", &["Gather"]),
    ("equal", &["Equal"]),
    ("not_equal", &[]),
    ("greater_equal", &["GreaterOrEqual"]),
    ("greater_than", &["Greater"]),
    ("less_equal", &["LessOrEqual"]),
    ("less_than", &["Less"]),
    ("stack", &[]),
    ("tile", &["Tile"]),
    ("expand_v2", &["Expand"]),
    ("where", &["Where"]),
    ("crop", &["Slice"]),
    ("trilinear_interp", &["Resize"]),
    ("square", &[]),
    ("pow", &["Pow"]),
    ("scale", &[]),
    ("group_norm", &["GroupNormalization"]),
    ("norm", &["LpNormalization"]),
    ("p_norm", &[]),
    ("gru", &["GRU"]),
    ("lstm", &["LSTM"]),
    ("assign", &["Identity"]),
    ("cast", &["Cast"]),
    ("cumsum", &["CumSum"]),
    ("fill_any_like", &[]),
    ("fill_constant", &["ConstantOfShape"]),
    ("fill_constant_batch_size_like", &[]),
    ("top_k_v2", &["TopK"]),
    ("logical_and", &["And"]),
    ("logical_not", &["Not"]),
    ("meshgrid", &[]),
    ("roi_align", &["RoiAlign"]),
    ("grid_sampler", &["GridSample"]),
    ("box_coder", &[]),
    ("shuffle_channel", &[]),
];

/// Operators without weights that PaddleSlim's TensorRT preset quantizes, whatever `quantize_op_types` says.
const TENSORRT_NAMES: &[&str] = &[
    "pool2d",
    "elementwise_add",
    "elementwise_sub",
    "elementwise_mul",
    "elementwise_pow",
    "concat",
    "softmax",
    "argmax",
    "mean",
    "relu",
    "relu6",
    "leaky_relu",
    "tanh",
    "swish",
    "softplus",
    "gelu",
    "hard_sigmoid",
    "hard_swish",
    "sigmoid",
    "layer_norm",
    "matmul_v2",
    "split",
    "bilinear_interp",
    "bilinear_interp_v2",
    "nearest_interp",
    "nearest_interp_v2",
    "trilinear_interp",
    "clip",
    "pow",
    "reduce_mean",
    "reduce_sum",
    "reduce_max",
];

/// Operator types that this project quantizes under their ONNX names.
const ONNX_NAMES: &[&str] = &[
    "Add",
    "AveragePool",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Gemm",
    "GlobalAveragePool",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Mul",
    "Sigmoid",
    "Softmax",
];

impl QuantConfig {
    /// Sets keys one by one; [`QuantConfigBuilder::build`] checks them.
    pub fn builder() -> QuantConfigBuilder {
        QuantConfigBuilder(QuantConfig::default())
    }

    /// PaddleSlim's defaults and arithmetic: `moving_average_abs_max`, the operators `conv2d`, `depthwise_conv2d` and
    /// `mul`, [`Numerics::Compat`].
    pub fn paddle() -> QuantConfig {
        QuantConfig {
            activation_quantize_type: ActivationQuantizeType::MovingAverageAbsMax,
            quantize_op_types: ["conv2d", "depthwise_conv2d", "mul"].map(String::from).to_vec(),
            onnx_format: false,
            quant_post_first: false,
            numerics: Numerics::Compat,
            ..QuantConfig::default()
        }
    }

    /// Reads TOML. Absent keys keep their defaults.
    ///
    /// # Errors
    /// When a key is unknown or a value is not accepted: names it.
    pub fn from_toml(text: &str) -> Result<QuantConfig, ConfigError> {
        let config: QuantConfig =
            toml::from_str(text).map_err(|e| ConfigError::Toml(e.message().to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// Checks what the types do not express.
    ///
    /// # Errors
    /// Names the first key whose value is not accepted.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, expected: &str, found: String| {
            Err(ConfigError::Value { key, expected: expected.to_string(), found })
        };
        for (key, bits) in [("weight_bits", self.weight_bits), ("activation_bits", self.activation_bits)] {
            if !(2..=16).contains(&bits) {
                return wrong(key, "2 to 16", bits.to_string());
            }
        }
        if self.dtype != "int8" {
            return wrong("dtype", "int8", self.dtype.clone());
        }
        if !(0.0..1.0).contains(&self.moving_rate) {
            return wrong("moving_rate", "a rate of at least 0 and below 1", self.moving_rate.to_string());
        }
        if !(1..=1 << 24).contains(&self.window_size) {
            return wrong("window_size", "1 to 16777216 batches", self.window_size.to_string());
        }
        self.tensor_overrides.iter().try_for_each(|(name, own)| own.check(name))?;
        if self.numerics == Numerics::Compat {
            let learned = [
                ("weight_quantize_type", self.weight_quantize_type.learned()),
                ("activation_quantize_type", self.activation_quantize_type.learned()),
            ];
            if let Some((key, _)) = learned.iter().find(|(_, learned)| *learned) {
                let expected =
                    "one of PaddleSlim's quant_aware, which has no LSQ; LSQ wants numerics = \"deploy\"";
                return wrong(key, expected, "LSQ".into());
            }
        }
        for name in &self.quantize_op_types {
            if onnx_types(name).is_none() {
                let expected =
                    "operator types as Paddle names them (conv2d, mul, pool2d, …) or ONNX (Conv, Gemm, …)";
                return wrong("quantize_op_types", expected, format!("\"{name}\""));
            }
        }
        Ok(())
    }

    /// ONNX operator types to quantize; `None` when the target decides.
    pub fn op_types(&self) -> Option<Vec<&str>> {
        let names: Vec<&str> = if self.for_tensorrt {
            vec!["mul", "conv2d", "pool2d", "depthwise_conv2d", "elementwise_add", "leaky_relu"]
        } else if self.is_full_quantize {
            match self.numerics {
                Numerics::Deploy => return None,
                Numerics::Compat => PADDLE_NAMES.iter().map(|(name, _)| *name).collect(),
            }
        } else if self.quantize_op_types.is_empty() {
            return None;
        } else {
            self.quantize_op_types.iter().map(String::as_str).collect()
        };
        let mut types: Vec<&str> = names.into_iter().filter_map(onnx_types).flatten().collect();
        match self.deploy_backend {
            Some(DeployBackend::Mkldnn) => {
                types.extend(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"]);
                types.extend(["Add", "Mul", "Concat", "Resize", "Split"]);
            }
            Some(DeployBackend::TensorRT) => {
                types.extend(TENSORRT_NAMES.iter().filter_map(|n| onnx_types(n)).flatten())
            }
            Some(DeployBackend::Arm) | None => {}
        }
        types.sort_unstable();
        types.dedup();
        Some(types)
    }

    /// Whether a node of this operator type and name is to be quantized; the reason if not.
    pub fn selects(&self, op_type: &str, name: &str) -> Result<(), String> {
        if let Some(p) = self.not_quant_pattern.iter().find(|p| !p.is_empty() && name.contains(p.as_str())) {
            return Err(format!("its name contains \"{p}\" (not_quant_pattern)"));
        }
        match self.op_types() {
            Some(types) if !types.contains(&op_type) => {
                Err(format!("{op_type} is not among quantize_op_types"))
            }
            _ => Ok(()),
        }
    }

    /// The statistic that follows the range of an activation.
    pub fn statistic(&self) -> Statistic {
        let rate = self.moving_rate;
        if self.numerics == Numerics::Compat && self.onnx_format {
            return Statistic::MovingAverageAbsMax { rate };
        }
        match self.activation_quantize_type {
            ActivationQuantizeType::AbsMax => Statistic::AbsMax,
            ActivationQuantizeType::RangeAbsMax => Statistic::RangeAbsMax { window: self.window_size },
            ActivationQuantizeType::MovingAverageAbsMax | ActivationQuantizeType::LsqAct => {
                Statistic::MovingAverageAbsMax { rate }
            }
            ActivationQuantizeType::MovingAverageMinMax | ActivationQuantizeType::LsqPlusAct => {
                Statistic::MovingAverageMinMax { rate }
            }
            ActivationQuantizeType::MinMax => Statistic::MinMax,
        }
    }
}

fn onnx_types(name: &str) -> Option<Vec<&str>> {
    match PADDLE_NAMES.iter().find(|(paddle, _)| *paddle == name) {
        Some((_, onnx)) => Some(onnx.to_vec()),
        None => ONNX_NAMES.contains(&name).then(|| vec![name]),
    }
}

/// Builds a [`QuantConfig`] key by key.
#[derive(Clone, Debug)]
pub struct QuantConfigBuilder(QuantConfig);

macro_rules! setters {
    ($($(#[$doc:meta])* $key:ident: $t:ty),* $(,)?) => {
        $($(#[$doc])* pub fn $key(mut self, value: $t) -> Self { self.0.$key = value; self })*
    };
}

impl QuantConfigBuilder {
    setters! {
        /// See [`QuantConfig::weight_quantize_type`].
        weight_quantize_type: WeightQuantizeType,
        /// See [`QuantConfig::activation_quantize_type`].
        activation_quantize_type: ActivationQuantizeType,
        /// See [`QuantConfig::weight_bits`].
        weight_bits: u32,
        /// See [`QuantConfig::activation_bits`].
        activation_bits: u32,
        /// See [`QuantConfig::window_size`].
        window_size: usize,
        /// See [`QuantConfig::moving_rate`].
        moving_rate: f32,
        /// See [`QuantConfig::for_tensorrt`].
        for_tensorrt: bool,
        /// See [`QuantConfig::is_full_quantize`].
        is_full_quantize: bool,
        /// See [`QuantConfig::onnx_format`].
        onnx_format: bool,
        /// See [`QuantConfig::quant_post_first`].
        quant_post_first: bool,
        /// See [`QuantConfig::scale_trainable`].
        scale_trainable: bool,
        /// See [`QuantConfig::deploy_backend`].
        deploy_backend: Option<DeployBackend>,
        /// See [`QuantConfig::numerics`].
        numerics: Numerics,
    }

    /// See [`QuantConfig::not_quant_pattern`].
    pub fn not_quant_pattern<S: Into<String>>(mut self, patterns: impl IntoIterator<Item = S>) -> Self {
        self.0.not_quant_pattern = patterns.into_iter().map(Into::into).collect();
        self
    }

    /// See [`QuantConfig::quantize_op_types`].
    pub fn quantize_op_types<S: Into<String>>(mut self, types: impl IntoIterator<Item = S>) -> Self {
        self.0.quantize_op_types = types.into_iter().map(Into::into).collect();
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// As [`QuantConfig::check`].
    pub fn build(self) -> Result<QuantConfig, ConfigError> {
        self.0.check()?;
        Ok(self.0)
    }
}

/// A pre-process in front of a quantizer, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PreprocessType {
    /// Learned clipping.
    #[serde(rename = "PACT")]
    Pact,
}

/// Configuration of PaddleSlim's `QAT` class, table A.4. [`QatConfig::quant_config`] gives what it means here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QatConfig {
    /// Pre-process of weights.
    pub weight_preprocess_type: Option<PreprocessType>,
    /// Pre-process of activations.
    pub activation_preprocess_type: Option<PreprocessType>,
    /// How the scale of a weight follows from the weight.
    pub weight_quantize_type: WeightQuantizeType,
    /// How the range of an activation is followed.
    pub activation_quantize_type: ActivationQuantizeType,
    /// Bits of a weight code.
    pub weight_bits: u32,
    /// Bits of an activation code.
    pub activation_bits: u32,
    /// Storage of weights. Only `int8`.
    pub dtype: String,
    /// Window of `range_abs_max`.
    pub window_size: usize,
    /// Decay of the moving averages.
    pub moving_rate: f32,
    /// Layers to quantize: `Conv2D`, `Linear`, `Conv2DTranspose`.
    pub quantizable_layer_type: Vec<String>,
    /// Fold batch norm before training. PaddleSlim's flag of this name does nothing; ours folds.
    pub fuse_conv_bn: bool,
    /// As [`QuantConfig::onnx_format`].
    pub onnx_format: bool,
}

impl Default for QatConfig {
    fn default() -> Self {
        QatConfig {
            weight_preprocess_type: None,
            activation_preprocess_type: None,
            weight_quantize_type: WeightQuantizeType::default(),
            activation_quantize_type: ActivationQuantizeType::MovingAverageAbsMax,
            weight_bits: 8,
            activation_bits: 8,
            dtype: "int8".into(),
            window_size: 10000,
            moving_rate: 0.9,
            quantizable_layer_type: vec!["Conv2D".into(), "Linear".into()],
            fuse_conv_bn: false,
            onnx_format: true,
        }
    }
}

impl QatConfig {
    /// Reads TOML. Absent keys keep their defaults.
    ///
    /// # Errors
    /// When a key is unknown or a value is not accepted: names it.
    pub fn from_toml(text: &str) -> Result<QatConfig, ConfigError> {
        let config: QatConfig =
            toml::from_str(text).map_err(|e| ConfigError::Toml(e.message().to_string()))?;
        config.quant_config()?;
        Ok(config)
    }

    /// The same choices as a [`QuantConfig`]: layers become operator types. The pre-process types and `fuse_conv_bn` are
    /// not part of it: they choose passes.
    ///
    /// # Errors
    /// When a layer type is unknown or a value is not accepted.
    pub fn quant_config(&self) -> Result<QuantConfig, ConfigError> {
        let mut types = Vec::new();
        for layer in &self.quantizable_layer_type {
            types.push(match layer.as_str() {
                "Conv2D" => "conv2d",
                "Conv2DTranspose" => "conv2d_transpose",
                "Linear" | "ColumnParallelLinear" | "RowParallelLinear" => "mul",
                other => {
                    return Err(ConfigError::Value {
                        key: "quantizable_layer_type",
                        expected: "Conv2D, Conv2DTranspose, Linear".into(),
                        found: format!("\"{other}\""),
                    });
                }
            });
        }
        let config = QuantConfig {
            weight_quantize_type: self.weight_quantize_type,
            activation_quantize_type: self.activation_quantize_type,
            weight_bits: self.weight_bits,
            activation_bits: self.activation_bits,
            quantize_op_types: types.into_iter().map(String::from).collect(),
            dtype: self.dtype.clone(),
            window_size: self.window_size,
            moving_rate: self.moving_rate,
            onnx_format: self.onnx_format,
            ..QuantConfig::default()
        };
        config.check()?;
        Ok(config)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn error(toml: &str) -> String {
        QuantConfig::from_toml(toml).unwrap_err().to_string()
    }

    #[test]
    fn every_key_is_read_back() {
        let config = QuantConfig { deploy_backend: Some(DeployBackend::Arm), ..QuantConfig::paddle() };
        let text = toml::to_string(&config).unwrap();
        assert_eq!(QuantConfig::from_toml(&text).unwrap(), config);
        let config =
            QatConfig { activation_preprocess_type: Some(PreprocessType::Pact), ..QatConfig::default() };
        assert_eq!(QatConfig::from_toml(&toml::to_string(&config).unwrap()).unwrap(), config);
    }

    #[test]
    fn mistakes_are_named() {
        assert!(error("activation_bit = 8").contains("activation_bit"), "{}", error("activation_bit = 8"));
        assert!(error("weight_bits = 1").contains("weight_bits is 1, expected 2 to 16"));
        assert!(error("quantize_op_types = ['elmentwise_add']").contains("elmentwise_add"));
        assert!(error("activation_quantize_type = 'channel_wise_abs_max'").contains("channel_wise_abs_max"));
        assert!(error("moving_rate = 1.5").contains("moving_rate"));
        let compat = error("numerics = 'compat'\nactivation_quantize_type = 'lsq_act'");
        assert!(compat.contains("activation_quantize_type is LSQ, expected"), "{compat}");
        assert!(
            QatConfig::from_toml("quantizable_layer_type = ['LSTM']")
                .unwrap_err()
                .to_string()
                .contains("LSTM")
        );
    }

    #[test]
    fn paddle_names_become_onnx_types() {
        let config = QuantConfig::paddle();
        assert_eq!(config.op_types(), Some(vec!["Conv", "Gemm", "MatMul"]));
        assert!(config.selects("Conv", "a").is_ok());
        assert!(config.selects("Add", "a").is_err());
        assert!(config.selects("Conv", "x/skip_quant/a").unwrap_err().contains("skip_quant"));
    }
}
