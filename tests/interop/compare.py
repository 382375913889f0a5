"""Compare our own evaluation of a quantized graph with ONNX Runtime's.

    python compare.py INT8.onnx OURS.npz [--intermediates] [--level all] [--saturating]
    python compare.py INT8.onnx --list          names of the quantized tensors inside

OURS.npz: `input` (or the name of the graph's input), what was fed to the model, first axis = images; and our results
under the names of the graph's outputs. With --intermediates every further array that bears the name of a value inside
the graph is compared too: outputs of QuantizeLinear (u8, s8 codes) or of DequantizeLinear (f32).

Two values agree when they are at most one quantization step apart. The step of a value is
- 1 for codes, and for what DequantizeLinear wrote its scale; operators that only move or select values keep it;
- for the float output of Conv, Gemm or MatMul between dequantized operands (an unquantized last layer) s_x * max|w_c|:
  what channel c moves by when one element of the layer's input is one step off at the largest weight of c. The
  accumulator's own step s_x * s_w[c] would ask for bit-equality of all that is before;
- for anything else (Softmax, ...) 1/255 of the range that ONNX Runtime's values of that tensor span.
Exit code 1 when fewer than --min-values % of an array's values agree or fewer than --min-top1 % of the images have the
same largest logit (outputs of the form [N,C] or [N,C,1,1]).

By default ONNX Runtime is told to avoid saturating kernels (see common.session): this compares what a file means. With
--saturating it is what a processor without VNNI makes of it.
"""

import argparse
import sys

import numpy as np
import onnx

import common

# Operators whose output elements are elements of their first input.
MOVES = {
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "MaxPool", "Relu", "Clip", "Slice", "Gather",
    "Split", "DepthToSpace", "Expand", "Tile", "Resize", "Upsample", "Pad",
}  # fmt: skip
ROUNDING = 1e-3  # of a step: float32 arithmetic of the comparison itself


class Steps:
    """Quantization step of the values of a graph."""

    def __init__(self, model):
        self.constants = common.constants(model)
        self.constant_names = common.constant_names(model)
        self.producers = common.producers(model)

    def of(self, name):
        """(step, how it was found); the step broadcasts against the value. (None, why) when there is none."""
        node = self.producers.get(name)
        if node is None:
            return None, "graph input"
        op = node.op_type
        if op == "QuantizeLinear":
            return np.float64(1), "codes"
        if op == "DequantizeLinear":
            scale = self.constants.get(node.input[1])
            if scale is not None and scale.size == 1:
                return np.float64(scale.reshape(())), "scale"
            return None, "per-axis or computed scale"
        if op in MOVES:
            step, how = self.of(node.input[0])
            return (step, how) if np.ndim(step) == 0 else (None, f"{op} of per-channel steps")
        if op in ("Conv", "Gemm", "MatMul"):
            return self.product(node)
        if op == "Add":
            operands = [i for i in node.input if i not in self.constant_names]
            if len(operands) == 1:
                return self.of(operands[0])
        return None, op

    def product(self, node):
        """Step of a float product of a quantized activation with a quantized weight."""
        step, _ = self.of(node.input[0])
        weight = self.weight(node.input[1])
        if step is None or np.ndim(step) != 0 or weight is None:
            return None, f"{node.op_type} of float operands"
        if node.op_type == "Conv":
            largest = np.abs(weight).reshape(len(weight), -1).max(1).reshape(-1, *[1] * (weight.ndim - 2))
        elif weight.ndim != 2:
            return None, f"{node.op_type} with a weight of rank {weight.ndim}"
        else:
            reduced = 1 if node.op_type == "Gemm" and common.attribute(node, "transB", 0) else 0
            largest = np.abs(weight).max(reduced) * abs(common.attribute(node, "alpha", 1.0))
        # A channel without weights is a constant, equal in both.
        return step * np.maximum(largest, np.finfo(np.float32).tiny), "s_x * max|w_c|"

    def weight(self, name):
        """Constant second operand as float64, dequantized when it is quantized."""
        if name in self.constants:
            return self.constants[name].astype(np.float64)
        node = self.producers.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        parts = [self.constants.get(i) for i in node.input]
        if any(p is None for p in parts):
            return None
        codes, scale = parts[0].astype(np.float64), parts[1].astype(np.float64)
        zero = parts[2].astype(np.float64) if len(parts) > 2 else np.zeros_like(scale)
        if scale.size > 1:
            shape = [1] * codes.ndim
            shape[common.attribute(node, "axis", 1)] = -1
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        return (codes - zero) * scale


