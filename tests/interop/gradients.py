"""Compare our gradients with PyTorch's, operator by operator and on three networks.

    python gradients.py [--filter LSTM] [--example PATH] [--keep FOLDER]

Each case is an ONNX file of one operator, or a network that PyTorch exported, with drawn operands. The example
`gradients` of the crate onnx-qat (built here with cargo unless --example names it) takes the gradients of a random
projection of the outputs, in float32; PyTorch's autograd takes those of the same projection of the same function in
float64. A case passes when no gradient differs by more than 1e-4 of its largest element, or of a thousandth of the
largest one of the case where that is more: some gradients are sums that cancel to 0. Exit code 1 when one does not.
"""

import argparse
import io
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4
RANDOM = np.random.default_rng(0)
OPSETS = {"CumProd": 26, "RMSNormalization": 23, "Swish": 24}


def draw(*shape, low=-2.0, high=2.0, off=(), margin=0.05):
    """Floats between `low` and `high`, at least `margin` away from each of `off`."""
    x = RANDOM.uniform(low, high, shape)
    for kink in off:
        x = np.where(np.abs(x - kink) < margin, kink + np.where(x < kink, -margin, margin), x)
    return x.astype(np.float32)


def distinct(*shape):
    """Floats that are all different, in random order."""
    n = int(np.prod(shape))
    return (RANDOM.permutation(n).reshape(shape) * 0.1 - n / 20).astype(np.float32)


def tied(*shape):
    """Floats many of which are equal."""
    return RANDOM.integers(-2, 3, shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


class Case:
    """A model, its operands, the function in PyTorch, and the names of what has gradients."""

    def __init__(self, name, model, inputs, function, wrt):
        self.name, self.model, self.inputs, self.function, self.wrt = name, model, inputs, function, wrt


CASES = []


def operator(op, operands, function, outs=1, fixed=(), label="", **attributes):
    """A case of one operator. Operands are arrays or None; the function takes them as tensors and returns the results
    that are floats. All float32 operands have gradients, but those whose slots are `fixed`."""
    names = [f"x{i}" if value is not None else "" for i, value in enumerate(operands)]
    results = [f"y{i}" for i in range(outs)]
    node = helper.make_node(op, names, results, **attributes)
    inputs, initializers, arrays, wrt = [], [], {}, []
    for i, (name, value) in enumerate(zip(names, operands)):
        if value is None:
            continue
        if value.dtype == np.float32 and i not in fixed:
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape))
            arrays[name] = value
            wrt.append(name)
        else:
            initializers.append(numpy_helper.from_array(value, name))
    outputs = [helper.make_empty_tensor_value_info(name) for name in results]
    graph = helper.make_graph([node], op, inputs, outputs, initializers)
    opset = OPSETS.get(op, 22)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    tensors = [None if v is None else torch.from_numpy(v) for v in operands]
    tensors = [t.double() if t is not None and t.is_floating_point() else t for t in tensors]

    def run():
        leaves = {f"x{i}": t.requires_grad_() for i, t in enumerate(tensors) if f"x{i}" in wrt}
        y = function(*tensors)
        return leaves, dict(zip(results, y if isinstance(y, (tuple, list)) else [y]))

    CASES.append(Case(f"{op} {label}".strip(), model, arrays, run, wrt))


def network(name, module, *inputs, opset=17):
    """A case of a PyTorch module in training mode, exported without folding so that parameters keep their names."""
    file = io.BytesIO()
    module.train()
    state = {key: value.clone() for key, value in module.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, inputs, file, dynamo=False, opset_version=opset, do_constant_folding=False,
            training=torch.onnx.TrainingMode.TRAINING, input_names=[f"x{i}" for i in range(len(inputs))],
            output_names=["y"],
        )  # fmt: skip
    module.load_state_dict(state)
    wrt = [key for key, _ in module.named_parameters()] + [f"x{i}" for i in range(len(inputs))]

    def run():
        module.double()
        leaves = {f"x{i}": x.double().requires_grad_() for i, x in enumerate(inputs)}
        y = module(*leaves.values())
        return leaves | dict(module.named_parameters()), {"y": y}

    arrays = {f"x{i}": x.numpy() for i, x in enumerate(inputs)}
    CASES.append(Case(name, onnx.load_from_string(file.getvalue()), arrays, run, wrt))


