"""What the scripts of this folder share: sessions, data files, preprocessing, and a few questions about a graph."""

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

LEVELS = {
    "disable": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def session(model, level="all", exact=True, save_to=None):
    """Single-threaded CPU session of a path or of serialized bytes.

    `exact` sets `session.x64quantprecision`. Without it, and on x86-64 without VNNI instructions, ONNX Runtime sums
    pairs of u8 x s8 products in 16 bits, which saturate, and a convolution can come out at half its value.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = LEVELS[level]
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if save_to:
        options.optimized_model_filepath = save_to
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def model_input(model):
    """The single input of a graph that is not an initializer (old files list those as inputs too)."""
    constants = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) != 1:
        raise SystemExit(f"expected one input, found {[i.name for i in inputs]}")
    return inputs[0]


def input_shape(value, override=None):
    """Shape of a graph input with batch 1; the other dimensions must be known or come from `override` ("1,3,48,192")."""
    if override:
        return [int(v) for v in override.split(",")]
    shape = [d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim]
    shape[0] = shape[0] or 1
    if None in shape:
        raise SystemExit(f"input {value.name} has open dimensions {shape}: give --shape")
    return shape


def batch_limit(sess):
    """The fixed batch size of a session's first input, or None when it is open."""
    first = sess.get_inputs()[0].shape[0]
    return first if isinstance(first, int) and first > 0 else None


def add_input_options(parser):
    """Options of `to_input`."""
    parser.add_argument("--mean", type=float, nargs="+", default=[0.0], help="per channel, or one for all")
    parser.add_argument("--std", type=float, nargs="+", default=[1.0], help="per channel, or one for all")
    parser.add_argument("--layout", choices=["nchw", "nhwc"], help="of the file; default nhwc for u8, nchw for f32")


def to_input(x, options):
    """A batch of an .npz as the model wants it: f32 NCHW, (x - mean) / std in f32."""
    layout = options.layout or ("nhwc" if x.dtype == np.uint8 else "nchw")
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and layout == "nhwc":
        x = x.transpose(0, 3, 1, 2)
    if x.dtype.kind == "i":  # token ids
        return np.ascontiguousarray(x)
    x = x.astype(np.float32)
    if x.ndim == 4:
        mean = np.array(options.mean, np.float32).reshape(1, -1, 1, 1)
        std = np.array(options.std, np.float32).reshape(1, -1, 1, 1)
        x = (x - mean) / std
    return np.ascontiguousarray(x.astype(np.float32))


def load_split(path, split, limit=None):
    """Arrays x_<split>, y_<split>."""
    with np.load(path) as data:
        return data[f"x_{split}"][:limit], data[f"y_{split}"][:limit]


def constants(model):
    """Initializers and Constant nodes by name."""
    table = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            value = next((a.t for a in node.attribute if a.name == "value"), None)
            if value is not None:
                table[node.output[0]] = numpy_helper.to_array(value)
    return table


def constant_names(model):
    """Names of all values that depend on no graph input: initializers, constants, and what is computed from them alone."""
    fed = {i.name for i in model.graph.input} - {t.name for t in model.graph.initializer}
    known = {t.name for t in model.graph.initializer}
    for node in model.graph.node:  # ONNX lists nodes in topological order
        inputs = [i for i in node.input if i]
        if all(i in known and i not in fed for i in inputs):
            known.update(node.output)
    return known


def producers(model):
    return {out: node for node in model.graph.node for out in node.output if out}


def consumers(model):
    table = {}
    for node in model.graph.node:
        for name in node.input:
            table.setdefault(name, []).append(node)
    return table


def attribute(node, name, default=None):
    for a in node.attribute:
        if a.name == name:
            return onnx.helper.get_attribute_value(a)
    return default


def markdown(rows, head):
    """Rows as a table."""
    rows = [[str(c) for c in row] for row in [head, *rows]]
    width = [max(len(row[k]) for row in rows) for k in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, width)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in width) + "|")
    return "\n".join(lines)


def print_table(rows, head):
    print(markdown(rows, head))
