//! What is said of single tensors: bits, range, symmetry. Read from the own configuration or from the JSON of ONNX Runtime's
//! `TensorQuantOverrides`.

use crate::config::{ActivationQuantizeType, ConfigError, QuantConfig};
use ir::{Graph, GraphError};
use observe::Range;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// How one tensor is quantized, where it is not as the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TensorOverride {
    /// Bits of a code, 2 to 16; files are emitted for 2 to 8.
    pub bits: Option<u32>,
    /// Smallest and largest value, which then do not follow the data. The scale of a weight follows from the larger magnitude.
    pub range: Option<[f32; 2]>,
    /// Whether the range of an activation is symmetric about zero. Weights always are.
    pub symmetric: Option<bool>,
}

impl TensorOverride {
    /// Checks what the types do not express.
    pub(crate) fn check(&self, name: &str) -> Result<(), ConfigError> {
        let wrong = |what: &str, expected: &str, found: String| {
            Err(ConfigError::Tensor {
                tensor: name.into(),
                what: format!("{what} is {found}, expected {expected}"),
            })
        };
        if let Some(bits) = self.bits.filter(|bits| !(2..=16).contains(bits)) {
            return wrong("bits", "2 to 16", bits.to_string());
        }
        match self.range {
            Some([min, max]) if !(min.is_finite() && max.is_finite() && min < max) => {
                wrong("range", "two finite numbers, the smaller one first", format!("{min}..{max}"))
            }
            _ => Ok(()),
        }
    }

    /// The range that is fixed.
    pub(crate) fn fixed(&self) -> Option<Range> {
        let [min, max] = self.range?;
        let bound = min.abs().max(max.abs());
        let symmetric = self.symmetric == Some(true);
        Some(if symmetric { Range { min: -bound, max: bound } } else { Range { min, max } })
    }
}

/// The configuration of one tensor.
pub(crate) fn of_tensor<'a>(config: &'a QuantConfig, name: &str) -> Cow<'a, QuantConfig> {
    let Some(own) = config.tensor_overrides.get(name) else { return Cow::Borrowed(config) };
    let mut config = config.clone();
    if let Some(bits) = own.bits {
        (config.weight_bits, config.activation_bits) = (bits, bits);
    }
    use ActivationQuantizeType::{LsqAct, LsqPlusAct, MovingAverageAbsMax, MovingAverageMinMax};
    let general = config.activation_quantize_type;
    // A range that is fixed is not learned.
    let learned = general.learned() && own.range.is_none();
    let changed = own.symmetric.is_some_and(|symmetric| symmetric == general.asymmetric());
    if changed || learned != general.learned() {
        config.activation_quantize_type = match (general.asymmetric() != changed, learned) {
            (true, true) => LsqPlusAct,
            (false, true) => LsqAct,
            (true, false) => MovingAverageMinMax,
            (false, false) => MovingAverageAbsMax,
        };
    }
    config.scale_trainable &= own.range.is_none();
    Cow::Owned(config)
}

/// Checks that the graph has every tensor of which something is said.
///
/// # Errors
/// Names the first one that it has not.
pub(crate) fn check_names(graph: &Graph, config: &QuantConfig) -> Result<(), GraphError> {
    match config.tensor_overrides.keys().find(|name| graph.find(name).is_none()) {
        None => Ok(()),
        Some(name) => {
            let what = "no tensor of the model has this name; `inspect` lists them".to_string();
            Err(GraphError { place: format!("override of tensor \"{name}\""), what })
        }
    }
}

/// Reads the JSON of ONNX Runtime's `TensorQuantOverrides`: for each tensor a list with one entry, or one per channel, with
/// `quant_type` (`QInt8`, `QUInt8`, …), `symmetric`, `reduce_range`, and either `rmin` and `rmax` or `scale` and `zero_point`.
/// Channels of a weight all get the widest range that is said; `axis` is that of the operator here.
///
/// # Errors
/// When it is not such JSON: names tensor and key.
pub fn onnx_runtime_overrides(json: &str) -> Result<BTreeMap<String, TensorOverride>, ConfigError> {
    let entries: BTreeMap<String, Vec<RuntimeEntry>> =
        serde_json::from_str(json).map_err(|e| ConfigError::Json(e.to_string()))?;
    let mut found = BTreeMap::new();
    for (tensor, entries) in entries {
        let error = |what: String| ConfigError::Tensor { tensor: tensor.clone(), what };
        let mut merged = TensorOverride::default();
        for entry in &entries {
            let own = entry.translated().map_err(error)?;
            merged.bits = merged.bits.or(own.bits);
            merged.symmetric = merged.symmetric.or(own.symmetric);
            merged.range = match (merged.range, own.range) {
                (Some([a, b]), Some([c, d])) => Some([a.min(c), b.max(d)]),
                (a, b) => a.or(b),
            };
        }
        merged.check(&tensor)?;
        found.insert(tensor, merged);
    }
    Ok(found)
}

