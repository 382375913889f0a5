"""ONNX Runtime's own static quantization, for comparison: QDQ, u8 activations, s8 weights per channel.

    python ptq.py FLOAT.onnx DATA.npz OUT.onnx [--method entropy] [--samples 64] [--mean ...] [--std ...] [--layout nhwc]

Calibrates on the first --samples rows of x_train, or on as many drawn at random with --seed.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import version_converter
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import common


class Reader(CalibrationDataReader):
    """Feeds one sample at a time."""

    def __init__(self, name, x, options):
        self.feeds = ({name: common.to_input(x[i : i + 1], options)} for i in range(len(x)))

    def get_next(self):
        return next(self.feeds, None)


def prepared(model):
    """Opset 13 at least (per-channel QDQ needs it) and no initializers among the inputs."""
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset < 13:
        model = version_converter.convert_version(model, 13)
    value = common.model_input(model)
    name = value.name
    value = onnx.ValueInfoProto.FromString(value.SerializeToString())
    del model.graph.input[:]
    model.graph.input.append(value)
    return model, name


METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


def quantize(source, x, destination, options, reduce_range=False, method="minmax"):
    model, name = prepared(onnx.load(source))
    with tempfile.TemporaryDirectory() as folder:
        plain, clean = str(Path(folder) / "plain.onnx"), str(Path(folder) / "clean.onnx")
        onnx.save(model, plain)
        quant_pre_process(plain, clean, skip_symbolic_shape=True)
        quantize_static(
            clean,
            destination,
            Reader(name, x, options),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=reduce_range,
            calibrate_method=METHODS[method],
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float")
    parser.add_argument("data")
    parser.add_argument("out")
    common.add_input_options(parser)
    parser.add_argument("--method", default="minmax", choices=METHODS, help="how ranges are calibrated")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seed", type=int, help="draw the samples instead of taking the first")
    parser.add_argument("--reduce-range", action="store_true", help="7-bit weights, for processors without VNNI")
    options = parser.parse_args()
    x, _ = common.load_split(options.data, "train")
    if options.seed is not None:
        x = x[np.random.default_rng(options.seed).permutation(len(x))]
    x = x[: options.samples]
    quantize(options.float, x, options.out, options, options.reduce_range, options.method)
    sizes = [Path(p).stat().st_size for p in (options.float, options.out)]
    print(f"{options.out}: calibrated on {len(x)} samples, {sizes[0]} -> {sizes[1]} bytes")


if __name__ == "__main__":
    main()
