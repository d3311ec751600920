import re
from pathlib import Path

import pytest

from fullrank.data import class_list
from fullrank.errors import DataError, UsageError


def test_imagenet_100_is_a_hundred_of_imagenets_classes():
    from timm.data import ImageNetInfo

    names = class_list("imagenet-100")
    assert len(names) == len(set(names)) == 100 and all(re.fullmatch(r"n\d{8}", name) for name in names)
    info = ImageNetInfo()
    assert set(names) <= set(info.label_names())
    # the first and the last line of the published file: bonnet and English foxhound's neighbour, redbone
    assert (names[0], names[-1]) == ("n02869837", "n02090622")
    assert "bonnet" in info.label_name_to_description(names[0])


def test_a_file_gives_its_lines_and_of_a_wordnet_number_that_alone(tmp_path: Path):
    path = tmp_path / "mine.txt"
    path.write_text("# ours\nn01440764 tench, Tinca tinca\n\n  n01443537\tgoldfish\ngolden retriever \n")
    assert class_list(str(path)) == ("n01440764", "n01443537", "golden retriever")


def test_names_are_joined_by_plus(tmp_path: Path, monkeypatch):
    assert class_list("cat+Ankle boot + dog") == ("cat", "Ankle boot", "dog")
    monkeypatch.chdir(tmp_path)
    Path("cat+dog").write_text("horse\n")
    assert class_list("cat+dog") == ("horse",)  # a file of this name is a file


@pytest.mark.parametrize("text", ["imagenet100", "classes.txt", "cat", ""])
def test_what_is_no_list_names_the_three_forms(text, fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with fails(UsageError, repr(text), "imagenet-100", "path of a text file", "'+'"):
        class_list(text)


def test_wrong_lists_are_refused(tmp_path: Path, fails):
    with fails(UsageError, "'cat+dog+cat'", "'cat' twice"):
        class_list("cat+dog+cat")
    with fails(UsageError, "'cat+'", "empty"):
        class_list("cat+")
    path = tmp_path / "mine.txt"
    for content, words in (
        (b"a\nb\n a \n", ["'a' twice"]),
        (b"\n# nothing\n", ["no class name"]),
        (b"\xff\xfe\x00", ["cannot be read as text"]),
    ):
        path.write_bytes(content)
        with fails(DataError, str(path), *words):
            class_list(str(path))