def activations(model):
    """Names of the quantized activations (outputs of QuantizeLinear on something that is not constant)."""
    constant = common.constant_names(model)
    return [n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear" and n.output[0] not in constant]


def with_outputs(model, names):
    """A copy of the model that also gives out `names`."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    types = {}
    for name in names:
        node = common.producers(model)[name]
        types[name] = onnx.TensorProto.FLOAT
        if node.op_type == "QuantizeLinear":
            zero = common.constants(model).get(node.input[2]) if len(node.input) > 2 else None
            dtype = np.dtype(np.uint8) if zero is None else zero.dtype
            types[name] = onnx.helper.np_dtype_to_tensor_dtype(dtype)
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, types[name], None))
    return copy


def run(model, x, names, options):
    """The values `names` for all of x, in batches."""
    sess = common.session(model.SerializeToString(), options.level, exact=not options.saturating)
    size = common.batch_limit(sess) or options.batch
    feed = sess.get_inputs()[0].name
    parts = [sess.run(names, {feed: x[i : i + size]}) for i in range(0, len(x), size)]
    return {name: np.concatenate([p[k] for p in parts]) for k, name in enumerate(names)}


def distance(ours, theirs, step):
    """|difference| in steps, element by element."""
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    # Not-a-number in one of them must count as a difference.
    difference = np.where(np.isnan(difference) & ~(np.isnan(ours) & np.isnan(theirs)), np.inf, np.nan_to_num(difference))
    return difference / step


def top1(values):
    """Index of the largest logit per image, or None when the array is not [N,C] (or [N,C,1,1])."""
    if values.ndim < 2 or values.shape[1] < 2 or any(d != 1 for d in values.shape[2:]):
        return None
    return values.reshape(len(values), -1).argmax(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("int8")
    parser.add_argument("ours", nargs="?")
    parser.add_argument("--list", action="store_true", help="print the names of the quantized activations and stop")
    parser.add_argument("--intermediates", action="store_true")
    parser.add_argument("--level", choices=list(common.LEVELS), default="all", help="graph optimization of ONNX Runtime")
    parser.add_argument("--saturating", action="store_true")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--min-values", type=float, default=99.9, help="percent")
    parser.add_argument("--min-top1", type=float, default=99.5, help="percent")
    options = parser.parse_args()

    model = onnx.load(options.int8)
    if options.list:
        print("\n".join(activations(model)))
        return
    if options.ours is None:
        parser.error("OURS.npz is missing")
    with np.load(options.ours) as data:
        ours = dict(data)
    feed = common.model_input(model).name
    x = ours.pop(feed) if feed in ours else ours.pop("input")
    outputs = [o.name for o in model.graph.output]
    missing = [name for name in outputs if name not in ours]
    if missing:
        raise SystemExit(f"{options.ours} lacks the outputs {missing}")
    inside = []
    if options.intermediates:
        known = common.producers(model)
        inside = [name for name in known if name in ours and name not in outputs]
        unknown = [name for name in ours if name not in outputs and name not in inside]
        if unknown:
            raise SystemExit(f"{options.ours} holds arrays that are not values of the graph: {unknown[:5]}")
        if not inside:
            raise SystemExit(f"{options.ours} holds no intermediate values")

    # The outputs come from the model as it is, so that giving out what is inside cannot change them.
    theirs = run(model, x, outputs, options)
    if inside:
        theirs |= run(with_outputs(model, inside), x, inside, options)

    steps, rows, failures = Steps(model), [], []
    for name in outputs + inside:
        a, b = ours[name], theirs[name]
        if a.shape != b.shape:
            failures.append(f"{name}: shape {a.shape}, ONNX Runtime {b.shape}")
            continue
        step, how = steps.of(name)
        if step is None:
            step, how = max(float(b.max()) - float(b.min()), np.finfo(np.float32).tiny) / 255, f"range / 255 ({how})"
        d = distance(a, b, step)
        agree = 100 * float((d <= 1 + ROUNDING).mean())
        equal = 100 * float((d <= ROUNDING).mean())
        same = "-"
        if name in outputs and (ours_top := top1(a)) is not None:
            share = 100 * float((ours_top == top1(b)).mean())
            same = f"{share:.2f}"
            if share < options.min_top1:
                failures.append(f"{name}: same top-1 on {share:.2f} % of the images, {options.min_top1} % wanted")
        if agree < options.min_values:
            failures.append(f"{name}: {agree:.3f} % of the values within a step, {options.min_values} % wanted")
        rows.append([name, list(a.shape), f"{np.max(step):.3g}", how, f"{equal:.3f}", f"{agree:.3f}", f"{d.max():.3g}", same])
    head = ["value", "shape", "step", "step from", "equal %", "within a step %", "largest, steps", "same top-1 %"]
    common.print_table(rows, head)
    for line in failures:
        print(f"FAILED {line}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
