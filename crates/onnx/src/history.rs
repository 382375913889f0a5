//! Where the ONNX operator set broke with itself. [`obstacle`] is consulted only for nodes that no operator of ours stands
//! for: those cannot be converted to another opset, so it has to be known whether they mean the same there.
//!
//! Source: the version histories in the ONNX operator documentation. Versions that only added element types, negative
//! axes, or attributes whose default is the old behaviour are left out: a node of before is a node of after.

use crate::proto::{AttributeProto, NodeProto};
use tensor::DType;

/// Operator, and the opsets (8 to 28) in which the meaning or the inputs of an old node changed. Sorted.
const CHANGES: &[(&str, &[i64])] = &[
    ("BatchNormalization", &[9, 14]), // `spatial` went; training has its own attribute and fewer results
    ("Clip", &[11]),                  // bounds became inputs
    ("DFT", &[20]),                   // the axis became an input
    ("Dropout", &[12]),               // the ratio became an input, training mode another
    ("GridSample", &[20]),            // modes were renamed
    ("GroupNormalization", &[21]),    // one scale per channel instead of per group
    ("Hardmax", &[13]),               // works along one axis instead of on a matrix
    ("LogSoftmax", &[13]),
    ("Pad", &[11]),      // amounts became an input
    ("ReduceL1", &[18]), // axes became an input
    ("ReduceL2", &[18]),
    ("ReduceLogSum", &[18]),
    ("ReduceLogSumExp", &[18]),
    ("ReduceMax", &[18]),
    ("ReduceMean", &[18]),
    ("ReduceMin", &[18]),
    ("ReduceProd", &[18]),
    ("ReduceSum", &[13]),
    ("ReduceSumSquare", &[18]),
    ("Resize", &[11]),   // another input, and coordinates are transformed otherwise
    ("RoiAlign", &[16]), // samples at pixel centres
    ("Scan", &[9]),      // lost its batch dimension
    ("Scatter", &[11]),  // replaced by ScatterElements
    ("Slice", &[10]),    // bounds became inputs
    ("Softmax", &[13]),
    ("Split", &[13, 18]), // sizes became an input; their number must be said
    ("Squeeze", &[13]),   // axes became an input
    ("TopK", &[10]),      // k became an input
    ("Unsqueeze", &[13]),
    ("Upsample", &[9, 10]), // scales became an input; replaced by Resize
];

/// The opset in which `op_type` changed between `from` and `to`, whichever is newer.
fn change(op_type: &str, from: i64, to: i64) -> Option<i64> {
    let i = CHANGES.binary_search_by_key(&op_type, |(name, _)| name).ok()?;
    CHANGES[i].1.iter().copied().find(|&v| from.min(to) < v && v <= from.max(to))
}

/// Why a node, or one in its sub-graphs, would not mean at opset `to` what it means at opset `from`.
pub(crate) fn obstacle(op_type: &str, attributes: &[AttributeProto], from: i64, to: i64) -> Option<String> {
    if let Some(version) = change(op_type, from, to) {
        return Some(format!(
            "{op_type} changed in opset {version} and this one is only carried through, \
             so it cannot be written at opset {to} (the file has {from})"
        ));
    }
    let inner = attributes.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).flat_map(|g| &g.node);
    let onnx = |n: &&NodeProto| ["", "ai.onnx"].contains(&n.domain());
    inner.filter(onnx).find_map(|n| obstacle(n.op_type(), &n.attribute, from, to))
}

/// Why a node of ONNX has no operands and results of these types at opset `to`: codes of other widths than 8 bits, and scales
/// of half precision, came late.
pub(crate) fn young_type(op_type: &str, types: impl IntoIterator<Item = DType>, to: i64) -> Option<String> {
    let quantizes = ["QuantizeLinear", "DequantizeLinear"].contains(&op_type);
    let since = |dtype: DType| match dtype {
        DType::I4 | DType::U4 => 21,
        DType::I16 | DType::U16 if quantizes => 21,
        DType::F16 | DType::BF16 if quantizes => 19,
        _ => 0,
    };
    let young = types.into_iter().find(|&dtype| to < since(dtype))?;
    Some(format!("{op_type} takes no {young} before opset {}", since(young)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(CHANGES.is_sorted_by(|a, b| a.0 < b.0));
        assert!(
            CHANGES
                .iter()
                .all(|(_, versions)| versions.is_sorted() && versions.iter().all(|v| (8..=22).contains(v)))
        );
    }

    #[test]
    fn types_that_came_late() {
        assert_eq!(young_type("Conv", DType::all().filter(|d| d.bits() >= 8), 13), None);
        assert_eq!(young_type("DequantizeLinear", DType::all(), 21), None);
        let e = young_type("DequantizeLinear", [DType::F32, DType::U16], 20);
        assert_eq!(e, Some("DequantizeLinear takes no uint16 before opset 21".into()));
        assert!(young_type("QuantizeLinear", [DType::U8, DType::F16], 18).is_some());
        assert!(young_type("Cast", [DType::I4], 20).is_some());
    }

    #[test]
    fn changes_lie_between() {
        assert_eq!(change("Softmax", 9, 17), Some(13));
        assert_eq!(change("Softmax", 17, 9), Some(13));
        assert_eq!(change("Softmax", 12, 13), Some(13));
        assert_eq!(change("Softmax", 13, 20), None);
        assert_eq!(change("Split", 13, 20), Some(18));
        assert_eq!(change("LSTM", 7, 20), None);
    }
}
