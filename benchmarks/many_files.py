"""A folder of 200,000 tiny images: how long it takes to know what is in it, twice, and the memory that takes.

    uv run python benchmarks/many_files.py
    uv run python benchmarks/many_files.py --images 5000      (seconds)

The files are 1 x 1 PNGs in 1000 classes, a tenth of them to test; they are made in a temporary folder, with a
cache folder of their own. Each loading is a process of its own, timed from when fullrank is imported to when
both splits are there, with labels, and no image decoded; memory is the highest resident set above that after
the imports. The second process finds the cache that the first one wrote; the third finds one folder changed.
The exit status is 1 above 10 s, 1 s or 300 MB, or where the processes do not see the same images.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# A process that loads a folder and says what that took.
LOADING = """
import json, resource, sys, time
from fullrank.data import ImageFolder
import PIL.Image, fullrank.data.sets.folder
highest = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = highest(), time.perf_counter()
folder = ImageFolder(sys.argv[1], canvas=8)
sets = [folder.load(split) for split in ("train", "test")]
seconds = time.perf_counter() - start
print(json.dumps([seconds, highest() - before, [len(s) for s in sets], [s.checksum() for s in sets]]))
"""
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080000000"
    "03a7e9b550000000a49444154789c636000000002000148afa4710000"
    "000049454e44ae426082"
)


def write_images(root: Path, count: int, classes: int) -> None:
    """`count` files in `classes` folders of train and of val, a tenth of them in val."""
    for number in range(classes):
        for split in ("train", "val"):
            (root / split / f"class{number:04}").mkdir(parents=True)
    for row in range(count):
        split = "val" if row // classes % 10 == 0 else "train"
        (root / split / f"class{row % classes:04}" / f"image_{row:08}.png").write_bytes(PNG)


def loaded(root: Path, cache: Path) -> tuple[float, float, list[int], list[int]]:
    """Seconds, MB above start, images in both splits and their checksums, in a process of its own."""
    command = [sys.executable, "-c", LOADING, str(root)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds, memory, counts, checksums = json.loads(done.stdout)
    return seconds, memory, counts, checksums


def main() -> int:
    """Make the folder, load it three times, print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=1000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root, cache = Path(temporary) / "images", Path(temporary) / "cache"
        write_images(root, given.images, given.classes)
        time.sleep(3)  # what changed in the last two seconds is not taken from a cache
        first, second = loaded(root, cache), loaded(root, cache)
        (root / "train" / "class0000" / "new.png").write_bytes(PNG)
        third = loaded(root, cache)
    print("| loading | images | seconds | MB above start |\n|---|---:|---:|---:|")
    for name, (seconds, memory, counts, _) in (("first", first), ("second", second), ("changed", third)):
        print(f"| {name} | {sum(counts):,} | {seconds:.2f} | {memory:.0f} |")
    same = first[2:] == second[2:] and sum(third[2]) == sum(first[2]) + 1 == given.images + 1
    fast = first[0] < 10 and max(second[0], third[0]) < 1 and max(first[1], second[1], third[1]) < 300
    return 0 if same and fast else 1


if __name__ == "__main__":
    sys.exit(main())