def element_wise():
    def unary(op, function, low=-2.0, high=2.0, off=(), label="", **attributes):
        operator(op, [draw(3, 4, low=low, high=high, off=off)], function, label=label, **attributes)

    unary("Abs", torch.abs, off=[0])
    unary("Acos", torch.acos, -0.8, 0.8)
    unary("Acosh", torch.acosh, 1.3, 3)
    unary("Asin", torch.asin, -0.8, 0.8)
    unary("Asinh", torch.asinh)
    unary("Atan", torch.atan)
    unary("Atanh", torch.atanh, -0.7, 0.7)
    unary("Ceil", torch.ceil, off=[-1, 0, 1])
    unary("Celu", lambda x: F.celu(x, 1.5), off=[0], alpha=1.5)
    unary("Cos", torch.cos)
    unary("Cosh", torch.cosh)
    unary("Elu", lambda x: F.elu(x, 1.5), off=[0], alpha=1.5)
    unary("Erf", torch.erf)
    unary("Exp", torch.exp)
    unary("Floor", torch.floor, off=[-1, 0, 1])
    unary("Gelu", F.gelu)
    unary("Gelu", lambda x: F.gelu(x, approximate="tanh"), label="tanh", approximate="tanh")
    unary("HardSigmoid", F.hardsigmoid, -4, 4, off=[-3, 3], alpha=1 / 6, beta=0.5)
    unary("HardSwish", F.hardswish, -4, 4, off=[-3, 3])
    unary("Identity", lambda x: x * 1)
    unary("LeakyRelu", lambda x: F.leaky_relu(x, 0.1), off=[0], alpha=0.1)
    unary("Log", torch.log, 0.3, 3)
    unary("Mish", F.mish)
    unary("Neg", torch.neg)
    unary("Reciprocal", torch.reciprocal, 0.4, 3)
    unary("Relu", F.relu, off=[0])
    unary("Round", torch.round, off=[-1.5, -0.5, 0.5, 1.5])
    unary("Selu", F.selu, off=[0])
    unary("Shrink", lambda x: F.softshrink(x, 0.5), off=[-0.5, 0.5], bias=0.5, lambd=0.5)
    unary("Shrink", lambda x: F.hardshrink(x, 0.5), off=[-0.5, 0.5], label="hard", bias=0.0, lambd=0.5)
    unary("Sigmoid", torch.sigmoid)
    unary("Sign", torch.sign, off=[0])
    unary("Sin", torch.sin)
    unary("Sinh", torch.sinh)
    unary("Softplus", F.softplus)
    unary("Softsign", F.softsign, off=[0])
    unary("Sqrt", torch.sqrt, 0.3, 3)
    unary("Swish", lambda x: x * torch.sigmoid(1.5 * x), alpha=1.5)
    unary("Tan", torch.tan, -1, 1)
    unary("Tanh", torch.tanh)
    unary("ThresholdedRelu", lambda x: F.threshold(x, 0.5, 0), off=[0.5], alpha=0.5)

    a, b = draw(2, 3, 4), draw(3, 1, off=[0], margin=0.4)
    operator("Add", [a, b], torch.add)
    operator("Sub", [a, b], torch.sub)
    operator("Mul", [a, b], torch.mul)
    operator("Div", [a, b], torch.div)
    operator("Pow", [draw(2, 3, low=0.5), draw(3)], torch.pow)
    operator("Max", [a, b, draw(4)], lambda a, b, c: torch.maximum(torch.maximum(a, b), c))
    operator("Min", [a, b], torch.minimum)
    operator("Max", [tied(3, 4), tied(4)], torch.maximum, label="ties")
    operator("Mean", [a, b, draw(4)], lambda a, b, c: (a + b + c) / 3)
    operator("Sum", [a, b, draw(4)], lambda a, b, c: a + b + c)
    quotients = (np.array([[3.3, -2.7], [1.2, 4.4]], np.float32), np.array([1.0, -1.5], np.float32))
    operator("Mod", quotients, torch.fmod, label="fmod", fmod=1)
    operator("Mod", quotients, torch.remainder)
    operator("PRelu", [draw(2, 3, 4, off=[0]), draw(3, 1, low=0)], lambda x, s: torch.where(x > 0, x, s * x))
    condition = RANDOM.random((3, 1)) < 0.5
    operator("Where", [condition, a, b], torch.where)
    bounds = [np.array(-1, np.float32), np.array(0.5, np.float32)]
    operator("Clip", [draw(3, 4, off=[-1, 0.5]), *bounds], lambda x, *_: x.clamp(-1, 0.5), fixed=[1, 2])
    operator("Cast", [a], lambda x: x * 1, to=TensorProto.FLOAT)


