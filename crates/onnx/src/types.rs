//! `TypeProto` and [`Type`].

use crate::proto::tensor_shape_proto::{Dimension, dimension};
use crate::proto::{TensorShapeProto, TypeProto, ValueInfoProto, type_proto};
use ir::{Dim, Type};
use tensor::DType;

/// What a declared type says. Types that are no tensors say nothing, nor do shapes that no tensor can have.
pub(crate) fn read(proto: Option<&TypeProto>) -> Type {
    let Some(type_proto::Value::TensorType(t)) = proto.and_then(|t| t.value.as_ref()) else {
        return Type::unknown();
    };
    let shape = t.shape.as_ref().map(|s| s.dim.iter().map(dim).collect());
    let ty = Type { dtype: DType::from_onnx(t.elem_type()), shape };
    if ty.is_countable() { ty } else { Type { shape: None, ..ty } }
}

/// Bytes of the name of a size. Every message about a type repeats it, and a type has many sizes.
const NAME: usize = 512;

/// Some exporters write -1, or a name that is no name, for a size that is not known. A very long name says as little.
fn dim(d: &Dimension) -> Dim {
    match &d.value {
        Some(dimension::Value::DimValue(n)) => usize::try_from(*n).map_or(Dim::Unknown, Dim::Fixed),
        Some(dimension::Value::DimParam(s)) if !["", "?", "-1"].contains(&s.as_str()) && s.len() <= NAME => {
            Dim::sym(s)
        }
        _ => Dim::Unknown,
    }
}

/// The declaration of a value: the one that was read, as long as it says the same.
pub(crate) fn declare(name: &str, ty: &Type, read_before: Option<&ValueInfoProto>) -> ValueInfoProto {
    let mut info = read_before.cloned().unwrap_or_default();
    info.name = Some(name.to_string());
    if read(info.r#type.as_ref()) == *ty {
        return info;
    }
    // An element type that we do not store (strings) is only known to the declaration.
    let declared = info.r#type.as_ref().and_then(|t| t.value.as_ref());
    let elem_type = ty.dtype.map(DType::onnx).or(match declared {
        Some(type_proto::Value::TensorType(t)) => t.elem_type,
        _ => None,
    });
    let tensor = elem_type.map(|elem_type| type_proto::Tensor {
        elem_type: Some(elem_type),
        shape: ty.shape.as_ref().map(|dims| TensorShapeProto { dim: dims.iter().map(dimension).collect() }),
    });
    info.r#type =
        tensor.map(|t| TypeProto { value: Some(type_proto::Value::TensorType(t)), denotation: None });
    info
}

fn dimension(d: &Dim) -> Dimension {
    let value = match d {
        Dim::Fixed(n) => Some(dimension::Value::DimValue(*n as i64)),
        Dim::Sym(s) => Some(dimension::Value::DimParam(s.to_string())),
        Dim::Unknown => None,
    };
    Dimension { value, denotation: None }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn types_come_back() {
        let shape = [Dim::sym("N"), Dim::Fixed(3), Dim::Unknown];
        for ty in [Type::new(DType::F32, shape), Type::of(DType::I64), Type::new(DType::U8, [] as [Dim; 0])] {
            let info = declare("x", &ty, None);
            assert_eq!(read(info.r#type.as_ref()), ty);
            assert_eq!(info.name(), "x");
        }
        assert_eq!(declare("x", &Type::unknown(), None).r#type, None);
    }

    #[test]
    fn a_size_with_a_very_long_name_is_not_known() {
        for (len, known) in [(NAME, true), (NAME + 1, false)] {
            let name = "N".repeat(len);
            let info = declare("x", &Type::new(DType::F32, [Dim::sym(&name)]), None);
            let expected = if known { Dim::sym(&name) } else { Dim::Unknown };
            let ty = read(info.r#type.as_ref());
            assert_eq!(ty, Type::new(DType::F32, [expected]));
            assert_eq!(declare("x", &ty, Some(&info)), info, "it is written back");
        }
    }

    #[test]
    fn a_declaration_that_still_holds_is_kept() {
        let minus_one =
            Dimension { value: Some(dimension::Value::DimValue(-1)), denotation: Some("DATA_BATCH".into()) };
        let tensor =
            type_proto::Tensor { elem_type: Some(1), shape: Some(TensorShapeProto { dim: vec![minus_one] }) };
        let before = ValueInfoProto {
            r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None }),
            name: Some("x".into()),
            doc_string: Some("a".into()),
            ..ValueInfoProto::default()
        };
        let ty = read(before.r#type.as_ref());
        assert_eq!(ty, Type::new(DType::F32, [Dim::Unknown]));
        assert_eq!(declare("x", &ty, Some(&before)), before);
        let bound = declare("x", &Type::new(DType::F32, [8]), Some(&before));
        assert_eq!(read(bound.r#type.as_ref()), Type::new(DType::F32, [8]));
        assert_eq!(bound.doc_string(), "a");
    }
}
