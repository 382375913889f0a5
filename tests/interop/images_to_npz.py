"""Turn image lists (`relative/path label` per line) into an .npz for `onnx-qat quantize`, `ptq.py` and `score.py`.

    python images_to_npz.py ROOT OUT.npz --size 224 [--ratio 0.875] [--order RGB]
    python images_to_npz.py ROOT OUT.npz --size 48 192 --order BGR --f32 --mean 127.5 --std 127.5

Lists: ROOT/train_list.txt -> x_train, y_train and ROOT/val_list.txt -> x_test, y_test; an absent one is left out.
Geometry: with --ratio r the short side is brought to round(size / r) and the centre is cut out, else a plain resize;
bilinear, in 8 bits, so that u8 loses nothing. u8 NHWC (the default, a quarter of the size) holds the pictures before
normalization, in the channel order of the model; with --f32 they are stored ready for the model: (x - mean) / std, NCHW.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import common


def load(path, options):
    """One picture, u8 [H,W,C]."""
    image = Image.open(path).convert("L" if options.order == "L" else "RGB")
    height, width = options.size if len(options.size) == 2 else options.size * 2
    if options.ratio:
        short = round(height / options.ratio)
        factor = short / min(image.size)
        if factor != 1:
            size = tuple(max(short, round(side * factor)) for side in image.size)
            image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (image.size[0] - width) // 2, (image.size[1] - height) // 2
        image = image.crop((left, top, left + width, top + height))
    elif image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return pixels[:, :, ::-1] if options.order == "BGR" else pixels


def read_list(root, name, options):
    """(pictures, labels) of one list."""
    rows = [line.rsplit(" ", 1) for line in (root / name).read_text().splitlines() if line]
    images = np.stack([load(root / path, options) for path, _ in rows])
    return (common.to_input(images, options) if options.f32 else images), np.array([int(label) for _, label in rows], np.int64)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, nargs="+", required=True, help="one number, or height and width")
    parser.add_argument("--ratio", type=float, help="size / short side before the centre crop")
    parser.add_argument("--order", choices=["RGB", "BGR", "L"], default="RGB")
    parser.add_argument("--train-list", default="train_list.txt")
    parser.add_argument("--test-list", default="val_list.txt")
    parser.add_argument("--f32", action="store_true")
    parser.add_argument("--mean", type=float, nargs="+", default=[0.0])
    parser.add_argument("--std", type=float, nargs="+", default=[1.0])
    options = parser.parse_args()
    options.layout = "nhwc"

    arrays = {}
    for split, name in (("train", options.train_list), ("test", options.test_list)):
        if (options.root / name).exists():
            arrays[f"x_{split}"], arrays[f"y_{split}"] = read_list(options.root, name, options)
    if not arrays:
        parser.error(f"neither {options.train_list} nor {options.test_list} in {options.root}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.out, **arrays)
    shapes = ", ".join(f"{k} {v.dtype} {list(v.shape)}" for k, v in arrays.items())
    print(f"{options.out}: {shapes}, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
