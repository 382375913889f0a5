"""Latency of a float and an int8 model in ONNX Runtime, one thread, batch 1, on random input.

    python speed.py FLOAT.onnx INT8.onnx [--seconds 5] [--shape 1,3,48,192]

The two run alternately, so that a change of the processor's clock meets both; the ratio is that of the medians.
"""

import argparse
import time

import numpy as np
import onnx

import common


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float")
    parser.add_argument("int8")
    parser.add_argument("--seconds", type=float, default=5.0, help="for both together")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--shape", help="of the input, when the model leaves more than the batch open")
    parser.add_argument("--exact", action="store_true", help="session.x64quantprecision for the int8 model (slower without VNNI)")
    options = parser.parse_args()

    value = common.model_input(onnx.load(options.float))
    shape = common.input_shape(value, options.shape)
    if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise SystemExit(f"input {value.name} is not float32")
    if options.batch != 1:
        shape[0] = options.batch
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    sessions = [common.session(options.float), common.session(options.int8, exact=options.exact)]
    feeds = [{s.get_inputs()[0].name: x} for s in sessions]

    def once(k):
        start = time.perf_counter()
        sessions[k].run(None, feeds[k])
        return time.perf_counter() - start

    for k in (0, 1):  # first runs allocate and pack
        for _ in range(3):
            once(k)
    times = ([], [])
    end = time.perf_counter() + options.seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for k in (0, 1):
            times[k].append(once(k) * 1e3)
    rows = [
        [name, f"{np.median(t):.3f}", f"{min(t):.3f}", f"{np.percentile(t, 90):.3f}"]
        for name, t in zip(("float", "int8"), times)
    ]
    print(f"input {shape}, {len(times[0])} runs each, ms")
    common.print_table(rows, ["model", "median", "min", "90 %"])
    print(f"int8 / float latency {np.median(times[1]) / np.median(times[0]):.3f}, speed-up {np.median(times[0]) / np.median(times[1]):.2f}")


if __name__ == "__main__":
    main()