def products():
    operator("MatMul", [draw(2, 1, 3, 4), draw(5, 4, 2)], torch.matmul)
    operator("MatMul", [draw(4), draw(3, 4, 2)], torch.matmul, label="vector")
    operator(
        "Gemm", [draw(4, 3), draw(5, 4), draw(5)], lambda a, b, c: 0.5 * a.T @ b.T + 2 * c,
        alpha=0.5, beta=2.0, transA=1, transB=1,
    )  # fmt: skip
    equations = ["bij,bjk->bik", "ij,jk,kl->il", "ij->i", "ii->i", "bhid,bhjd->bhij", "...ij,...jk->...ik", "iji,j->i"]
    for equation in equations:
        left = equation.split("->")[0].replace("...", "xy")
        sizes = dict(zip(sorted(set(left) - {","}), [2, 3, 4, 2, 3, 4]))
        operands = [draw(*(sizes[c] for c in term)) for term in left.split(",")]
        spelled = equation.replace("...", "xy")
        reference = "ijk,j,ik->i" if equation == "iji,j->i" else spelled
        extra = [torch.eye(operands[0].shape[0], dtype=torch.double)] if equation == "iji,j->i" else []
        function = lambda *x, reference=reference, extra=extra: torch.einsum(reference, *x, *extra)  # noqa: E731
        operator("Einsum", operands, function, label=equation, equation=equation)

    def conv(x, w, label="", bias=True, pads=None, **attributes):
        axes = len(x) - 2
        b = draw(w[0]) if bias else None
        function = [F.conv1d, F.conv2d][axes - 1]
        named = {"stride": "strides", "dilation": "dilations", "groups": "group"}
        given = {theirs: attributes.get(ours, 1) for theirs, ours in named.items()}
        pads = pads or [0] * (2 * axes)
        # PyTorch lists padding from the last axis on, before and behind.
        around = [p for i in reversed(range(axes)) for p in (pads[i], pads[i + axes])]
        run = lambda x, w, b=None: function(F.pad(x, around), w, b, **given)  # noqa: E731
        operator("Conv", [draw(*x), draw(*w), b], run, label=label, pads=pads, **attributes)

    conv([2, 3, 7, 6], [4, 3, 3, 2], pads=[1, 0, 2, 1], strides=[2, 1])
    conv([2, 4, 7, 7], [6, 2, 3, 3], "grouped, dilated", bias=False, group=2, dilations=[2, 1])
    conv([2, 3, 6, 6], [6, 1, 3, 3], "depthwise", pads=[1, 1, 1, 1], group=3)
    conv([2, 3, 9], [4, 3, 3], "1-D", pads=[1, 1], strides=[2])

    def conv_transpose(x, w, label="", pads=None, **attributes):
        axes = len(x) - 2
        group = attributes.get("group", 1)
        function = [F.conv_transpose1d, F.conv_transpose2d][axes - 1]
        extra = attributes.get("output_padding", [0] * axes)
        pads = pads or [0] * axes
        run = lambda x, w, b: function(  # noqa: E731
            x, w, b, attributes.get("strides", 1), pads, extra, group, attributes.get("dilations", 1)
        )
        operands = [draw(*x), draw(*w), draw(w[1] * group)]
        operator("ConvTranspose", operands, run, label=label, pads=pads * 2, **attributes)

    conv_transpose([2, 4, 4, 5], [4, 3, 3, 3], pads=[1, 1], strides=[2, 2], output_padding=[1, 0])
    conv_transpose([2, 4, 4, 5], [4, 3, 3, 2], "grouped, dilated", group=2, dilations=[2, 1])
    conv_transpose([2, 3, 5], [3, 2, 3], "1-D", strides=[2], pads=[1])


