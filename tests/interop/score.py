"""Top-1 and top-5 of a classifier on an .npz, in ONNX Runtime, single-threaded.

    python score.py MODEL.onnx DATA.npz [--split test] [--mean ...] [--std ...] [--layout nhwc] [--saturating]
"""

import argparse
import json

import numpy as np

import common


def score(model, x, y, options, exact=True):
    """{"top1", "top5", "n", "predictions"}; ties go to the lower class, as in argmax."""
    sess = common.session(model, exact=exact)
    name = sess.get_inputs()[0].name
    output = options.output or sess.get_outputs()[0].name
    size = common.batch_limit(sess) or options.batch
    ranked = []
    for i in range(0, len(y), size):
        logits = sess.run([output], {name: common.to_input(x[i : i + size], options)})[0]
        logits = logits.reshape(len(logits), -1)
        ranked.append(np.argsort(-logits, axis=1, kind="stable")[:, :5])
    hits = np.concatenate(ranked) == np.asarray(y).reshape(-1, 1)
    return {
        "top1": float(hits[:, 0].mean()),
        "top5": float(hits.any(1).mean()),
        "n": len(y),
        "predictions": np.concatenate(ranked)[:, 0],
    }


def add_options(parser):
    common.add_input_options(parser)
    parser.add_argument("--split", default="test", choices=["train", "test"])
    parser.add_argument("--output", help="name of the logits; default the first output")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--limit", type=int)
    parser.add_argument(
        "--saturating",
        action="store_true",
        help="ONNX Runtime's default integer kernels, which on x86-64 without VNNI can saturate (see common.session)",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    add_options(parser)
    options = parser.parse_args()
    x, y = common.load_split(options.data, options.split, options.limit)
    result = score(options.model, x, y, options, exact=not options.saturating)
    print(json.dumps({k: round(v, 4) for k, v in result.items() if k != "predictions"}))


if __name__ == "__main__":
    main()
