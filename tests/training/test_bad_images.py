"""A run over bad images: passed over as long as they are few, and listed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import assert_names, refuses
from safetensors.torch import load_file

from fullrank import Recipe, load, train
from fullrank.errors import DataError, UsageError

QUICK = {"encoder": "tiny-resnet,width=4", "batch_size": 8, "epochs": 2, "image_size": 8, "head": "none"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Streamed images of two classes; three of those to train on are broken."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name in ("a", "b"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for row in range(count):
                pixels = rng.integers(0, 256, (10, 10, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{row:02}.png")
    for name in ("a/03.png", "a/04.png", "b/00.png"):
        (tmp_path / "data/train" / name).write_bytes(b"\x89PNG no image")
    return tmp_path / "data"


def quick(folder: Path, out: Path, **more) -> dict:
    return {"out": out, "data": f"folder:{folder},canvas=12", **QUICK, **more}


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "encoder.safetensors")


def test_a_run_passes_over_some_and_lists_them(folder, tmp_path, capsys):
    run = train("small-images", **quick(folder, tmp_path / "run", max_bad=3))
    lines = (tmp_path / "run/bad_images.txt").read_text().splitlines()
    listed, reasons = zip(*(line.split("\t") for line in lines), strict=True)
    assert listed == ("train/a/03.png", "train/a/04.png", "train/b/00.png") and all(reasons)
    said = capsys.readouterr().err
    assert_names(said, 3, "bad_images.txt")
    assert said.count("bad_images.txt") == 1
    assert run.record.runs[0].steps == 2 * 3 and run.recipe.max_bad == 3
    # The same run over a folder where the stand-ins lie in the places of the bad ones.
    for name, stand_in in (("a/03", "a/05"), ("a/04", "a/05"), ("b/00", "b/01")):
        (folder / "train" / f"{name}.png").write_bytes((folder / "train" / f"{stand_in}.png").read_bytes())
    train("small-images", **quick(folder, tmp_path / "mended"))
    again = weights(tmp_path / "mended")
    assert all(torch.equal(value, again[name]) for name, value in weights(tmp_path / "run").items())
    assert not (tmp_path / "mended/bad_images.txt").exists()


def test_one_too_many_ends_the_run_and_a_larger_bound_resumes_it(folder, tmp_path):
    with refuses(DataError, 1, "--max-bad"):
        train("small-images", **quick(folder, tmp_path / "run", max_bad=1))
    with refuses(DataError, "--max-bad") as error:
        train("small-images", **quick(folder, tmp_path / "none"))
    assert any(f"train/{name}.png" in str(error.value) for name in ("a/03", "a/04", "b/00"))
    train("small-images", **quick(folder, tmp_path / "run", max_bad=9, resume=True))
    assert load(tmp_path / "run").recipe.max_bad == 9
    assert len((tmp_path / "run/bad_images.txt").read_text().splitlines()) == 3


def test_images_in_memory_are_left_out(folder, tmp_path):
    run = train("small-images", **quick(folder, tmp_path / "run", max_bad=3, data=f"folder:{folder}"))
    assert len((tmp_path / "run/bad_images.txt").read_text().splitlines()) == 3
    assert run.record.runs[0].steps == 2 * 2  # 21 images are two batches of 8


def test_a_bound_below_zero_is_refused():
    with refuses(UsageError, "max_bad", -1):
        Recipe.resolve("digits", {"max_bad": -1})
