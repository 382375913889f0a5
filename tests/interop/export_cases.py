"""Exports the operator tests of the onnx package: a folder per case with model.onnx and test_data_set_N/*.pb.

Usage: python export_cases.py FOLDER

`cargo xtask conformance` calls it. The file FOLDER/complete is written last.
"""

import pathlib
import sys
import warnings

warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import onnx  # noqa: E402
from onnx import numpy_helper  # noqa: E402
from onnx.backend.test.case.node import collect_testcases  # noqa: E402


def encoded(value, value_info):
    """The message of a value, by the kind of type that the model declares."""
    kind = value_info.type.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.from_list(value, value_info.name)
    if kind == "optional_type":
        return numpy_helper.from_optional(value, value_info.name)
    if isinstance(value, onnx.TensorProto):
        return value
    tensor = numpy_helper.from_array(np.asarray(value), value_info.name)
    return tensor


def export(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for case in collect_testcases(None):
        place = folder / case.name
        place.mkdir(exist_ok=True)
        (place / "model.onnx").write_bytes(case.model.SerializeToString(deterministic=True))
        for number, (inputs, outputs) in enumerate(case.data_sets):
            data = place / f"test_data_set_{number}"
            data.mkdir(exist_ok=True)
            graph = case.model.graph
            for what, values, infos in (("input", inputs, graph.input), ("output", outputs, graph.output)):
                for i, (value, info) in enumerate(zip(values, infos)):
                    message = encoded(value, info)
                    (data / f"{what}_{i}.pb").write_bytes(message.SerializeToString(deterministic=True))
    (folder / "complete").write_text(onnx.__version__ + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    export(pathlib.Path(sys.argv[1]))