def pools():
    x = distinct(2, 3, 7, 6)
    common = dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    operator("MaxPool", [x], lambda x: F.max_pool2d(x, 3, 2, 1), **common)
    operator("MaxPool", [tied(2, 3, 7, 6)], lambda x: F.max_pool2d(x, 3, 2, 1), label="ties", **common)
    operator(
        "MaxPool", [x], lambda x: F.max_pool2d(x, 2, 2, 0, 2, ceil_mode=True), label="ceil, dilated",
        kernel_shape=[2, 2], strides=[2, 2], dilations=[2, 2], ceil_mode=1,
    )  # fmt: skip
    operator(
        "MaxPool", [distinct(2, 3, 8)], lambda x: F.max_pool1d(x, 3, 2, 1), label="1-D",
        kernel_shape=[3], strides=[2], pads=[1, 1],
    )  # fmt: skip
    x = draw(2, 3, 7, 6)
    for include in [0, 1]:
        operator(
            "AveragePool", [x], lambda x, i=include: F.avg_pool2d(x, 3, 2, 1, count_include_pad=bool(i)),
            label="with padding" if include else "", count_include_pad=include, **common,
        )  # fmt: skip
    flat = dict(kernel_shape=[3], strides=[2])
    operator("AveragePool", [draw(2, 3, 8)], lambda x: F.avg_pool1d(x, 3, 2), label="1-D", **flat)
    operator("GlobalAveragePool", [x], lambda x: x.mean((2, 3), keepdim=True))
    operator("GlobalMaxPool", [distinct(2, 3, 4, 5)], lambda x: x.amax((2, 3), keepdim=True))


def norms():
    x, scale, bias = draw(4, 3, 5, 2), draw(3, low=0.5), draw(3)
    mean, variance = draw(3), draw(3, low=0.5)
    operator(
        "BatchNormalization", [x, scale, bias, mean, variance],
        lambda x, s, b, m, v: F.batch_norm(x, m, v, s, b, eps=1e-3), fixed=[3, 4], epsilon=1e-3,
    )  # fmt: skip
    operator(
        "BatchNormalization", [x, scale, bias, mean, variance],
        lambda x, s, b, m, v: F.batch_norm(x, None, None, s, b, training=True, eps=1e-3),
        outs=3, fixed=[3, 4], label="training", epsilon=1e-3, training_mode=1,
    )  # fmt: skip
    operator("InstanceNormalization", [x, scale, bias], lambda x, s, b: F.instance_norm(x, None, None, s, b))
    operands = [draw(2, 6, 4), draw(6), draw(6)]
    operator("GroupNormalization", operands, lambda x, s, b: F.group_norm(x, 3, s, b), num_groups=3)
    operands = [draw(3, 4, 5), draw(4, 5), draw(4, 5)]
    operator("LayerNormalization", operands, lambda x, s, b: F.layer_norm(x, (4, 5), s, b), axis=1)
    operator("RMSNormalization", [draw(3, 4, 5), draw(5)], lambda x, s: F.rms_norm(x, (5,), s, eps=1e-5), axis=-1)
    operator(
        "LRN", [draw(2, 7, 3, 2)], lambda x: F.local_response_norm(x, 5, 0.5, 0.75, 2.0),
        size=5, alpha=0.5, beta=0.75, bias=2.0,
    )  # fmt: skip
    for p in [1, 2]:
        x = draw(3, 4, off=[0])
        operator("LpNormalization", [x], lambda x, p=p: x / x.norm(p, 1, True), label=f"p={p}", axis=1, p=p)
    operator("Softmax", [draw(3, 4, 2)], lambda x: x.softmax(1), axis=1)
    operator("LogSoftmax", [draw(3, 4, 2)], lambda x: x.log_softmax(-1), axis=-1)


