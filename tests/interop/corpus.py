"""Every model below a folder: read, computed, trained for one step, and its int8 file run in other runtimes.

    python corpus.py FOLDER --program XTASK [--only TEXT] [--output FILE.md] [--seed 1]

`cargo xtask corpus FOLDER` starts it. Inputs are those of NAME.fwd_ref.npz (arrays in/INPUT) or, for NAME.train.onnx, of
NAME.train_ref.npz (arrays x, y, or by name of the input) beside the model; else of a model in the same folder with the same
inputs; else drawn, open dimensions being 2. The columns:

- saved: our load and save give a file whose outputs in ONNX Runtime equal those of the original to the last bit;
- float: the largest difference of our outputs from ONNX Runtime's, relative to the largest value of each; at most 1e-4;
- loss: of one step of quantization-aware training on those inputs: the model's own, cross-entropy with drawn labels where
  there are class scores, distillation elsewhere;
- gradients: of so many float constants with more than one element, running statistics apart, so many get a finite gradient
  in that step, and as many where PyTorch's gradients are recorded. Which do not, and why, stands below the table;
- int8 file: after `quantize --epochs 1` on these inputs, and noisy copies of the float ones, the file runs in ONNX Runtime
  and its outputs are finite; for a model that was not in training mode, how far they are from those of the float file. Where
  inputs are drawn, the rate is 0: these are networks of constant weights, whose large activations make any step a leap;
- integer: for convolutional networks with reference inputs, Conv and Gemm of the float model, and integer kernels for them
  in ONNX Runtime and OpenVINO, as coverage.py counts them;
- agree: as compare.py, share of the class scores that are at most one step from ONNX Runtime's, and of the samples with the
  same top-1; for those whose single output is [N,C].

Exit code 1 when something failed that is not told as a note on ONNX Runtime.
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

NOISE, COPIES = 0.1, 16  # of the standard deviation of the reference inputs; samples in all, at least
TOLERANCE = 1e-4  # of the largest value
LEARNING_RATE = "0.00001"
HEAD = ["model", "exporter", "nodes", "saved", "float", "loss", "gradients", "int8 file", "integer", "agree"]


class Failed(Exception):
    """What one of our programs complained about."""


def tool(*arguments):
    """What one of our programs prints."""
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(((done.stderr or done.stdout).strip() or f"exit code {done.returncode}").splitlines()[-1])
    return done.stdout


def message(error):
    """The first line of what ONNX Runtime says, without its numbers and places."""
    return str(error).splitlines()[0].split(" : ")[-1].split(" failed:")[-1][:160]


def inputs_of(model):
    """Inputs of a graph that are not initializers as well: name, element type and dimensions (None where open)."""
    constants = {t.name for t in model.graph.initializer}
    found = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        if value.name not in constants and value.type.HasField("tensor_type"):
            shape = [d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim]
            found[value.name] = (onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), shape)
    return found


def fits(array, spec):
    dtype, shape = spec
    same = len(shape) == array.ndim and all(d in (None, n) for d, n in zip(shape, array.shape))
    return array.dtype == dtype and same


def recorded(archive, wanted):
    """The inputs that an archive of references holds, by name or in the only place that they can have."""
    general = {"x": [n for n in wanted if wanted[n][0].kind == "f" or len(wanted) == 1], "y": ["label"]}
    if len(wanted) == 2 and "label" in wanted:
        general["x"] = [n for n in wanted if n != "label"]
    found = {}
    with np.load(archive) as arrays:
        for key in arrays.files:
            names = [key.removeprefix("in/")] if key.startswith("in/") or key in wanted else general.get(key, [])
            if len(names) == 1 and names[0] in wanted and fits(arrays[key], wanted[names[0]]):
                found[names[0]] = arrays[key]
    return found


def feeds_of(path, wanted, rng):
    """Values for every input, and whether there are recorded ones among them."""
    own = [path.with_name(path.name.removesuffix(".onnx") + ".fwd_ref.npz")]
    own.append(path.with_name(path.name.removesuffix(".train.onnx") + ".train_ref.npz"))
    others = sorted(path.parent.glob("*.train_ref.npz")) + sorted(path.parent.glob("*.fwd_ref.npz"))
    best = {}
    for archive in [*own, *others]:
        found = recorded(archive, wanted) if archive.exists() else {}
        if len(found) > len(best):
            best = found
    is_recorded = bool(best)
    batch = next((len(v) for v in best.values()), 2)
    for name, (dtype, shape) in wanted.items():
        if name not in best:
            shape = [batch if i == 0 and d is None else d or 2 for i, d in enumerate(shape)]
            draw = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
            best[name] = np.asarray(draw).astype(dtype)
    return {name: best[name] for name in wanted}, is_recorded


def run(path, feeds, level="disable"):
    """Outputs of a file in ONNX Runtime by name."""
    session = common.session(str(path), level)
    names = [o.name for o in session.get_outputs()]
    wanted = {i.name for i in session.get_inputs()}
    return dict(zip(names, session.run(None, {n: v for n, v in feeds.items() if n in wanted})))


def relative(ours, theirs):
    """The largest difference of float outputs, relative to the largest value of each; None without any in common."""
    worst = None
    for name in ours:
        if name in theirs and theirs[name].dtype.kind == "f":
            a, b = ours[name].astype(np.float64), theirs[name].astype(np.float64)
            if a.shape != b.shape:
                return np.inf
            scale = max(np.abs(b).max(initial=0), np.finfo(np.float32).tiny)
            worst = max(worst or 0.0, float(np.abs(a - b).max(initial=0) / scale))
    return worst


def signal_to_noise(found, wanted):
    """Of the worst float output, in dB."""
    worst = np.inf
    for name in found:
        if name in wanted and found[name].shape == wanted[name].shape and wanted[name].dtype.kind == "f":
            signal = wanted[name].astype(np.float64)
            noise = np.square(found[name] - signal).sum()
            worst = min(worst, 10 * np.log10(max(np.square(signal).sum(), 1e-300) / max(noise, 1e-300)))
    return worst


class Trial:
    """One model."""

    def __init__(self, path, title, options, folder):
        self.path, self.title, self.program, self.folder = path, title, options.program, folder
        self.rng = np.random.default_rng(options.seed)
        self.model = onnx.load(path)
        self.row = dict.fromkeys(HEAD, "-") | {"model": title, "nodes": len(self.model.graph.node)}
        opset = next((o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")), "?")
        exporter = f"{self.model.producer_name} {self.model.producer_version}".strip() or "?"
        self.row["exporter"] = f"{exporter}, opset {opset}"
        self.notes, self.good, self.facts = [], True, {}
        self.draws = any(n.op_type == "Dropout" and len(n.input) > 2 for n in self.model.graph.node)

    def note(self, text):
        self.notes.append(f"`{self.title}`: {text}")

    def fail(self, column, text):
        self.row[column], self.good = "**failed**", False
        self.note(f"{column}: {text}")

    def all(self):
        self.feeds, self.is_recorded = feeds_of(self.path, inputs_of(self.model), self.rng)
        np.savez(self.folder / "inputs.npz", **self.feeds)
        try:
            told = tool(self.program, "corpus", self.path, "--trial", self.folder)
        except Failed as e:
            return self.fail("saved", e)
        for line in told.splitlines():
            key, _, value = line.partition("\t")
            self.facts.setdefault(key, []).append(value)
        self.saved()
        if "no network" in self.facts:
            return self.note(f"{self.facts['no network'][0]}: it holds no network")
        for label in self.facts.get("label", []):
            classes = int(self.facts.get("classes", [2])[0])
            first = self.feeds[self.facts["data"][0]]
            self.feeds.setdefault(label, np.arange(len(first)) % classes)
        self.float()
        self.step()
        self.emitted()

    def saved(self):
        # A Dropout in training mode draws; the optimizer of ONNX Runtime takes it out.
        level = "basic" if self.draws else "disable"
        self.reference = None
        try:
            before = run(self.path, self.feeds, level)
        except Exception as e:  # ONNX Runtime has no common base of its errors
            self.row["saved"] = "yes"
            return self.note(f"ONNX Runtime does not run it: {message(e)}")
        after = run(self.folder / "copy.onnx", self.feeds, level)
        same = list(before) == list(after)
        if same and all(np.array_equal(before[n], after[n], equal_nan=True) for n in before):
            self.row["saved"] = "equal"
            self.reference = before
        else:
            self.fail("saved", "the copy has other outputs than the original")

    def float(self):
        if "forward failed" in self.facts:
            return self.fail("float", self.facts["forward failed"][0])
        with np.load(self.folder / "outputs.npz") as archive:
            ours = {name: archive[name] for name in archive.files}
        # What was found in a training step, or beside gradients, is not what the file computes for inference.
        forward = any(f.startswith(("training step", "ONNX Runtime training")) for f in self.facts["form"])
        try:
            theirs = run(self.folder / "forward.onnx", self.feeds) if forward or not self.reference else self.reference
        except Exception as e:
            return self.note(f"ONNX Runtime does not run the forward pass that we found either: {message(e)}")
        worst = relative(ours, theirs)
        if worst is None or not worst <= TOLERANCE:
            return self.fail("float", "no float output" if worst is None else f"{worst:.1e}")
        self.row["float"] = f"{worst:.0e}"

    def step(self):
        if "step failed" in self.facts:
            return self.fail("gradients", self.facts["step failed"][0])
        loss = float(self.facts["loss"][0])
        self.row["loss"] = f"{loss:.4g}"
        if not np.isfinite(loss):
            self.fail("loss", f"it is {loss}: {self.facts['minimized'][0]}")
        self.row["gradients"] = self.facts["gradients"][0]
        theirs = self.path.with_name(self.path.name.removesuffix(".train.onnx") + ".train_ref.npz")
        if theirs.exists():
            with np.load(theirs) as archive:
                count = sum(name.startswith("grad_norm/") for name in archive.files)
            if self.row["gradients"] != f"{count} of {count}":
                self.fail("gradients", f"{self.facts['gradients'][0]}, but PyTorch has {count}")
        for missing in self.facts.get("missing", []):
            self.note(f"no gradient: {missing}")
        if zero := self.facts.get("zero"):
            self.note(f"gradients of zeros only: {len(zero)}, such as \"{zero[0]}\"")

    def emitted(self):
        labels, names = self.facts.get("label", []), self.facts["data"]
        samples = self.samples(names)
        data, int8 = self.folder / "data.npz", self.folder / "int8.onnx"
        count = len(samples[names[0]])
        arrays = {f"x{i}": samples[n] for i, n in enumerate(names)}
        parts = [f"{n}=x{i}" for i, n in enumerate(names)]
        if classes := self.facts.get("classes"):
            label = next((self.feeds[n] for n in labels if n in self.feeds), None)
            drawn = np.arange(count) % int(classes[0])  # as the trial draws them
            arrays["y"] = drawn if label is None else np.resize(label, (count, *label.shape[1:]))
            parts.append("labels=y")
        np.savez(data, **arrays)
        try:
            rate = LEARNING_RATE if self.is_recorded else 0
            options = ["--epochs", 1, "--lr", rate, "--clip-norm", 1, "--batch", min(count, COPIES), "-o", int8]
            tool(self.program, "quantize", self.path, "--train", f"{data}#{','.join(parts)}", *options, "--quiet")
        except Failed as e:
            return self.fail("int8 file", e)
        try:
            outputs = run(int8, self.feeds, "all")
        except Exception as e:
            return self.fail("int8 file", f"ONNX Runtime does not run it: {message(e)}")
        if not all(np.isfinite(v).all() for v in outputs.values() if v.dtype.kind == "f"):
            return self.fail("int8 file", "an output is not finite")
        distance = signal_to_noise(outputs, self.reference or {})
        training = any(f.startswith(("training mode", "ONNX Runtime training")) for f in self.facts["form"])
        if training or not np.isfinite(distance):
            self.row["int8 file"] = "runs"
        else:
            self.row["int8 file"] = f"runs, {distance:.0f} dB" if distance < 200 else "runs, equal"
        x = self.feeds[names[0]]
        if self.is_recorded and not training and len(names) == 1 and x.dtype == np.float32 and x.ndim == 4:
            self.integer(int8, samples[names[0]], data)

    def samples(self, names):
        """The inputs, with noisy copies of the first where they are recorded and float."""
        copies = -(-COPIES // len(self.feeds[names[0]])) if self.is_recorded else 1
        samples = {n: np.concatenate([self.feeds[n]] * copies) for n in names}
        first, count = samples[names[0]], len(self.feeds[names[0]])
        if first.dtype == np.float32:
            noise = NOISE * first.std() * self.rng.standard_normal(first.shape).astype(np.float32)
            first[count:] += noise[count:]
        return samples

    def integer(self, int8, x, data):
        wanted = sum(coverage.float_nodes(self.model)[0].values())
        found = [coverage.onnxruntime_coverage(str(int8)), coverage.openvino_coverage(str(int8), [1, *x.shape[1:]])]
        counts = [sum(f.integer.values()) for f in found]
        self.row["integer"] = " / ".join(map(str, [wanted, *counts]))
        if any(c < wanted for c in counts) or any(f.left for f in found):
            self.good = False
            self.note("left in float: " + ", ".join(f"{n[1]} {n[0]}" for f in found for n in f.left))
        outputs = self.model.graph.output
        if len(outputs) != 1 or len(outputs[0].type.tensor_type.shape.dim) != 2:
            return
        dump, name = self.folder / "dump.npz", outputs[0].name
        try:
            tool(self.program, "evaluate", int8, "--eval", f"{data}#x0,y", "--dump", dump, "--quiet")
        except Failed as e:
            return self.fail("agree", e)
        step = compare.Steps(onnx.load(int8)).of(name)[0]
        options = argparse.Namespace(level="all", saturating=False, batch=16)
        theirs = compare.run(onnx.load(int8), x, [name], options)[name]
        with np.load(dump) as archive:
            ours = archive[name]
        if step is None:
            step = max(float(theirs.max() - theirs.min()), np.finfo(np.float32).tiny) / 255
        agree = 100 * float((compare.distance(ours, theirs, step) <= 1 + compare.ROUNDING).mean())
        top = 100 * float((compare.top1(ours) == compare.top1(theirs)).mean())
        self.row["agree"] = f"{agree:.2f} / {top:.2f} %"
        self.good &= agree >= 99.9 and top >= 99.5


def page(trials):
    """The page with the table and the notes."""
    table = common.markdown([list(t.row.values()) for t in trials], HEAD)
    failed, networks = sum(not t.good for t in trials), sum("no network" not in t.facts for t in trials)
    what = __doc__.split("The columns:\n")[1].split("\nExit code")[0].strip()
    notes = "\n".join(f"- {n}" for t in trials for n in t.notes)
    return (
        "# Corpus\n\nReal models of several exporters, tried by `cargo xtask corpus FOLDER`; not to be edited. "
        f"{len(trials)} files, {networks} of them networks; {failed} failed.\n\n{table}\n\n{what}\n\n## Notes\n\n{notes}\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--program", required=True, help="cargo xtask, built in release mode")
    parser.add_argument("--only", default="", help="models whose path contains this")
    parser.add_argument("--output", type=Path, help="write the page here; print it by default")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    trials = []
    for path in sorted(p for p in options.folder.rglob("*.onnx") if options.only in str(p)):
        with tempfile.TemporaryDirectory() as folder:
            trial = Trial(path, str(path.relative_to(options.folder)), options, Path(folder))
            trial.all()
        trials.append(trial)
        print("\t".join(map(str, trial.row.values())), *trial.notes, sep="\n    ", file=sys.stderr, flush=True)
    if options.output:
        options.output.write_text(page(trials))
    else:
        print(page(trials))
    sys.exit(0 if all(t.good for t in trials) else 1)


if __name__ == "__main__":
    main()
