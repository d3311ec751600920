"""The quick form of benchmarks/many_files.py is the last test."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from fullrank.data import listings as module, source
from fullrank.data.listings import Listings, Names, Piece, cache_folder
from fullrank.data.selection import stratified_order
from fullrank.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    """A cache of its own for each test, which trusts listings as soon as they are made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_STEP_NS", 0)
    monkeypatch.setattr(module, "CACHED_FROM", 1)
    return tmp_path / "cache" / "fullrank" / "listings"


class Looks:
    """What the system is asked: folders that are listed, and files that are opened, below one folder."""

    def __init__(self, root: Path):
        self.root, self.listed, self.opened = str(root), [], []

    def __call__(self, event: str, arguments: tuple) -> None:
        if LOOKS is self and event in ("os.scandir", "os.listdir", "open"):
            path = os.fspath(arguments[0]) if isinstance(arguments[0], str | os.PathLike) else ""
            if path.startswith(self.root):
                (self.opened if event == "open" else self.listed).append(os.path.relpath(path, self.root))


LOOKS: Looks | None = None


@pytest.fixture
def looks(tmp_path: Path):
    global LOOKS
    LOOKS = Looks(tmp_path / "data")
    sys.addaudithook(LOOKS)  # it stays, and looks at nothing once it is another's turn
    yield LOOKS
    LOOKS = None


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files that look like images by their names: nothing opens them here."""
    root = tmp_path / "data"
    for name in ("cat/1.png", "cat/2.JPG", "cat/deep/3.png", "dog/4.png", "b.png", "e.png", "cat/z.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def walked(root: Path) -> list[str]:
    listings = Listings(root)
    found = list(Names(listings.walk()))
    listings.save()
    return found


def looked(root: Path, looks: "Looks") -> tuple[list[str], list[str]]:
    """The names of a walk, and the folders that it listed; it opens no file."""
    looks.listed.clear(), looks.opened.clear()
    names = walked(root)
    assert not looks.opened
    return names, sorted(looks.listed)


def by_paths(root: Path) -> list[str]:
    """The files in the order of their paths, part by part: an oracle."""
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return [path.as_posix() for path in sorted(files, key=lambda path: path.parts)]


def test_a_walk_gives_the_files_in_the_order_of_their_paths(tree):
    assert walked(tree) == by_paths(tree)
    for name in ("cat/deep/.x.png", ".hidden/x.png", "cat/notes.txt"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).touch()
    assert walked(tree) == [n for n in by_paths(tree) if "/." not in f"/{n}" and "txt" not in n]


def test_a_second_walk_lists_nothing(tree, looks):
    first, listed = looked(tree, looks)
    assert listed == [".", "cat", "cat/deep", "dog"]
    assert looked(tree, looks) == (first, [])


@pytest.mark.parametrize(
    ("change", "listed"),
    [
        (lambda root: (root / "cat/deep/9.png").touch(), ["cat/deep"]),
        (lambda root: (root / "cat/1.png").unlink(), ["cat"]),
        (lambda root: (root / "dog/4.png").rename(root / "dog/5.png"), ["dog"]),
        (lambda root: (root / "b.png").rename(root / "dog/b.png"), [".", "dog"]),
        (lambda root: shutil.rmtree(root / "cat/deep"), ["cat"]),
        (lambda root: (root / "cat").rename(root / "eel"), [".", "eel", "eel/deep"]),
        (lambda root: shutil.copytree(root / "cat", root / "ant"), [".", "ant", "ant/deep"]),
        (lambda root: os.utime(root / "dog", (1, 1)), ["dog"]),
    ],
)
def test_what_changed_is_listed_anew_and_nothing_else(tree, looks, change, listed):
    walked(tree)
    change(tree)
    assert looked(tree, looks) == (by_paths(tree), listed)
    assert looked(tree, looks) == (by_paths(tree), [])


def test_a_listing_as_young_as_its_folder_is_not_trusted(tree, looks, monkeypatch):
    monkeypatch.setattr(module, "_STEP_NS", 3600 * 10**9)
    walked(tree)
    assert len(looked(tree, looks)[1]) == 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b"1.png", b"7.png"),
        lambda content: content.replace(b"listings 1", b"listings 0"),
        lambda content: b"\xff" * len(content),
    ],
)
def test_a_damaged_cache_is_made_again_without_a_word(tree, cache, looks, capfd, spoil):
    walked(tree)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    path.write_bytes(spoil(whole))
    names, listed = looked(tree, looks)
    assert names == by_paths(tree) and len(listed) == 4
    assert looked(tree, looks) == (names, []) and path.read_bytes() != spoil(whole)
    assert capfd.readouterr() == ("", "")


def test_a_cache_that_cannot_be_written_is_done_without(tree, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert walked(tree) == by_paths(tree) == walked(tree)


def test_each_root_has_its_own_cache_and_the_data_is_left_alone(tree, cache):
    before = by_paths(tree)
    walked(tree), walked(tree / "cat")
    assert len(list(cache.iterdir())) == 2 and by_paths(tree) == before
    assert not any("data" in path.name or "cat" in path.name for path in cache.iterdir())


def test_a_folder_that_is_gone_leaves_the_cache(tree, cache):
    walked(tree)
    shutil.rmtree(tree / "cat")
    walked(tree)
    assert b"deep" not in next(cache.iterdir()).read_bytes()


def test_small_folders_are_not_cached(tree, cache, monkeypatch):
    monkeypatch.setattr(module, "CACHED_FROM", 8)
    walked(tree)
    assert not cache.exists()
    (tree / "8.png").touch()
    walked(tree)
    assert cache.exists()


@pytest.mark.parametrize("given", ["", "relative/path"])
def test_the_cache_is_in_the_home_without_an_absolute_path(given, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/fullrank/listings"


def test_names_that_are_no_utf8_and_have_new_lines(tree, looks):
    for name in (b"\xff.png", b"a\nb.png", "é 𝒳.png".encode()):
        Path(os.fsdecode(bytes(tree / "dog") + b"/" + name)).touch()
    first = walked(tree)
    assert first == by_paths(tree) and "dog/\udcff.png" in first
    assert looked(tree, looks) == (first, [])


def test_a_folder_that_cannot_be_listed_is_named(tree):
    with pytest.raises(DataError, match=r"gone cannot be listed \(.*; check its permissions"):
        Listings(tree).walk("gone")


def test_names_in_bytes_are_names():
    pieces = [Piece("", "a.png/b.png"), Piece("x/y", "c.png"), Piece("", "d.png")]
    names = Names(pieces)
    whole = ["a.png", "b.png", "x/y/c.png", "d.png"]
    assert list(names) == whole and names[1:3] == whole[1:3] and names[-1] == "d.png"
    assert list(names.at(np.array([3, 0])).at(np.array([1]))) == ["a.png"] and len(names) == 4
    with pytest.raises(IndexError):
        names[4]
    assert list(Names([])) == []


def test_the_drawn_order_is_that_of_counting_label_by_label():
    labels = np.random.default_rng(0).integers(-1, 9, 500)
    shuffled = np.random.default_rng(np.random.SeedSequence([3])).permutation(500)
    seen, standing = {}, []
    for row in shuffled:
        seen[labels[row]] = seen.get(labels[row], -1) + 1
        standing.append((seen[labels[row]] + 0.5) / (labels == labels[row]).sum())
    assert stratified_order(labels, 3).tolist() == shuffled[np.argsort(standing, kind="stable")].tolist()


def test_two_thousand_images_are_listed_once_and_none_is_opened(tmp_path, looks, cache, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_STEP_NS", 0)
    for number in range(20):
        (tmp_path / f"data/train/c{number:02}").mkdir(parents=True)
        (tmp_path / f"data/val/c{number:02}").mkdir(parents=True)
        for row in range(100):
            (tmp_path / f"data/{'val' if row % 10 == 0 else 'train'}/c{number:02}/{row}.jpeg").touch()
    for spec in (f"folder:{tmp_path}/data,canvas=8", f"imagenet:{tmp_path}/data"):
        first = source(spec).load("train"), source(spec).load("test")
        looks.listed.clear(), looks.opened.clear()
        again = source(spec).load("train"), source(spec).load("test")
        assert not looks.opened and set(looks.listed) <= {"train", "val"}
        for old, new in zip(first, again, strict=True):
            assert list(old.images.keys) == list(new.images.keys) and len(new) in (1800, 200)
            assert np.array_equal(old.labels["label"], new.labels["label"])
            assert old.class_names == new.class_names and old.checksum() == new.checksum()
    assert len(list(cache.iterdir())) == 1