def losses():
    labels = RANDOM.integers(0, 4, (3, 5))
    labels[1, 2] = -1
    weights = draw(4, low=0.5)
    for reduction in ["mean", "sum", "none"]:
        options = dict(reduction=reduction, ignore_index=-1)
        operator(
            "SoftmaxCrossEntropyLoss", [draw(3, 4, 5), labels, weights],
            lambda x, t, w, o=options: F.cross_entropy(x, t, w, **o), fixed=[2], label=reduction, **options,
        )  # fmt: skip
        operator(
            "NegativeLogLikelihoodLoss", [draw(3, 4, 5), labels, weights],
            lambda x, t, w, o=options: F.nll_loss(x, t, w, **o), fixed=[2], label=reduction, **options,
        )  # fmt: skip


def reductions():
    x, positive = draw(3, 4, 2, off=[0]), draw(3, 4, 2, low=0.3)
    some_zeros = x.copy()
    some_zeros[0, 1, 0] = some_zeros[1, 2, 1] = some_zeros[1, 3, 1] = 0
    axes = ints(1)
    for op, x, function in [
        ("ReduceSum", x, lambda x: x.sum(1, True)),
        ("ReduceMean", x, lambda x: x.mean(1, True)),
        ("ReduceMax", distinct(3, 4, 2), lambda x: x.amax(1, True)),
        ("ReduceMin", distinct(3, 4, 2), lambda x: x.amin(1, True)),
        ("ReduceMax", tied(3, 4, 2), lambda x: x.amax(1, True)),
        ("ReduceProd", some_zeros, lambda x: x.prod(1, True)),
        ("ReduceL1", x, lambda x: x.abs().sum(1, True)),
        ("ReduceL2", x, lambda x: x.norm(2, 1, True)),
        ("ReduceLogSum", positive, lambda x: x.sum(1, True).log()),
        ("ReduceLogSumExp", x, lambda x: x.logsumexp(1, True)),
        ("ReduceSumSquare", x, lambda x: (x * x).sum(1, True)),
    ]:
        operator(op, [x, axes], lambda x, _, f=function: f(x))
    operator("CumSum", [x, np.array(1)], lambda x, _: x.cumsum(1))
    operator("CumSum", [x, np.array(1)], lambda x, _: x.flip(1).cumsum(1).flip(1), label="reverse", reverse=1)
    operator("CumProd", [some_zeros, np.array(1)], lambda x, _: x.cumprod(1))


