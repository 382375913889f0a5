"""Can TensorBoard read the curves that `quantize --tensorboard FOLDER` writes?

Reads every event file of the folder with TensorBoard's own reader, which checks the sums of every record, and prints each
curve with its first and last point. Fails when there is none, when steps do not ascend, or when a value is not finite.
"""

import argparse
import math
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    folder = parser.parse_args().folder
    events = EventAccumulator(folder, size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    problems = [] if tags else [f"{folder} has no curves"]
    for tag in tags:
        points = events.Scalars(tag)
        steps = [p.step for p in points]
        if any(b <= a for a, b in zip(steps, steps[1:])):
            problems.append(f"{tag}: steps do not ascend")
        if not all(math.isfinite(p.value) for p in points):
            problems.append(f"{tag}: a value is not finite")
        first, last = points[0], points[-1]
        print(f"{tag}: {len(points)} points, {first.value:.6g} at step {first.step}, {last.value:.6g} at step {last.step}")
    for problem in problems:
        print(f"events.py: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
