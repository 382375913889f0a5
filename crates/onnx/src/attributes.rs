//! `AttributeProto` and [`Attr`].

use crate::proto::AttributeProto;
use crate::proto::attribute_proto::AttributeType as T;
use crate::tensors;
use bytes::Bytes;
use ir::{Attr, Attrs, Subgraph};
use prost::Message;

/// Which field holds the value. IR version 1 did not say it.
fn kind(a: &AttributeProto) -> T {
    match a.r#type() {
        T::Undefined if a.f.is_some() => T::Float,
        T::Undefined if a.i.is_some() => T::Int,
        T::Undefined if a.s.is_some() => T::String,
        T::Undefined if a.t.is_some() => T::Tensor,
        T::Undefined if !a.floats.is_empty() => T::Floats,
        T::Undefined if !a.ints.is_empty() => T::Ints,
        T::Undefined if !a.strings.is_empty() => T::Strings,
        declared => declared,
    }
}

fn text(bytes: &Bytes) -> Option<String> {
    Some(std::str::from_utf8(bytes).ok()?.to_string())
}

/// The value, typed where an operator could read it, encoded otherwise.
///
/// # Errors
/// When a tensor's data does not fit its shape.
fn read_one(a: &AttributeProto) -> Result<Attr, String> {
    let typed = match kind(a) {
        _ if !a.ref_attr_name().is_empty() => None,
        T::Float => Some(Attr::Float(a.f())),
        T::Int => Some(Attr::Int(a.i())),
        T::String => text(a.s.as_ref().unwrap_or(&Bytes::new())).map(Attr::Str),
        T::Floats => Some(Attr::Floats(a.floats.clone())),
        T::Ints => Some(Attr::Ints(a.ints.clone())),
        T::Strings => a.strings.iter().map(text).collect::<Option<_>>().map(Attr::Strs),
        T::Tensor => match a.t.as_ref().filter(|t| tensors::dtype(t).is_some()) {
            Some(t) => Some(Attr::Tensor(tensors::to_tensor(t).map_err(|e| e.to_string())?)),
            None => None,
        },
        _ => None,
    };
    Ok(typed.unwrap_or_else(|| raw(a)))
}

/// The attribute as it is.
pub(crate) fn raw(a: &AttributeProto) -> Attr {
    Attr::Raw(Bytes::from(a.encode_to_vec()))
}

/// The attributes of a node.
///
/// # Errors
/// A sentence that names the attribute.
pub(crate) fn read(list: &[AttributeProto]) -> Result<Attrs, String> {
    let mut attrs = Attrs::new();
    for a in list {
        if attrs.get(a.name()).is_some() {
            return Err(format!("attribute {} is given twice", a.name()));
        }
        attrs.set(a.name(), read_one(a).map_err(|what| format!("attribute {}: {what}", a.name()))?);
    }
    Ok(attrs)
}

/// The attributes of a node that is not understood: whatever would not be written back exactly stays encoded.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_untouched(list: &[AttributeProto]) -> Result<Attrs, String> {
    let mut attrs = read(list)?;
    for a in list {
        if attrs.get(a.name()).is_some_and(|attr| write(a.name(), attr).as_ref() != Ok(a)) {
            attrs.set(a.name(), raw(a));
        }
    }
    Ok(attrs)
}

/// The message of an attribute.
///
/// # Errors
/// When an encoded attribute is none.
pub(crate) fn write(name: &str, attr: &Attr) -> Result<AttributeProto, String> {
    let mut a = AttributeProto { name: Some(name.to_string()), ..AttributeProto::default() };
    let kind = match attr {
        Attr::Int(x) => {
            a.i = Some(*x);
            T::Int
        }
        Attr::Float(x) => {
            a.f = Some(*x);
            T::Float
        }
        Attr::Str(x) => {
            a.s = Some(Bytes::from(x.clone()));
            T::String
        }
        Attr::Ints(x) => {
            a.ints = x.clone();
            T::Ints
        }
        Attr::Floats(x) => {
            a.floats = x.clone();
            T::Floats
        }
        Attr::Strs(x) => {
            a.strings = x.iter().map(|s| Bytes::from(s.clone())).collect();
            T::Strings
        }
        Attr::Tensor(x) => {
            a.t = Some(tensors::from_tensor("", x));
            T::Tensor
        }
        Attr::Graph(Subgraph { encoded: x, .. }) | Attr::Raw(x) => {
            let error = |e| format!("attribute {name} is not an encoded attribute: {e}");
            return Ok(AttributeProto {
                name: Some(name.to_string()),
                ..AttributeProto::decode(x.clone()).map_err(error)?
            });
        }
    };
    a.r#type = Some(kind as i32);
    Ok(a)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::proto::{GraphProto, TensorProto};
    use tensor::Tensor;

    #[test]
    fn every_kind_comes_back() {
        let attrs = [
            Attr::Int(-3),
            Attr::Float(0.5),
            Attr::Str("SAME_UPPER".into()),
            Attr::Ints(vec![]),
            Attr::Floats(vec![1.0, 2.0]),
            Attr::Strs(vec!["a".into(), "".into()]),
            Attr::Tensor(Tensor::scalar(1.0f32)),
        ];
        for attr in attrs {
            assert_eq!(read_one(&write("x", &attr).unwrap()).unwrap(), attr);
        }
    }

    #[test]
    fn what_has_no_type_stays_encoded() {
        let graph = AttributeProto {
            name: Some("body".into()),
            r#type: Some(T::Graph as i32),
            g: Some(GraphProto { name: Some("inner".into()), ..GraphProto::default() }),
            ..AttributeProto::default()
        };
        let binary = AttributeProto {
            name: Some("blob".into()),
            r#type: Some(T::String as i32),
            s: Some(Bytes::from_static(&[0xff, 0xfe])),
            ..AttributeProto::default()
        };
        let words = AttributeProto {
            name: Some("words".into()),
            r#type: Some(T::Tensor as i32),
            t: Some(TensorProto {
                data_type: Some(8),
                dims: vec![1],
                string_data: vec!["x".into()],
                ..TensorProto::default()
            }),
            ..AttributeProto::default()
        };
        for a in [graph, binary, words] {
            let attr = read_one(&a).unwrap();
            assert!(matches!(attr, Attr::Raw(_)));
            assert_eq!(write(a.name(), &attr).unwrap(), a);
        }
    }

    #[test]
    fn old_files_do_not_say_the_type() {
        let a = AttributeProto { name: Some("k".into()), ints: vec![3, 3], ..AttributeProto::default() };
        assert_eq!(read_one(&a).unwrap(), Attr::Ints(vec![3, 3]));
        // Read for an operator, but kept as it is for a node that is not understood.
        assert_eq!(read_untouched(std::slice::from_ref(&a)).unwrap().get("k"), Some(&raw(&a)));
        assert_eq!(read(&[a.clone(), a]).unwrap_err(), "attribute k is given twice");
    }
}
