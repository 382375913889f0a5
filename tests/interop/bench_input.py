"""PyTorch's side of `cargo xtask bench-input`, which starts it.

    python bench_input.py --make FOLDER                 draw 512 JPEG files of about 500x375 in 8 classes
    python bench_input.py FOLDER --workers 2 --batch 64

DataLoader over ImageFolder: decode (Pillow), RandomResizedCrop(224), RandomHorizontalFlip, ToTensor, Normalize. Prints `ready`
and versions after one epoch; on `run`, goes through all images once and prints their number and the seconds it took. Workers
stay alive between epochs.
"""

import argparse
import sys
import time
from pathlib import Path

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make(folder):
    """Smooth colours with an edge and grain: files of 60 to 100 kB, as those of ImageNet."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    part = folder.with_name(folder.name + ".part")
    for i in range(512):
        width, height = [(500, 375), (375, 500), (500, 333), (480, 360)][i % 4]
        coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
        pixels = smooth + rng.normal(0, 12, (height, width, 1)).astype(np.int16)
        path = part / str(i % 8) / f"{i:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90)
    part.rename(folder)


def serve(options):
    import PIL
    import torch
    import torchvision
    from torchvision import transforms

    torch.set_num_threads(1)
    steps = transforms.Compose([
        transforms.RandomResizedCrop(224),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ])
    images = torchvision.datasets.ImageFolder(options.folder, steps)
    loader = torch.utils.data.DataLoader(
        images, batch_size=options.batch, shuffle=True, num_workers=options.workers, persistent_workers=True
    )

    def epoch():
        start = time.perf_counter()
        count = sum(len(labels) for _, labels in loader)
        return count, time.perf_counter() - start

    epoch()
    print(f"ready torch {torch.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}", flush=True)
    for line in sys.stdin:
        if line.strip() != "run":
            break
        print(*epoch(), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--make", action="store_true", help="draw the pictures")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    make(options.folder) if options.make else serve(options)


if __name__ == "__main__":
    main()