def movements():
    x = draw(3, 4, 5)
    operator("Reshape", [x, ints(2, -1)], lambda x, _: x.reshape(2, -1))
    operator("Flatten", [x], lambda x: x.reshape(3, -1), axis=1)
    operator("Transpose", [x], lambda x: x.permute(2, 0, 1), perm=[2, 0, 1])
    operator("Squeeze", [draw(3, 1, 2), ints(1)], lambda x, _: x.squeeze(1))
    operator("Unsqueeze", [x, ints(1)], lambda x, _: x.unsqueeze(1))
    operator("Expand", [draw(3, 1), ints(2, 3, 4)], lambda x, _: x.expand(2, 3, 4))
    operator("Tile", [x, ints(1, 2, 3)], lambda x, _: x.repeat(1, 2, 3))
    operator("Concat", [x, draw(3, 2, 5)], lambda a, b: torch.cat([a, b], 1), axis=1)
    operator("Split", [x, ints(1, 3)], lambda x, _: x.split([1, 3], 1), outs=2, axis=1)
    operator("Slice", [x, ints(3, 1), ints(-9, 5), ints(1, 2), ints(-2, 2)], lambda x, *_: x.flip(1)[:, 0::2, 1::2])
    operator("Pad", [x, ints(0, 1, 2, 1, 0, 1)], lambda x, _: F.pad(x, (2, 1, 1, 0, 0, 1)))
    for mode, name in [("reflect", "reflect"), ("edge", "replicate"), ("wrap", "circular")]:
        pads = ints(0, 0, 2, 0, 0, 1)
        operator("Pad", [x, pads], lambda x, _, n=name: F.pad(x, (2, 1), mode=n), label=mode, mode=mode)
    at = RANDOM.integers(0, 4, (2, 3))
    operator("Gather", [x, at], lambda x, i: x[:, i], axis=1)
    at = RANDOM.integers(0, 4, (3, 2, 5))
    operator("GatherElements", [x, at], lambda x, i: x.gather(1, i), axis=1)
    at = ints([0, 1], [2, 3], [0, 1])
    operator("GatherND", [x, at], lambda x, i: x[i[:, 0], i[:, 1]])
    at = ints([[1], [0]], [[3], [3]], [[2], [1]])
    operator("GatherND", [x, at], lambda x, i: x[torch.arange(3)[:, None], i[..., 0]], label="batched", batch_dims=1)
    at = RANDOM.integers(0, 4, (3, 6, 5))
    for reduction, name in [("add", "sum"), ("mul", "prod"), ("max", "amax"), ("min", "amin")]:
        operator(
            "ScatterElements", [draw(3, 4, 5), at, draw(3, 6, 5)],
            lambda x, i, u, n=name: x.scatter_reduce(1, i, u, n), label=reduction, axis=1, reduction=reduction,
        )  # fmt: skip
    operands = [tied(3, 4, 5), at, tied(3, 6, 5)]
    most = lambda x, i, u: x.scatter_reduce(1, i, u, "amax")  # noqa: E731
    operator("ScatterElements", operands, most, label="max, ties", axis=1, reduction="max")
    once = np.stack([RANDOM.permutation(4)[:2] for _ in range(15)], 1).reshape(2, 3, 5).transpose(1, 0, 2)
    operands = [x, np.ascontiguousarray(once), draw(3, 2, 5)]
    operator("ScatterElements", operands, lambda x, i, u: x.scatter(1, i, u), axis=1)
    at = ints([0, 1], [2, 3])
    operator("ScatterND", [x, at, draw(2, 5)], lambda x, i, u: x.index_put((i[:, 0], i[:, 1]), u))
    at = ints([0, 1], [2, 3], [0, 1])
    add = lambda x, i, u: x.index_put((i[:, 0], i[:, 1]), u, accumulate=True)  # noqa: E731
    operator("ScatterND", [x, at, draw(3, 5)], add, label="add", reduction="add")
    operator("Compress", [x, np.array([True, False, True])], lambda x, c: x[:, [0, 2]], axis=1)
    operator("Trilu", [x, np.array(1)], lambda x, _: x.triu(1))
    operator("Trilu", [x, np.array(-1)], lambda x, _: x.tril(-1), label="lower", upper=0)
    operator("TopK", [distinct(3, 5), ints(2)], lambda x, _: x.topk(2, 1)[0], outs=2, axis=1)
    operator("DepthToSpace", [draw(2, 8, 3, 2)], lambda x: F.pixel_shuffle(x, 2), blocksize=2, mode="CRD")

    def space_to_depth(x):
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)

    operator("SpaceToDepth", [draw(2, 2, 4, 6)], space_to_depth, blocksize=2)
    lengths = ints(2, 4, 1)
    reverse = lambda x, n: torch.stack([torch.cat([r[:k].flip(0), r[k:]]) for r, k in zip(x, n)])  # noqa: E731
    operator("ReverseSequence", [x, lengths], reverse, batch_axis=0, time_axis=1)
    sizes = ints(2, 3, 7, 5)
    for mode, name, corners, coordinates in [
        ("nearest", "nearest", None, "asymmetric"),
        ("linear", "bilinear", False, "half_pixel"),
        ("linear", "bilinear", True, "align_corners"),
        ("cubic", "bicubic", False, "half_pixel"),
        ("cubic", "bicubic", True, "align_corners"),
    ]:
        given = dict(mode=name, align_corners=corners)
        function = lambda x, _r, _s, _n, g=given: F.interpolate(x, (7, 5), **g)  # noqa: E731
        attributes = dict(mode=mode, coordinate_transformation_mode=coordinates, nearest_mode="floor")
        operator("Resize", [draw(2, 3, 4, 6), None, None, sizes], function, label=f"{mode}, {coordinates}", **attributes)


ACTIVATIONS = {"Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Relu": torch.relu, "Softsign": F.softsign}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}


