import os
from pathlib import Path

import pytest
from refusals import refuses

from fullrank.data.image_files import endings, image_tree, list_folders, list_photographs
from fullrank.errors import DataError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files that look like images by their names: nothing opens them here."""
    root = tmp_path / "data"
    for name in ("cat/1.png", "cat/2.JPG", "cat/deep/3.png", "dog/4.png", "b.png", "e.png", "cat/z.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def by_paths(root: Path) -> list[str]:
    """The files in the order of their paths, part by part: an oracle."""
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return [path.as_posix() for path in sorted(files, key=lambda path: path.parts)]


def test_image_tree_gives_the_files_in_the_order_of_their_paths(tree):
    (tree / "cat-0").mkdir()  # "-" stands before "/": as plain text it would come before cat/1.png
    (tree / "cat-0/5.png").touch()
    assert image_tree(tree) == (by_paths(tree), [])


def test_hidden_files_and_other_files_are_left_out(tree):
    images = by_paths(tree)
    for name in ("cat/deep/.x.png", ".hidden/x.png", "cat/notes.txt", "x.png/notes.txt"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).touch()
    (tree / "Thumbs.db").touch()
    assert image_tree(tree) == (images, ["cat/notes.txt", "x.png/notes.txt"])
    assert list_photographs(tree / "cat") == ["1.png", "2.JPG", "z.png"]
    assert list_photographs(tree) == ["b.png", "e.png"] and list_folders(tree) == ["cat", "dog", "x.png"]
    assert list_photographs(tree / "gone") == [] == list_folders(tree / "gone")


def test_names_that_are_no_utf8_and_have_new_lines(tree):
    for name in (b"\xff.png", b"a\nb.png", "é 𝒳.png".encode()):
        Path(os.fsdecode(bytes(tree / "dog") + b"/" + name)).touch()
    images, _ = image_tree(tree)
    assert images == by_paths(tree) and "dog/\udcff.png" in images


def test_a_folder_that_cannot_be_listed_is_named(tree):
    with refuses(DataError, tree / "gone", "permissions"):
        image_tree(tree / "gone")


def test_endings_are_those_that_pillow_decodes():
    assert {".jfif", ".jpe", ".avif", ".png", ".tiff", ".ppm"} <= set(endings())
    assert set(endings()).isdisjoint({".eps", ".h5", ".mpg", ".npy", ".txt"})
