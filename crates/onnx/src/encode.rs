//! A model as bytes, piece by piece: the data of its tensors is written from where it lies, so that a large model is not in
//! memory a second time while it is written.

use crate::proto::{GraphProto, ModelProto, TensorProto};
use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

// Field numbers. A message is the sequence of its fields, so the pieces in front of and behind them can be encoded apart.
const GRAPH: u32 = 7;
const INITIALIZER: u32 = 5;
const RAW_DATA: u32 = 9;

/// Gives the bytes of [`Message::encode`] in pieces to `write`.
///
/// # Errors
/// The first one of `write`.
pub(crate) fn encode<E>(
    mut model: ModelProto,
    write: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let graph = model.graph.take();
    let tail = ModelProto {
        opset_import: std::mem::take(&mut model.opset_import),
        metadata_props: std::mem::take(&mut model.metadata_props),
        training_info: std::mem::take(&mut model.training_info),
        functions: std::mem::take(&mut model.functions),
        configuration: std::mem::take(&mut model.configuration),
        ..ModelProto::default()
    };
    write(&model.encode_to_vec())?;
    if let Some(graph) = graph {
        write(&opening(GRAPH, graph.encoded_len()))?;
        encode_graph(graph, write)?;
    }
    write(&tail.encode_to_vec())
}

fn encode_graph<E>(mut graph: GraphProto, write: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let head = GraphProto {
        node: std::mem::take(&mut graph.node),
        name: graph.name.take(),
        ..GraphProto::default()
    };
    write(&head.encode_to_vec())?;
    for tensor in std::mem::take(&mut graph.initializer) {
        write(&opening(INITIALIZER, tensor.encoded_len()))?;
        encode_tensor(tensor, write)?;
    }
    write(&graph.encode_to_vec())
}

fn encode_tensor<E>(mut tensor: TensorProto, write: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let raw: Option<Bytes> = tensor.raw_data.take();
    let tail = TensorProto {
        double_data: std::mem::take(&mut tensor.double_data),
        uint64_data: std::mem::take(&mut tensor.uint64_data),
        doc_string: tensor.doc_string.take(),
        external_data: std::mem::take(&mut tensor.external_data),
        data_location: tensor.data_location.take(),
        metadata_props: std::mem::take(&mut tensor.metadata_props),
        ..TensorProto::default()
    };
    write(&tensor.encode_to_vec())?;
    if let Some(raw) = raw {
        write(&opening(RAW_DATA, raw.len()))?;
        write(&raw)?;
    }
    write(&tail.encode_to_vec())
}

/// Number and length of a field with bytes of its own.
fn opening(field: u32, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(12);
    encode_key(field, WireType::LengthDelimited, &mut bytes);
    encode_varint(len as u64, &mut bytes);
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::from_tensor;
    use crate::proto::{NodeProto, OperatorSetIdProto, StringStringEntryProto, ValueInfoProto};
    use tensor::Tensor;

    /// A message in which every field that is split off is there.
    #[test]
    fn the_pieces_are_the_message() {
        let entry = StringStringEntryProto { key: Some("k".into()), value: Some("v".into()) };
        let raw = TensorProto {
            doc_string: Some("doc".into()),
            metadata_props: vec![entry.clone()],
            data_location: Some(0),
            ..from_tensor("w", &Tensor::new(&[300], vec![1.5f32; 300]))
        };
        let listed = TensorProto {
            dims: vec![2],
            data_type: Some(11),
            double_data: vec![1.0, 2.0],
            name: Some("d".into()),
            ..TensorProto::default()
        };
        let graph = GraphProto {
            node: vec![NodeProto { op_type: Some("Relu".into()), ..NodeProto::default() }],
            name: Some("g".into()),
            initializer: vec![raw, listed],
            doc_string: Some("doc".into()),
            input: vec![ValueInfoProto { name: Some("x".into()), ..ValueInfoProto::default() }],
            metadata_props: vec![entry.clone()],
            ..GraphProto::default()
        };
        let model = ModelProto {
            ir_version: Some(8),
            producer_name: Some("p".into()),
            doc_string: Some("doc".into()),
            graph: Some(graph),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
            metadata_props: vec![entry],
            ..ModelProto::default()
        };
        for model in [model.clone(), ModelProto { graph: None, ..model }] {
            let mut pieces = Vec::new();
            encode::<()>(model.clone(), &mut |piece| {
                pieces.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
            assert_eq!(pieces, model.encode_to_vec());
        }
    }
}
