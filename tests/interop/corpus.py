"""Every model of a folder: saved untouched, quantized, and what ONNX Runtime and OpenVINO make of both.

    python corpus.py FOLDER [--only NAME] [--seed 1]

For each NAME.onnx below FOLDER
- `untouched`: our load and save give a file whose outputs in ONNX Runtime equal those of the original to the last bit (on
  drawn inputs; training graphs, whose Dropout draws, are told as such);
for each that has a NAME.fwd_ref.npz with one float input beside it (arrays in/INPUT), a convolutional network:
- it is calibrated statically on those inputs and copies of them with noise, and frozen;
- `integer`: as coverage.py, Conv and Gemm of the float model, of ONNX Runtime, of OpenVINO;
- `agree`: as compare.py, share of the class scores that are at most one step from ONNX Runtime's, and of the samples with
  the same top-1; only for models whose single output is [N,C].
Needs the release binary: cargo build --release --package xtask --package onnx-qat --bins --examples
Exit code 1 when anything differs or is left in float.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

import common
import compare
import coverage

ROOT = Path(__file__).resolve().parents[2]
RELEASE = ROOT / "target" / "release"
NOISE, COPIES = 0.1, 16  # of the standard deviation of the reference inputs; samples in all, at least


def tool(*arguments):
    """Runs one of our programs; its complaint is an exception."""
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])


def drawn_inputs(model, rng):
    """Values for every input of a graph: open dimensions are 2."""
    constants = {t.name for t in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        shape = [d.dim_value if d.dim_value > 0 else 2 for d in tensor.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        draw = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        feeds[value.name] = draw.astype(dtype)
    return feeds


def untouched(path, folder, rng):
    """What is to be said of a model that went through our graph form."""
    copy = folder / "copy.onnx"
    tool(RELEASE / "examples" / "resave", path, copy)
    model = onnx.load(path)
    random = [n for n in model.graph.node if n.op_type == "Dropout" and len(n.input) > 2]
    try:
        sessions = [common.session(str(p), "disable") for p in (path, copy)]
        feeds = drawn_inputs(model, rng)
        before, after = (s.run(None, feeds) for s in sessions)
    except Exception as e:  # ONNX Runtime has no common base of its errors
        return f"ONNX Runtime does not run it: {str(e).splitlines()[0][:60]}", True
    names = [[o.name for o in s.get_outputs()] for s in sessions]
    same = names[0] == names[1] and all(np.array_equal(a, b, equal_nan=True) for a, b in zip(before, after))
    if same:
        return "equal", True
    return ("differs: draws in Dropout", True) if random else ("DIFFERS", False)


def samples(reference, rng):
    """The reference inputs, and noisy copies."""
    noisy = [reference] * max(1, -(-COPIES // len(reference)))
    scale = NOISE * reference.std()
    noisy[1:] = [x + scale * rng.standard_normal(x.shape).astype(np.float32) for x in noisy[1:]]
    return np.concatenate(noisy).astype(np.float32)


def quantized(path, feed, reference, folder, rng):
    """Columns `integer` and `agree` of one network."""
    x = samples(reference, rng)
    data, int8, dump = folder / "data.npz", folder / "int8.onnx", folder / "dump.npz"
    y = np.zeros(len(x), np.int64)
    np.savez(data, x_train=x, y_train=y, x_test=x, y_test=y)
    tool(RELEASE / "xtask", "quantize", path, "--train", data, "--epochs", 0, "-o", int8, "--quiet")

    model = onnx.load(path)
    wanted = sum(coverage.float_nodes(model)[0].values())
    shape = [1, *reference.shape[1:]]
    found = [coverage.onnxruntime_coverage(str(int8)), coverage.openvino_coverage(str(int8), shape)]
    counts = [sum(f.integer.values()) for f in found]
    integer = " / ".join(map(str, [wanted, *counts]))
    good = all(c >= wanted for c in counts) and not any(f.left for f in found)

    outputs = model.graph.output
    if len(outputs) != 1 or len(outputs[0].type.tensor_type.shape.dim) != 2:
        return integer, "-", good
    tool(RELEASE / "xtask", "evaluate", int8, "--eval", data, "--dump", dump, "--quiet")
    step = compare.Steps(onnx.load(int8)).of(outputs[0].name)[0]
    options = argparse.Namespace(level="all", saturating=False, batch=16)
    theirs = compare.run(onnx.load(int8), x, [outputs[0].name], options)[outputs[0].name]
    with np.load(dump) as archive:
        ours = archive[outputs[0].name]
    if step is None:
        step = max(float(theirs.max() - theirs.min()), np.finfo(np.float32).tiny) / 255
    agree = 100 * float((compare.distance(ours, theirs, step) <= 1 + compare.ROUNDING).mean())
    top = 100 * float((compare.top1(ours) == compare.top1(theirs)).mean())
    return integer, f"{agree:.2f} / {top:.2f} %", good and agree >= 99.9 and top >= 99.5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="models whose path contains this")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rows, complete = [], True
    with tempfile.TemporaryDirectory() as temporary:
        for path in sorted(p for p in options.folder.rglob("*.onnx") if options.only in str(p)):
            rng = np.random.default_rng(options.seed)
            row = [path.relative_to(options.folder), *["-"] * 3]
            try:
                row[1], good = untouched(path, Path(temporary), rng)
                complete &= good
                reference = path.with_name(path.name.removesuffix(".onnx") + ".fwd_ref.npz")
                if reference.exists():
                    with np.load(reference) as archive:
                        feeds = {k[3:]: archive[k] for k in archive.files if k.startswith("in/")}
                    [(feed, x)] = feeds.items()
                    if x.dtype == np.float32 and x.ndim == 4:
                        row[2], row[3], good = quantized(path, feed, x, Path(temporary), rng)
                        complete &= good
            except RuntimeError as e:
                row[1], complete = f"FAILED {e}"[:160], False
            rows.append(row)
            print("\t".join(map(str, row)), file=sys.stderr)
    common.print_table(rows, ["model", "untouched", "integer: float / ORT / OpenVINO", "agree: scores / top-1"])
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
