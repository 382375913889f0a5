//! The operators: one file each, with attributes and opset history, shape rule, kernel call, gradient, behaviour
//! under quantization, and tests. Adding one is a file and a line in [`OPS`].

mod abs;
mod abs_max;
mod acos;
mod acosh;
mod activation_scale;
mod adam;
mod add;
mod affine_grid;
mod and;
mod arg;
mod arg_max;
mod arg_min;
mod asin;
mod asinh;
mod atan;
mod atanh;
mod attention;
mod average_pool;
mod batch_normalization;
mod bias_gelu;
mod binary;
mod bit_cast;
mod bit_shift;
mod bitwise_and;
mod bitwise_not;
mod bitwise_or;
mod bitwise_xor;
mod blackman_window;
mod cast;
mod cast_like;
mod causal_conv_with_state;
mod ceil;
mod cell;
mod celu;
mod center_crop_pad;
mod channel_sum;
mod class_loss;
mod clip;
mod codes_conv;
mod col_2_im;
mod compress;
mod concat;
mod constant_of_shape;
mod conv;
mod conv_integer;
mod conv_transpose;
mod cos;
mod cosh;
mod cosine_window;
mod cum_prod;
mod cum_sum;
mod cumulative;
mod decode;
mod deform_conv;
mod depth_to_space;
mod dequantize_linear;
mod det;
mod div;
mod dropout;
mod dynamic_quantize_linear;
mod einsum;
mod elu;
mod epilogue;
mod equal;
mod erf;
mod exp;
mod expand;
mod eye_like;
mod fake_quant;
mod flatten;
mod floor;
mod fused_conv;
mod gather;
mod gather_elements;
mod gather_nd;
mod gelu;
mod gemm;
mod global_average_pool;
mod global_lp_pool;
mod global_max_pool;
mod greater;
mod greater_or_equal;
mod grid_sample;
mod group_normalization;
mod gru;
mod hamming_window;
mod hann_window;
mod hard_sigmoid;
mod hard_swish;
mod hardmax;
mod identity;
mod if_op;
mod instance_normalization;
mod is_inf;
mod is_nan;
mod layer_normalization;
mod leaky_relu;
mod less;
mod less_or_equal;
mod linear_attention;
mod log;
mod log_softmax;
mod loop_op;
mod lp_normalization;
mod lp_pool;
mod lrn;
mod lstm;
mod mat_mul;
mod mat_mul_integer;
mod mat_mul_integer_to_float;
mod max;
mod max_pool;
mod max_unpool;
mod mean;
mod mean_variance_normalization;
mod microsoft_gelu;
mod min;
mod mish;
mod mod_op;
mod momentum;
mod mul;
mod neg;
mod negative_log_likelihood_loss;
mod non_max_suppression;
mod non_zero;
mod not;
mod observe;
mod one_hot;
mod or;
mod p_relu;
mod pact;
mod pad;
mod pow;
mod processed;
mod q_gemm;
mod q_linear;
mod q_linear_add;
mod q_linear_average_pool;
mod q_linear_concat;
mod q_linear_conv;
mod q_linear_global_average_pool;
mod q_linear_leaky_relu;
mod q_linear_mat_mul;
mod q_linear_mul;
mod q_linear_sigmoid;
mod quantize_linear;
mod range;
mod reciprocal;
mod recurrent;
mod reduce;
mod reduce_l1;
mod reduce_l2;
mod reduce_log_sum;
mod reduce_log_sum_exp;
mod reduce_max;
mod reduce_mean;
mod reduce_min;
mod reduce_prod;
mod reduce_sum;
mod reduce_sum_square;
mod relu;
mod reshape;
mod resize;
mod reverse_sequence;
mod rms_normalization;
mod rnn;
mod roi_align;
mod rotary_embedding;
mod round;
mod scan;
mod scatter;
mod scatter_elements;
mod scatter_nd;
mod selu;
mod sgd;
mod shape_op;
mod shrink;
mod sigmoid;
mod sign;
mod sin;
mod sinh;
mod size;
mod skip_layer_normalization;
mod slice;
mod softmax;
mod softmax_cross_entropy_loss;
mod softplus;
mod softsign;
mod space_to_depth;
mod split;
mod sqrt;
mod squeeze;
mod sub;
mod sum;
mod sum_to;
mod swi_glu;
mod swish;
mod tan;
mod tanh;
mod tensor_scatter;
mod thresholded_relu;
mod tile;
mod top_k;
mod training;
mod training_adagrad;
mod training_adam;
mod training_momentum;
mod transpose;
mod trilu;
mod unique;
mod unsqueeze;
mod volume;
mod weight_scale;
mod where_op;
mod window;
mod xor;
mod zero_point;