/// One entry of the list of a tensor.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RuntimeEntry {
    quant_type: Option<String>,
    symmetric: Option<bool>,
    reduce_range: Option<bool>,
    rmin: Option<f32>,
    rmax: Option<f32>,
    scale: Option<f32>,
    zero_point: Option<i64>,
    #[serde(rename = "axis")]
    _axis: Option<i64>,
    convert: Option<serde_json::Value>,
}

impl RuntimeEntry {
    fn translated(&self) -> Result<TensorOverride, String> {
        if self.convert.is_some() {
            return Err("convert: a tensor has one pair here, which cannot change its type".into());
        }
        // (bits, lowest code)
        let code_type = match self.quant_type.as_deref() {
            None => None,
            Some(name) => {
                let plain = name.rsplit('.').next().unwrap_or(name).to_lowercase();
                let plain = plain.strip_prefix('q').unwrap_or(&plain);
                Some(match plain {
                    "int8" => (8, -128),
                    "uint8" => (8, 0),
                    "int16" => (16, -32768),
                    "uint16" => (16, 0),
                    "int4" => (4, -8),
                    "uint4" => (4, 0),
                    _ => {
                        return Err(format!(
                            "quant_type is \"{name}\", expected QInt8, QUInt8, QInt16, QUInt16, QInt4 or QUInt4"
                        ));
                    }
                })
            }
        };
        let range = match (self.rmin, self.rmax, self.scale, self.zero_point) {
            (None, None, None, None) => None,
            (Some(min), Some(max), None, None) => Some([min, max]),
            (None, None, Some(scale), Some(zero)) => {
                let (bits, low) = code_type.unwrap_or((8, 0));
                let high = low + (1i64 << bits) - 1;
                Some([(low - zero) as f32 * scale, (high - zero) as f32 * scale])
            }
            _ => return Err("expected rmin and rmax, or scale and zero_point".into()),
        };
        let bits = code_type.map(|(bits, _)| bits as u32);
        let bits = if self.reduce_range == Some(true) { Some(bits.unwrap_or(8) - 1) } else { bits };
        Ok(TensorOverride { bits, range, symmetric: self.symmetric })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn overrides_of_onnx_runtime() {
        let json = r#"{
            "w": [{"quant_type": "QInt8", "axis": 0, "rmin": -1.0, "rmax": 0.5}, {"rmin": -0.5, "rmax": 2.0}],
            "x": [{"quant_type": "QuantType.QUInt8", "scale": 0.5, "zero_point": 2}],
            "y": [{"symmetric": true, "reduce_range": true}]
        }"#;
        let found = onnx_runtime_overrides(json).unwrap();
        let expected = |bits, range, symmetric| TensorOverride { bits, range, symmetric };
        assert_eq!(found["w"], expected(Some(8), Some([-1.0, 2.0]), None));
        assert_eq!(found["x"], expected(Some(8), Some([-1.0, 126.5]), None));
        assert_eq!(found["y"], expected(Some(7), None, Some(true)));
    }

    #[test]
    fn mistakes_name_the_tensor() {
        let message = |json: &str| onnx_runtime_overrides(json).unwrap_err().to_string();
        assert!(message(r#"{"a": [{"quant_type": "QInt5"}]}"#).contains("\"a\": quant_type is \"QInt5\""));
        assert!(message(r#"{"a": [{"rmin": 1.0}]}"#).contains("expected rmin and rmax"));
        assert!(message(r#"{"a": [{"rmin": 1.0, "rmax": -1.0}]}"#).contains("1..-1"));
        assert!(message(r#"{"a": [{"quanttype": 1}]}"#).contains("quanttype"));
        assert!(message("[]").contains("JSON"));
    }
}