def recurrence(cell, x, w, r, b=None, lengths=None, h0=None, c0=None, p=None, direction="forward", **attributes):
    """The recurrent operators of ONNX, from their formulas, step by step."""
    time, batch, _ = x.shape
    directions, _, n = r.shape
    before_reset, limit = attributes.get("linear_before_reset", 0), attributes.get("clip", float("inf"))
    names = attributes.get("activations", DEFAULTS[cell] * directions)
    sequence = [[[x.new_zeros(n)] * batch for _ in range(directions)] for _ in range(time)]
    last_h, last_c = [], []
    for d in range(directions):
        count = len(DEFAULTS[cell])
        own = names[d * count : (d + 1) * count]
        f = [lambda v, name=name: ACTIVATIONS[name](v.clamp(-limit, limit)) for name in own]
        split = lambda v: v.split(n)  # noqa: E731
        wb, rb = (b[d].split(GATES[cell] * n)) if b is not None else [x.new_zeros(GATES[cell] * n)] * 2
        peep = p[d].split(n) if p is not None else [x.new_zeros(n)] * 3
        for i in range(batch):
            steps = int(lengths[i]) if lengths is not None else time
            order = range(steps)
            if d == 1 or direction == "reverse":
                order = reversed(order)
            h = h0[d, i] if h0 is not None else x.new_zeros(n)
            c = c0[d, i] if c0 is not None else x.new_zeros(n)
            for t in order:
                from_x, from_h = w[d] @ x[t, i] + wb, r[d] @ h + rb
                if cell == "RNN":
                    h = f[0](from_x + from_h)
                elif cell == "GRU":
                    (xz, xr, xh), (hz, hr, hh) = split(from_x), split(from_h)
                    z, reset = f[0](xz + hz), f[0](xr + hr)
                    hidden = reset * hh if before_reset else r[d][2 * n :] @ (reset * h) + rb[2 * n :]
                    h = (1 - z) * f[1](xh + hidden) + z * h
                else:
                    gi, go, gf, gc = split(from_x + from_h)
                    new = f[0](gf + peep[2] * c) * c + f[0](gi + peep[0] * c) * f[1](gc)
                    h = f[0](go + peep[1] * new) * ACTIVATIONS[own[2]](new)
                    c = new
                sequence[t][d][i] = h
            last_h.append(h)
            last_c.append(c)
    stack = lambda rows: torch.stack(rows).reshape(directions, batch, n)  # noqa: E731
    y = torch.stack([torch.stack([torch.stack(one) for one in step]) for step in sequence])
    return [y, stack(last_h), stack(last_c)][: 3 if cell == "LSTM" else 2]


def recurrent():
    time, batch, width, n = 5, 3, 4, 3
    lengths = np.array([5, 2, 4], np.int32)

    def case(cell, label="", directions=1, bias=True, given=(), peepholes=False, **attributes):
        rows = GATES[cell] * n
        # PyTorch's own layers are scaled like this.
        small = lambda *shape: draw(*shape, low=-0.6, high=0.6)  # noqa: E731
        operands = [draw(time, batch, width), small(directions, rows, width), small(directions, rows, n)]
        operands.append(small(directions, 2 * rows) if bias else None)
        operands.append(lengths if "lengths" in given else None)
        operands.append(small(directions, batch, n) if "state" in given else None)
        if cell == "LSTM":
            operands.append(small(directions, batch, n) if "state" in given else None)
            operands.append(small(directions, 3 * n) if peepholes else None)
        run = lambda *x: recurrence(cell, *x, **attributes)  # noqa: E731
        operator(cell, operands, run, outs=3 if cell == "LSTM" else 2, label=label, hidden_size=n, **attributes)

    for cell in GATES:
        case(cell)
        case(cell, "without bias, reverse", bias=False, direction="reverse")
        case(cell, "bidirectional, lengths, states", 2, given=["lengths", "state"], direction="bidirectional")
        case(cell, "clipped", given=["state"], clip=0.3)
    case("RNN", "Relu", activations=["Relu"])
    case("GRU", "linear before reset", linear_before_reset=1)
    both = dict(linear_before_reset=1, direction="bidirectional")
    case("GRU", "linear before reset, bidirectional, lengths", 2, given=["lengths", "state"], **both)
    case("LSTM", "peepholes", given=["lengths", "state"], peepholes=True)
    case("LSTM", "activations", activations=["Sigmoid", "Softsign", "Relu"])