#[cfg(test)]
mod gradients;
mod parts;
mod shapes;
#[cfg(test)]
mod spoiled;
#[cfg(test)]
mod testing;
mod unary;

pub use abs::Abs;
pub use abs_max::AbsMax;
pub use acos::Acos;
pub use acosh::Acosh;
pub use activation_scale::{ActivationScale, Scheme};
pub use adam::Adam;
pub use add::Add;
pub use affine_grid::AffineGrid;
pub use and::And;
pub use arg_max::ArgMax;
pub use arg_min::ArgMin;
pub use asin::Asin;
pub use asinh::Asinh;
pub use atan::Atan;
pub use atanh::Atanh;
pub use attention::Attention;
pub use average_pool::{AveragePool, AveragePoolGrad};
pub use batch_normalization::{BatchNormalization, BatchNormalizationGrad, BatchStatistics};
pub use bias_gelu::BiasGelu;
pub use binary::BinaryGrad;
pub use bit_cast::BitCast;
pub use bit_shift::BitShift;
pub use bitwise_and::BitwiseAnd;
pub use bitwise_not::BitwiseNot;
pub use bitwise_or::BitwiseOr;
pub use bitwise_xor::BitwiseXor;
pub use blackman_window::BlackmanWindow;
pub use cast::Cast;
pub use cast_like::CastLike;
pub use causal_conv_with_state::CausalConvWithState;
pub use ceil::Ceil;
pub use cell::Activation;
pub use celu::Celu;
pub use center_crop_pad::CenterCropPad;
pub use channel_sum::ChannelSum;
pub use class_loss::{ClassLoss, Reduction};
pub use clip::{Clip, ClipGrad};
pub use codes_conv::{CodesConv, CodesConvWeightGrad};
pub use col_2_im::Col2Im;
pub use compress::Compress;
pub use concat::Concat;
pub use constant_of_shape::ConstantOfShape;
pub use conv::{Conv, ConvInputGrad, ConvWeightGrad};
pub use conv_integer::ConvInteger;
pub use conv_transpose::ConvTranspose;
pub use cos::Cos;
pub use cosh::Cosh;
pub use cum_prod::{CumProd, CumProdGrad};
pub use cum_sum::CumSum;
pub use decode::Decode;
pub use deform_conv::DeformConv;
pub use depth_to_space::DepthToSpace;
pub use dequantize_linear::DequantizeLinear;
pub use det::Det;
pub use div::Div;
pub use dropout::Dropout;
pub use dynamic_quantize_linear::DynamicQuantizeLinear;
pub use einsum::Einsum;
pub use elu::Elu;
pub use epilogue::{Epilogue, EpilogueGrad, EpilogueQuant, Norm};
pub use equal::Equal;
pub use erf::Erf;
pub use exp::Exp;
pub use expand::Expand;
pub use eye_like::EyeLike;
pub use fake_quant::{FakeQuant, FakeQuantGrad, FakeQuantScaleGrad, code_type};
pub use flatten::Flatten;
pub use floor::Floor;
pub use fused_conv::FusedConv;
pub use gather::{Gather, GatherGrad};
pub use gather_elements::GatherElements;
pub use gather_nd::GatherND;
pub use gelu::Gelu;
pub use gemm::Gemm;
pub use global_average_pool::{GlobalAveragePool, GlobalAveragePoolGrad};
pub use global_lp_pool::GlobalLpPool;
pub use global_max_pool::{GlobalMaxPool, GlobalMaxPoolGrad};
pub use greater::Greater;
pub use greater_or_equal::GreaterOrEqual;
pub use grid_sample::{GridSample, GridSampleGrad};
pub use group_normalization::GroupNormalization;
pub use gru::GRU;
pub use hamming_window::HammingWindow;
pub use hann_window::HannWindow;
pub use hard_sigmoid::HardSigmoid;
pub use hard_swish::HardSwish;
pub use hardmax::Hardmax;
pub use identity::Identity;
pub use if_op::If;
pub use instance_normalization::{InstanceNormalization, InstanceNormalizationGrad};
pub use is_inf::IsInf;
pub use is_nan::IsNaN;
pub use layer_normalization::{LayerNormalization, LayerNormalizationGrad};
pub use leaky_relu::LeakyRelu;
pub use less::Less;
pub use less_or_equal::LessOrEqual;
pub use linear_attention::LinearAttention;
pub use log::Log;
pub use log_softmax::{LogSoftmax, LogSoftmaxGrad};
pub use loop_op::Loop;
pub use lp_normalization::LpNormalization;
pub use lp_pool::LpPool;
pub use lrn::{LRN, LRNGrad};
pub use lstm::LSTM;
pub use mat_mul::{MatMul, MatMulGrad, Side};
pub use mat_mul_integer::MatMulInteger;
pub use mat_mul_integer_to_float::MatMulIntegerToFloat;
pub use max::Max;
pub use max_pool::{MaxPool, MaxPoolGrad};
pub use max_unpool::MaxUnpool;
pub use mean::Mean;
pub use mean_variance_normalization::MeanVarianceNormalization;
pub use microsoft_gelu::MicrosoftGelu;
pub use min::Min;
pub use mish::Mish;
pub use mod_op::Mod;
pub use momentum::Momentum;
pub use mul::Mul;
pub use neg::Neg;
pub use negative_log_likelihood_loss::{NegativeLogLikelihoodGrad, NegativeLogLikelihoodLoss};
pub use non_max_suppression::NonMaxSuppression;
pub use non_zero::NonZero;
pub use not::Not;
pub use observe::Observe;
pub use one_hot::OneHot;
pub use or::Or;
pub use p_relu::PRelu;
pub use pact::{Pact, PactGrad};
pub use pad::{Pad, PadGrad, PadMode};
pub use pow::Pow;
pub use processed::Processed;
pub use q_gemm::QGemm;
pub use q_linear_add::QLinearAdd;
pub use q_linear_average_pool::QLinearAveragePool;
pub use q_linear_concat::QLinearConcat;
pub use q_linear_conv::QLinearConv;
pub use q_linear_global_average_pool::QLinearGlobalAveragePool;
pub use q_linear_leaky_relu::QLinearLeakyRelu;
pub use q_linear_mat_mul::QLinearMatMul;
pub use q_linear_mul::QLinearMul;
pub use q_linear_sigmoid::QLinearSigmoid;
pub use quantize_linear::QuantizeLinear;
pub use range::Range;
pub use reciprocal::Reciprocal;
pub use recurrent::{Direction, Recurrence, RecurrentGrad};
pub use reduce::{Form as ReduceForm, ReduceGrad};
pub use reduce_l1::ReduceL1;
pub use reduce_l2::ReduceL2;
pub use reduce_log_sum::ReduceLogSum;
pub use reduce_log_sum_exp::ReduceLogSumExp;
pub use reduce_max::ReduceMax;
pub use reduce_mean::ReduceMean;
pub use reduce_min::ReduceMin;
pub use reduce_prod::ReduceProd;
pub use reduce_sum::ReduceSum;
pub use reduce_sum_square::ReduceSumSquare;
pub use relu::Relu;
pub use reshape::Reshape;
pub use resize::{AspectRatio, Coordinates, Interpolation, Nearest, Resize, ResizeGrad};
pub use reverse_sequence::ReverseSequence;
pub use rms_normalization::RMSNormalization;
pub use rnn::RNN;
pub use roi_align::RoiAlign;
pub use rotary_embedding::RotaryEmbedding;
pub use round::Round;
pub use scan::{Scan, Sequence};
pub use scatter::Join;
pub use scatter_elements::ScatterElements;
pub use scatter_nd::ScatterND;
pub use selu::Selu;
pub use sgd::Sgd;
pub use shape_op::Shape;
pub use shrink::Shrink;
pub use sigmoid::Sigmoid;
pub use sign::Sign;
pub use sin::Sin;
pub use sinh::Sinh;
pub use size::Size;
pub use skip_layer_normalization::SkipLayerNormalization;
pub use slice::{Slice, SliceGrad};
pub use softmax::{Softmax, SoftmaxGrad, only_axis};
pub use softmax_cross_entropy_loss::{SoftmaxCrossEntropyGrad, SoftmaxCrossEntropyLoss};
pub use softplus::Softplus;
pub use softsign::Softsign;
pub use space_to_depth::SpaceToDepth;
pub use split::Split;
pub use sqrt::Sqrt;
pub use squeeze::Squeeze;
pub use sub::Sub;
pub use sum::Sum;
pub use sum_to::SumTo;
pub use swi_glu::SwiGLU;
pub use swish::Swish;
pub use tan::Tan;
pub use tanh::Tanh;
pub use tensor_scatter::TensorScatter;
pub use thresholded_relu::ThresholdedRelu;
pub use tile::Tile;
pub use top_k::TopK;
pub use training::Slots;
pub use training_adagrad::TrainingAdagrad;
pub use training_adam::TrainingAdam;
pub use training_momentum::TrainingMomentum;
pub use transpose::Transpose;
pub use trilu::Trilu;
pub use unary::UnaryGrad;
pub use unique::Unique;
pub use unsqueeze::Unsqueeze;
pub use weight_scale::WeightScale;
pub use where_op::Where;
pub use window::{AutoPad, Window};
pub use xor::Xor;
pub use zero_point::ZeroPoint;

