"""How many convolutions and matrix products of a quantized model really run in integers.

    python coverage.py FLOAT.onnx INT8.onnx [--require-all] [--shape 1,3,48,192]

Float model: nodes Conv, ConvTranspose, Gemm, and MatMul with a constant second operand.
ONNX Runtime: integer kernels in the model as optimized at level EXTENDED.
OpenVINO: Convolution, Deconvolution and FullyConnected in the runtime model whose precision is u8 or i8
(INFERENCE_PRECISION_HINT f32, batch 1), and the products in a Subgraph of that precision, which it makes of small ones on
some processors: the matrices of codes that it reads.
Products of two activations (attention) are shown, but not required. Prints a table and, for each runtime, the names of
the nodes left in float with what feeds and what reads them. With --require-all the exit code is 1 when one is left or
when there are fewer integer kernels than nodes in the float model.
"""

import argparse
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import openvino

import common

FLOAT_MODEL = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
ORT_INTEGER = {
    "QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger", "DynamicQuantizeMatMul",
}  # fmt: skip
ORT_FLOAT = {
    "Conv", "FusedConv", "NhwcConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul",
    "TransposeMatMul", "MatMulNBits",
}  # fmt: skip
# Position of the weight; everywhere else it is input 1.
WEIGHT = {"QLinearConv": 3, "QGemm": 3, "QLinearMatMul": 3}
OPENVINO_WEIGHTED = {"Convolution", "Deconvolution", "FullyConnected"}
OPENVINO_INTEGER = {"u8", "i8"}


@dataclass
class Coverage:
    """Nodes with weights by kind, the ones left in float, and products of activations by kind."""

    integer: Counter = field(default_factory=Counter)
    left: list = field(default_factory=list)
    activations: Counter = field(default_factory=Counter)


def float_nodes(model):
    """(kinds with weights, kinds without)"""
    constant = common.constant_names(model)
    weighted, activations = Counter(), Counter()
    for node in model.graph.node:
        if node.op_type in FLOAT_MODEL:
            (weighted if node.input[1] in constant else activations)[node.op_type] += 1
    return weighted, activations


def onnxruntime_coverage(path):
    with tempfile.TemporaryDirectory() as folder:
        optimized = str(Path(folder) / "optimized.onnx")
        common.session(path, "extended", exact=False, save_to=optimized)
        model = onnx.load(optimized)
    constant, produced, consumed = common.constant_names(model), common.producers(model), common.consumers(model)
    outputs = {o.name for o in model.graph.output}
    result = Coverage()
    for node in model.graph.node:
        op = node.op_type
        if op not in ORT_INTEGER | ORT_FLOAT:
            continue
        if node.input[WEIGHT.get(op, 1)] not in constant:
            result.activations[op] += 1
        elif op in ORT_INTEGER:
            result.integer[op] += 1
        else:
            feeds = [produced[i].op_type if i in produced else "input" for i in node.input if i and i not in constant]
            reads = [c.op_type for o in node.output for c in consumed.get(o, [])]
            reads += ["output" for o in node.output if o in outputs]
            result.left.append((node.name or node.output[0], op, feeds, reads))
    return result


def openvino_coverage(path, shape):
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape({model.inputs[0]: shape})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})

    def info(node, key):
        table = node.get_rt_info()
        return table[key].astype(str) if key in table else ""

    def layer(node):
        return f"{info(node, 'layerType')}[{info(node, 'runtimePrecision')}]"

    def matrices(node):
        feeds = [v.get_node() for v in node.input_values()]
        codes = [f for f in feeds if info(f, "layerType") == "Const" and info(f, "outputPrecisions") in OPENVINO_INTEGER]
        return sum(len(f.get_output_shape(0)) == 2 for f in codes)

    result = Coverage()
    for node in compiled.get_runtime_model().get_ordered_ops():
        kind, precision = info(node, "layerType"), info(node, "runtimePrecision")
        if kind == "Subgraph" and precision in OPENVINO_INTEGER and matrices(node):
            result.integer[f"{kind}[{precision}]"] += matrices(node)
        elif kind == "MatMul":
            result.activations[f"{kind}[{precision}]"] += 1
        elif kind in OPENVINO_WEIGHTED and precision in OPENVINO_INTEGER:
            result.integer[f"{kind}[{precision}]"] += 1
        elif kind in OPENVINO_WEIGHTED:
            feeds = [layer(v.get_node()) for v in node.input_values() if info(v.get_node(), "layerType") != "Const"]
            reads = [layer(t.get_node()) for o in node.outputs() for t in o.get_target_inputs()]
            names = info(node, "originalLayersNames") or node.get_friendly_name()
            result.left.append((names, f"{kind}[{precision}]", feeds, reads))
    return result


def listed(counter):
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counter.items())) or "-"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float")
    parser.add_argument("int8")
    parser.add_argument("--shape", help="of the input, when the model leaves more than the batch open")
    parser.add_argument("--require-all", action="store_true")
    options = parser.parse_args()

    model = onnx.load(options.float)
    weighted, activations = float_nodes(model)
    total = sum(weighted.values())
    runtimes = {
        "ONNX Runtime": onnxruntime_coverage(options.int8),
        "OpenVINO": openvino_coverage(options.int8, common.input_shape(common.model_input(model), options.shape)),
    }

    rows = [["float model", f"{total}", "", listed(weighted), listed(activations)]]
    for name, got in runtimes.items():
        rows.append([name, sum(got.integer.values()), len(got.left), listed(got.integer), listed(got.activations)])
    common.print_table(rows, ["", "with weights / integer", "left in float", "kinds", "activation x activation"])

    complete = True
    for name, got in runtimes.items():
        for node, kind, feeds, reads in got.left:
            print(f"{name}: float {kind} {node}: fed by {', '.join(feeds) or '-'}; read by {', '.join(reads) or '-'}")
        if got.left or sum(got.integer.values()) < total:
            complete = False
            print(f"{name}: {sum(got.integer.values())} of {total} in integers")
    if options.require_all and not complete:
        sys.exit(1)


if __name__ == "__main__":
    main()