class Convolutional(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8)
        self.conv2, self.norm2 = torch.nn.Conv2d(8, 12, 3, 2, 1, groups=4, bias=False), torch.nn.BatchNorm2d(12)
        self.out = torch.nn.Linear(12 * 4, 5)

    def forward(self, x):
        x = F.max_pool2d(torch.tanh(self.norm1(self.conv1(x))), 2)
        return self.out(torch.sigmoid(self.norm2(self.conv2(x))).flatten(1))


class Transformer(torch.nn.Module):
    def __init__(self, width=16, heads=4):
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x):
        n, t, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attention = ((q @ k.transpose(-1, -2)) / (width // self.heads) ** 0.5).softmax(-1)
        x = x + self.out((attention @ v).transpose(1, 2).reshape(n, t, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(6, 5, bidirectional=True)
        self.gru = torch.nn.GRU(10, 4, bidirectional=True)
        self.rnn = torch.nn.RNN(8, 4)
        self.out = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.rnn(self.gru(self.lstm(x)[0])[0])[0][-1])


def networks():
    torch.manual_seed(0)
    network("CNN: Conv, BatchNorm, MaxPool, Linear", Convolutional(), torch.randn(4, 3, 8, 8))
    network("transformer block", Transformer(), torch.randn(2, 7, 16))
    network("bidirectional LSTM and GRU, RNN", Recurrent(), torch.randn(6, 3, 6))


def difference(case, example, folder):
    """The largest difference of a gradient, relative to its largest element."""
    leaves, results = case.function()
    weights = {name: RANDOM.uniform(-1, 1, tuple(y.shape)) for name, y in results.items()}
    loss = sum((y * torch.from_numpy(weights[name].astype(np.float32)).double()).sum() for name, y in results.items())
    expected = torch.autograd.grad(loss, [leaves[name] for name in case.wrt], allow_unused=True)
    onnx.save(case.model, folder / "model.onnx")
    arrays = case.inputs | {f"loss/{name}": w.astype(np.float32) for name, w in weights.items()}
    np.savez(folder / "operands.npz", **arrays)
    command = [example, "model.onnx", "operands.npz", "gradients.npz", *case.wrt]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or "the example failed")
    ours = np.load(folder / "gradients.npz")
    worst = abs(float(ours["loss"]) - loss.item()) / max(abs(loss.item()), 1.0)
    expected = [np.zeros(leaves[name].shape) if d is None else d.numpy() for name, d in zip(case.wrt, expected)]
    least = 1e-3 * max([1.0] + [np.abs(d).max(initial=0) for d in expected])
    for name, want in zip(case.wrt, expected):
        if want.shape != ours[name].shape:
            raise RuntimeError(f"the gradient of {name} has the shape {ours[name].shape} instead of {want.shape}")
        error = np.abs(ours[name] - want).max(initial=0) / max(np.abs(want).max(initial=0), least)
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst


def build():
    command = ["cargo", "build", "--quiet", "--release", "--package", "onnx-qat", "--example", "gradients"]
    subprocess.run(command, cwd=ROOT, check=True)
    return ROOT / "target/release/examples/gradients"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filter", default="", help="only cases whose names contain this")
    parser.add_argument("--example", help="the built example, instead of building it")
    parser.add_argument("--keep", help="folder for the files of each case")
    options = parser.parse_args()
    example = pathlib.Path(options.example or build()).resolve()
    for collect in [element_wise, products, pools, norms, losses, reductions, movements, recurrent, networks]:
        collect()
    failed = 0
    chosen = [case for case in CASES if options.filter in case.name]
    print(f"{'case':58} {'difference':>10}")
    with tempfile.TemporaryDirectory() as scratch:
        for number, case in enumerate(chosen):
            folder = pathlib.Path(options.keep or scratch) / f"{number:03}"
            folder.mkdir(parents=True, exist_ok=True)
            try:
                worst = difference(case, example, folder)
                verdict = "pass" if worst <= TOLERANCE else "FAIL"
                print(f"{case.name:58} {worst:10.1e} {verdict}")
            except (RuntimeError, KeyError) as e:
                verdict = "FAIL"
                print(f"{case.name:58} {'-':>10} FAIL: {e}")
            failed += verdict != "pass"
    print(f"{len(chosen)} cases, {failed} failed")
    sys.exit(1 if failed or not chosen else 0)


if __name__ == "__main__":
    main()