use ir::{Parse, Parsed, Registry};

type ParseFn = fn(&Parse) -> Result<Parsed, String>;

/// Every operator: domain, type, reader. Sorted.
const OPS: &[(&str, &str, ParseFn)] = &[
    ("", "Abs", abs::parse),
    ("", "Acos", acos::parse),
    ("", "Acosh", acosh::parse),
    ("", "Add", add::parse),
    ("", "AffineGrid", affine_grid::parse),
    ("", "And", and::parse),
    ("", "ArgMax", arg_max::parse),
    ("", "ArgMin", arg_min::parse),
    ("", "Asin", asin::parse),
    ("", "Asinh", asinh::parse),
    ("", "Atan", atan::parse),
    ("", "Atanh", atanh::parse),
    ("", "Attention", attention::parse),
    ("", "AveragePool", average_pool::parse),
    ("", "BatchNormalization", batch_normalization::parse),
    ("", "BitCast", bit_cast::parse),
    ("", "BitShift", bit_shift::parse),
    ("", "BitwiseAnd", bitwise_and::parse),
    ("", "BitwiseNot", bitwise_not::parse),
    ("", "BitwiseOr", bitwise_or::parse),
    ("", "BitwiseXor", bitwise_xor::parse),
    ("", "BlackmanWindow", blackman_window::parse),
    ("", "Cast", cast::parse),
    ("", "CastLike", cast_like::parse),
    ("", "CausalConvWithState", causal_conv_with_state::parse),
    ("", "Ceil", ceil::parse),
    ("", "Celu", celu::parse),
    ("", "CenterCropPad", center_crop_pad::parse),
    ("", "Clip", clip::parse),
    ("", "Col2Im", col_2_im::parse),
    ("", "Compress", compress::parse),
    ("", "Concat", concat::parse),
    ("", "ConstantOfShape", constant_of_shape::parse),
    ("", "Conv", conv::parse),
    ("", "ConvInteger", conv_integer::parse),
    ("", "ConvTranspose", conv_transpose::parse),
    ("", "Cos", cos::parse),
    ("", "Cosh", cosh::parse),
    ("", "CumProd", cum_prod::parse),
    ("", "CumSum", cum_sum::parse),
    ("", "DeformConv", deform_conv::parse),
    ("", "DepthToSpace", depth_to_space::parse),
    ("", "DequantizeLinear", dequantize_linear::parse),
    ("", "Det", det::parse),
    ("", "Div", div::parse),
    ("", "Dropout", dropout::parse),
    ("", "DynamicQuantizeLinear", dynamic_quantize_linear::parse),
    ("", "Einsum", einsum::parse),
    ("", "Elu", elu::parse),
    ("", "Equal", equal::parse),
    ("", "Erf", erf::parse),
    ("", "Exp", exp::parse),
    ("", "Expand", expand::parse),
    ("", "EyeLike", eye_like::parse),
    ("", "Flatten", flatten::parse),
    ("", "Floor", floor::parse),
    ("", "GRU", gru::parse),
    ("", "Gather", gather::parse),
    ("", "GatherElements", gather_elements::parse),
    ("", "GatherND", gather_nd::parse),
    ("", "Gelu", gelu::parse),
    ("", "Gemm", gemm::parse),
    ("", "GlobalAveragePool", global_average_pool::parse),
    ("", "GlobalLpPool", global_lp_pool::parse),
    ("", "GlobalMaxPool", global_max_pool::parse),
    ("", "Greater", greater::parse),
    ("", "GreaterOrEqual", greater_or_equal::parse),
    ("", "GridSample", grid_sample::parse),
    ("", "GroupNormalization", group_normalization::parse),
    ("", "HammingWindow", hamming_window::parse),
    ("", "HannWindow", hann_window::parse),
    ("", "HardSigmoid", hard_sigmoid::parse),
    ("", "HardSwish", hard_swish::parse),
    ("", "Hardmax", hardmax::parse),
    ("", "Identity", identity::parse),
    ("", "If", if_op::parse),
    ("", "InstanceNormalization", instance_normalization::parse),
    ("", "IsInf", is_inf::parse),
    ("", "IsNaN", is_nan::parse),
    ("", "LRN", lrn::parse),
    ("", "LSTM", lstm::parse),
    ("", "LayerNormalization", layer_normalization::parse),
    ("", "LeakyRelu", leaky_relu::parse),
    ("", "Less", less::parse),
    ("", "LessOrEqual", less_or_equal::parse),
    ("", "LinearAttention", linear_attention::parse),
    ("", "Log", log::parse),
    ("", "LogSoftmax", log_softmax::parse),
    ("", "Loop", loop_op::parse),
    ("", "LpNormalization", lp_normalization::parse),
    ("", "LpPool", lp_pool::parse),
    ("", "MatMul", mat_mul::parse),
    ("", "MatMulInteger", mat_mul_integer::parse),
    ("", "Max", max::parse),
    ("", "MaxPool", max_pool::parse),
    ("", "MaxUnpool", max_unpool::parse),
    ("", "Mean", mean::parse),
    ("", "MeanVarianceNormalization", mean_variance_normalization::parse),
    ("", "Min", min::parse),
    ("", "Mish", mish::parse),
    ("", "Mod", mod_op::parse),
    ("", "Mul", mul::parse),
    ("", "Neg", neg::parse),
    ("", "NegativeLogLikelihoodLoss", negative_log_likelihood_loss::parse),
    ("", "NonMaxSuppression", non_max_suppression::parse),
    ("", "NonZero", non_zero::parse),
    ("", "Not", not::parse),
    ("", "OneHot", one_hot::parse),
    ("", "Or", or::parse),
    ("", "PRelu", p_relu::parse),
    ("", "Pad", pad::parse),
    ("", "Pow", pow::parse),
    ("", "QLinearConv", q_linear_conv::parse),
    ("", "QLinearMatMul", q_linear_mat_mul::parse),
    ("", "QuantizeLinear", quantize_linear::parse),
    ("", "RMSNormalization", rms_normalization::parse),
    ("", "RNN", rnn::parse),
    ("", "Range", range::parse),
    ("", "Reciprocal", reciprocal::parse),
    ("", "ReduceL1", reduce_l1::parse),
    ("", "ReduceL2", reduce_l2::parse),
    ("", "ReduceLogSum", reduce_log_sum::parse),
    ("", "ReduceLogSumExp", reduce_log_sum_exp::parse),
    ("", "ReduceMax", reduce_max::parse),
    ("", "ReduceMean", reduce_mean::parse),
    ("", "ReduceMin", reduce_min::parse),
    ("", "ReduceProd", reduce_prod::parse),
    ("", "ReduceSum", reduce_sum::parse),
    ("", "ReduceSumSquare", reduce_sum_square::parse),
    ("", "Relu", relu::parse),
    ("", "Reshape", reshape::parse),
    ("", "Resize", resize::parse),
    ("", "ReverseSequence", reverse_sequence::parse),
    ("", "RoiAlign", roi_align::parse),
    ("", "RotaryEmbedding", rotary_embedding::parse),
    ("", "Round", round::parse),
    ("", "Scan", scan::parse),
    ("", "Scatter", scatter_elements::parse),
    ("", "ScatterElements", scatter_elements::parse),
    ("", "ScatterND", scatter_nd::parse),
    ("", "Selu", selu::parse),
    ("", "Shape", shape_op::parse),
    ("", "Shrink", shrink::parse),
    ("", "Sigmoid", sigmoid::parse),
    ("", "Sign", sign::parse),
    ("", "Sin", sin::parse),
    ("", "Sinh", sinh::parse),
    ("", "Size", size::parse),
    ("", "Slice", slice::parse),
    ("", "Softmax", softmax::parse),
    ("", "SoftmaxCrossEntropyLoss", softmax_cross_entropy_loss::parse),
    ("", "Softplus", softplus::parse),
    ("", "Softsign", softsign::parse),
    ("", "SpaceToDepth", space_to_depth::parse),
    ("", "Split", split::parse),
    ("", "Sqrt", sqrt::parse),
    ("", "Squeeze", squeeze::parse),
    ("", "Sub", sub::parse),
    ("", "Sum", sum::parse),
    ("", "SwiGLU", swi_glu::parse),
    ("", "Swish", swish::parse),
    ("", "Tan", tan::parse),
    ("", "Tanh", tanh::parse),
    ("", "TensorScatter", tensor_scatter::parse),
    ("", "ThresholdedRelu", thresholded_relu::parse),
    ("", "Tile", tile::parse),
    ("", "TopK", top_k::parse),
    ("", "Transpose", transpose::parse),
    ("", "Trilu", trilu::parse),
    ("", "Unique", unique::parse),
    ("", "Unsqueeze", unsqueeze::parse),
    ("", "Upsample", resize::parse_upsample),
    ("", "Where", where_op::parse),
    ("", "Xor", xor::parse),
    ("ai.onnx.preview.training", "Adagrad", training_adagrad::parse),
    ("ai.onnx.preview.training", "Adam", training_adam::parse),
    ("ai.onnx.preview.training", "Momentum", training_momentum::parse),
    ("com.microsoft", "BiasGelu", bias_gelu::parse),
    ("com.microsoft", "FastGelu", bias_gelu::parse_fast),
    ("com.microsoft", "FusedConv", fused_conv::parse),
    ("com.microsoft", "Gelu", microsoft_gelu::parse),
    ("com.microsoft", "LayerNormalization", layer_normalization::parse),
    ("com.microsoft", "MatMulIntegerToFloat", mat_mul_integer_to_float::parse),
    ("com.microsoft", "QGemm", q_gemm::parse),
    ("com.microsoft", "QLinearAdd", q_linear_add::parse),
    ("com.microsoft", "QLinearAveragePool", q_linear_average_pool::parse),
    ("com.microsoft", "QLinearConcat", q_linear_concat::parse),
    ("com.microsoft", "QLinearGlobalAveragePool", q_linear_global_average_pool::parse),
    ("com.microsoft", "QLinearLeakyRelu", q_linear_leaky_relu::parse),
    ("com.microsoft", "QLinearMul", q_linear_mul::parse),
    ("com.microsoft", "QLinearSigmoid", q_linear_sigmoid::parse),
    ("com.microsoft", "QuickGelu", microsoft_gelu::parse_quick),
    ("com.microsoft", "SkipLayerNormalization", skip_layer_normalization::parse),
    ("com.microsoft", "SkipSimplifiedLayerNormalization", skip_layer_normalization::parse_simplified),
    ("qat", "AbsMax", abs_max::parse),
    ("qat", "ActivationScale", activation_scale::parse),
    ("qat", "Adam", adam::parse),
    ("qat", "AveragePoolGrad", average_pool::parse_grad),
    ("qat", "BatchNormalizationGrad", batch_normalization::parse_grad),
    ("qat", "BatchStatistics", batch_normalization::parse_statistics),
    ("qat", "BinaryGrad", binary::parse_grad),
    ("qat", "ChannelSum", channel_sum::parse),
    ("qat", "ClipGrad", clip::parse_grad),
    ("qat", "CodesConv", codes_conv::parse),
    ("qat", "CodesConvWeightGrad", codes_conv::parse_weight_grad),
    ("qat", "ConvInputGrad", conv::parse_input_grad),
    ("qat", "ConvWeightGrad", conv::parse_weight_grad),
    ("qat", "CumProdGrad", cum_prod::parse_grad),
    ("qat", "Decode", decode::parse),
    ("qat", "Epilogue", epilogue::parse),
    ("qat", "EpilogueGrad", epilogue::parse_grad),
    ("qat", "FakeQuant", fake_quant::parse),
    ("qat", "FakeQuantGrad", fake_quant::parse_grad),
    ("qat", "FakeQuantScaleGrad", fake_quant::parse_scale_grad),
    ("qat", "GatherGrad", gather::parse_grad),
    ("qat", "GlobalAveragePoolGrad", global_average_pool::parse_grad),
    ("qat", "GlobalMaxPoolGrad", global_max_pool::parse_grad),
    ("qat", "GridSampleGrad", grid_sample::parse_grad),
    ("qat", "InstanceNormalizationGrad", instance_normalization::parse_grad),
    ("qat", "LRNGrad", lrn::parse_grad),
    ("qat", "LayerNormalizationGrad", layer_normalization::parse_grad),
    ("qat", "LogSoftmaxGrad", log_softmax::parse_grad),
    ("qat", "MatMulGrad", mat_mul::parse_grad),
    ("qat", "MaxPoolGrad", max_pool::parse_grad),
    ("qat", "Momentum", momentum::parse),
    ("qat", "NegativeLogLikelihoodGrad", negative_log_likelihood_loss::parse_grad),
    ("qat", "Observe", observe::parse),
    ("qat", "Pact", pact::parse),
    ("qat", "PactGrad", pact::parse_grad),
    ("qat", "PadGrad", pad::parse_grad),
    ("qat", "Processed", processed::parse),
    ("qat", "RecurrentGrad", recurrent::parse_grad),
    ("qat", "ReduceGrad", reduce::parse_grad),
    ("qat", "ResizeGrad", resize::parse_grad),
    ("qat", "Sgd", sgd::parse),
    ("qat", "SliceGrad", slice::parse_grad),
    ("qat", "SoftmaxCrossEntropyGrad", softmax_cross_entropy_loss::parse_grad),
    ("qat", "SoftmaxGrad", softmax::parse_grad),
    ("qat", "SumTo", sum_to::parse),
    ("qat", "UnaryGrad", unary::parse_grad),
    ("qat", "WeightScale", weight_scale::parse),
    ("qat", "ZeroPoint", zero_point::parse),
];

/// The operators of this crate, for readers of ONNX files and graph text.
pub struct Ops;

impl Registry for Ops {
    fn parse(&self, domain: &str, op_type: &str, cx: &Parse) -> Option<Result<Parsed, String>> {
        let domain = if domain == "ai.onnx" { "" } else { domain };
        let i = OPS.binary_search_by(|(d, t, _)| (*d, *t).cmp(&(domain, op_type))).ok()?;
        Some(OPS[i].2(cx))
    }
}

/// Domain and name of every operator, sorted; the domain of ONNX is empty.
pub fn operators() -> impl ExactSizeIterator<Item = (&'static str, &'static str)> {
    OPS.iter().map(|&(domain, name, _)| (domain, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(OPS.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)));
    }
}
