//! One case: what it says, and access to its attributes and arrays.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use tensor::Tensor;

/// A case as the index describes it. Arrays are named by their key in the archive.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub op: String,
    #[serde(default)]
    pub attrs: Map<String, Value>,
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
    #[serde(default)]
    pub outputs: BTreeMap<String, String>,
    #[serde(default)]
    pub tolerance: Map<String, Value>,
    /// What Paddle raises for this case, if it does.
    pub error: Option<String>,
}

/// Why a case has no outputs.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The case lacks something or contradicts itself.
    Malformed(String),
    /// The case asks for what the operator does not accept; Paddle should have raised too.
    Refused(String),
}

pub(crate) fn malformed(why: impl Into<String>) -> Fault {
    Fault::Malformed(why.into())
}

pub(crate) fn refused(why: impl Into<String>) -> Fault {
    Fault::Refused(why.into())
}

/// Values with their shape, as `f32` whatever was recorded.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Array {
    pub fn new(shape: &[usize], values: Vec<f32>) -> Array {
        Array { shape: shape.to_vec(), values }
    }

    pub fn vector(values: Vec<f32>) -> Array {
        Array { shape: vec![values.len()], values }
    }
}

/// What a case asks for, by slot.
#[derive(Default)]
pub(crate) struct Outputs {
    pub arrays: BTreeMap<&'static str, Array>,
    /// Slots that hold the integers to which another slot is rounded.
    pub rounded: BTreeMap<&'static str, &'static str>,
}

impl Outputs {
    pub fn with(mut self, slot: &'static str, array: Array) -> Outputs {
        self.arrays.insert(slot, array);
        self
    }

    /// Says that `slot` holds the integers to which `of` is rounded.
    pub fn rounding(mut self, slot: &'static str, of: &'static str) -> Outputs {
        self.rounded.insert(slot, of);
        self
    }
}

/// What a case gives.
pub(crate) struct Inputs<'a> {
    case: &'a Case,
    arrays: &'a BTreeMap<String, Tensor>,
}

impl<'a> Inputs<'a> {
    pub fn new(case: &'a Case, arrays: &'a BTreeMap<String, Tensor>) -> Inputs<'a> {
        Inputs { case, arrays }
    }

    /// The input array of a slot, if the case has it.
    pub fn get(&self, slot: &str) -> Result<Option<Array>, Fault> {
        let Some(key) = self.case.inputs.get(slot) else { return Ok(None) };
        let tensor =
            self.arrays.get(key).ok_or_else(|| malformed(format!("the archive has no array `{key}`")))?;
        Ok(Some(Array::new(tensor.shape(), tensor.to_f32())))
    }

    pub fn array(&self, slot: &str) -> Result<Array, Fault> {
        self.get(slot)?.ok_or_else(|| malformed(format!("the case has no input `{slot}`")))
    }

    /// An input of exactly one element.
    pub fn scalar(&self, slot: &str) -> Result<f32, Fault> {
        one(slot, &self.array(slot)?)
    }

    /// An input of one element, or `default` where the case has none.
    pub fn scalar_or(&self, slot: &str, default: f32) -> Result<f32, Fault> {
        self.get(slot)?.map_or(Ok(default), |a| one(slot, &a))
    }

    /// An input with the same shape as `like`.
    pub fn same_shape(&self, slot: &str, like: &Array) -> Result<Array, Fault> {
        let array = self.array(slot)?;
        if array.shape != like.shape {
            return Err(malformed(format!("`{slot}` has shape {:?}, not {:?}", array.shape, like.shape)));
        }
        Ok(array)
    }

    /// The shape that the case records for an output.
    pub fn output_shape(&self, slot: &str) -> Option<&'a [usize]> {
        self.case.outputs.get(slot).and_then(|key| self.arrays.get(key)).map(Tensor::shape)
    }

    fn attr<T>(&self, name: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, Fault> {
        let Some(value) = self.case.attrs.get(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| malformed(format!("attribute `{name}` is {value}")))
    }

    pub fn number(&self, name: &str) -> Result<f64, Fault> {
        self.attr(name, Value::as_f64)?
            .ok_or_else(|| malformed(format!("the case has no attribute `{name}`")))
    }

    pub fn integer_or(&self, name: &str, default: i64) -> Result<i64, Fault> {
        Ok(self.attr(name, Value::as_i64)?.unwrap_or(default))
    }

    /// A boolean attribute, false where the case has none.
    pub fn flag(&self, name: &str) -> Result<bool, Fault> {
        Ok(self.attr(name, Value::as_bool)?.unwrap_or(false))
    }

    pub fn text(&self, name: &str) -> Result<&'a str, Fault> {
        self.attr(name, Value::as_str)?
            .ok_or_else(|| malformed(format!("the case has no attribute `{name}`")))
    }

    pub fn integers(&self, name: &str) -> Result<Vec<i64>, Fault> {
        let list =
            self.attr(name, |v| v.as_array()?.iter().map(Value::as_i64).collect::<Option<Vec<i64>>>())?;
        list.ok_or_else(|| malformed(format!("the case has no attribute `{name}`")))
    }
}

fn one(slot: &str, array: &Array) -> Result<f32, Fault> {
    match array.values[..] {
        [x] => Ok(x),
        _ => Err(malformed(format!("`{slot}` has {} elements instead of one", array.values.len()))),
    }
}
