"""Rows that are zero, equal or leaked: which they are, in features, files and images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from fullrank import source
from fullrank.data.streaming import StreamedImages
from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes, open_embeddings, rows
from fullrank.diagnosis.causes import DuplicateRows, Leakage, ZeroRows
from fullrank.diagnosis.rows import survey_features, survey_file, survey_images


def first_equal(features):
    """The first equal row of each, by Python's own equality, in which -0.0 equals 0.0."""
    seen = {}
    return [seen.setdefault(tuple(row), number) for number, row in enumerate(features.tolist())]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    width=st.integers(1, 5),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_equal_rows_are_those_whose_numbers_are_equal(seed, width, dtype):
    values = torch.tensor([-0.0, 0.0, 1.0, -1.0, 1 + 2**-7], dtype=dtype)
    x = values[torch.randint(5, (30, width), generator=torch.Generator().manual_seed(seed))]
    survey, first = survey_features(x), first_equal(x)
    assert survey.first.tolist() == first
    assert survey.zero.tolist() == [i for i, row in enumerate(x.tolist()) if not any(row)]
    equal = [i for i, row in enumerate(x.tolist()) if any(row) and first.count(first[i]) > 1]
    assert survey.in_equal_groups.tolist() == equal
    assert survey.repeated.tolist() == [i for i in equal if first[i] != i]
    others = x[x.any(1)]
    assert survey.smallest == (float(others.min()) if len(others) else None)


@pytest.mark.parametrize("width", [1, 2, 3, 200])
def test_rows_that_differ_in_one_bit_are_not_equal(width):
    bits = np.ones((32 * width, width), np.float32).view(np.uint32)
    for number in range(len(bits)):
        bits[number, number // 32] ^= np.uint32(1 << number % 32)
    kept = bits[np.isfinite(bits.view(np.float32)).all(1)]
    assert len(survey_features(torch.from_numpy(kept.view(np.float32))).repeated) == 0


def test_rows_in_any_order_and_unit_give_the_same_groups():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    survey = survey_features(1e-3 * x[order])
    assert len(survey.repeated) == 40 and survey.equal_share == 1
    assert (order[survey.repeated] % 40 == order[survey.same_as(survey.repeated)] % 40).all()


def test_a_file_is_surveyed_over_its_chunks_by_the_numbers_of_its_rows(tmp_path):
    x = np.random.default_rng(0).normal(size=(70_000, 2)).astype(np.float32)
    x[[3, 69_999]] = 0
    x[5], x[68_000] = np.nan, x[1]
    np.save(tmp_path / "x.npy", x)
    survey = survey_file(open_embeddings(tmp_path / "x.npy", skip_bad=True))
    assert (survey.count, survey.zero.tolist()) == (69_999, [3, 69_999])
    assert survey.repeated.tolist() == [68_000] and survey.same_as(survey.repeated).tolist() == [1]
    assert survey.first[5] == 5 and len(survey.tested) == 0
    assert survey.smallest == np.nanmin(x)


def test_a_split_counts_its_parts_apart_and_names_the_training_row():
    x = torch.randn(8, 3)
    x[6], x[5], x[2], x[1] = x[4], x[3], x[0], 0
    x[7] = 0
    survey = survey_features(x).of_split([4, 3, 1], [7, 5, 6, 0, 2])
    assert survey.leaked.tolist() == [5, 6] and survey.leaked_share == 2 / 5
    assert survey.learnt_same_as(survey.leaked).tolist() == [3, 4]
    assert survey.repeated.tolist() == [2] and survey.in_equal_groups.tolist() == [0, 2]
    assert survey_features(x).in_equal_groups.tolist() == [0, 2, 3, 4, 5, 6]


def images_in(folder, pixels, split):
    (folder / split / "a").mkdir(parents=True)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / split / "a" / f"{number}.png")


def decoded(images):
    """The same images, decoded on demand."""
    read = StreamedImages(lambda i: Image.fromarray(images.images[i, ..., 0]), list(images.ids), 9, 9, 1)
    return replace(images, images=read)


def test_images_are_equal_by_their_pixels_in_memory_and_in_files(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 9), np.uint8)
    pixels[0], pixels[11], pixels[3] = 0, 0, pixels[2]
    images_in(tmp_path, pixels[:8], "train")
    images_in(tmp_path, np.concatenate([pixels[8:], pixels[1:2]]), "test")
    train, test = (source(f"folder:{tmp_path}").load(split, 9) for split in ("train", "test"))
    survey = survey_images(train, test)
    assert survey.of == "images" and survey.count == 13 and len(survey.zero) == 0
    assert survey.repeated.tolist() == [3]
    # The black image, and the image that was added.
    assert survey.leaked.tolist() == [11, 12] and survey.learnt_same_as(survey.leaked).tolist() == [0, 1]
    assert survey_images(train, test, official=False).repeated.tolist() == [3, 11, 12]
    train, test = decoded(train), decoded(test)
    assert survey_images(train, test).leaked.tolist() == [11, 12]
    monkeypatch.setattr(rows, "MOST_DECODED", 8)
    few = survey_images(train, test)
    assert (few.count, len(few.learnt), len(few.tested), len(few.first)) == (8, 4, 4, 13)
    in_memory = survey_images(None, source("digits").load("test"))
    assert in_memory.count == 500 and in_memory.equal_share == 0


def found(features, cause, **known):
    evidence = Evidence((PlaceEvidence("h", features),), **known)
    return [(one.cause, one.level, round(one.value, 3)) for one in find_causes(evidence, [cause])]


def test_causes_of_rows_at_three_strengths_and_two_healthy_controls():
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    for share in (0.02, 0.3, 0.9):
        count = int(200 * share)
        zero, twins, leaked = x.clone(), x.clone(), x.clone()
        zero[:count] = 0
        assert found(zero, ZeroRows()) == [("zero-rows", "note", share)]
        twins[:count] = x[0]
        assert found(twins, DuplicateRows()) == [("duplicate-rows", "note", share)]
        leaked[100 : 100 + count // 2] = x[: count // 2]
        survey = survey_features(leaked).of_split(range(100), range(100, 200))
        assert found(leaked, Leakage(), survey=survey) == [("leakage", "note", share)]
        assert found(leaked, DuplicateRows(), survey=survey) == []
    cone = 1000 + 1e-3 * x  # every cosine is 1
    near = x.repeat(2, 1) * (1 + 1e-6 * torch.arange(400)[:, None])
    for healthy in (cone, near):
        survey = survey_features(healthy).of_split(range(100), range(100, 200))
        for cause in (ZeroRows(), DuplicateRows(), Leakage()):
            assert found(healthy, cause, survey=survey) == []


def test_rows_that_are_equal_at_an_earlier_place_are_named_there():
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    x[1] = x[0]
    x[3] = x[2]
    later = x @ torch.randn(6, 6)
    later[1], later[3], later[5], later[7] = later[0], later[2], later[4], later[6]
    evidence = Evidence((PlaceEvidence("h", x), PlaceEvidence("z", later)))
    findings = find_causes(evidence, [DuplicateRows()])
    named = [(one.place, one.rows, one.same_as) for one in findings]
    assert named == [("h", [1, 3], [0, 2]), ("z", [5, 7], [4, 6])]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_features_that_are_all_equal_are_a_collapse_and_not_duplicates(value):
    evidence = Evidence((PlaceEvidence("h", torch.full((50, 4), value)),))
    assert [finding.cause for finding in find_causes(evidence)] == ["complete-collapse"]


def test_the_other_causes_see_no_zero_rows():
    x = 5 + torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    with_zeros = torch.cat([torch.zeros(450, 8), x])
    alone, both = (find_causes(Evidence((PlaceEvidence("h", each),))) for each in (x, with_zeros))
    assert [finding.cause for finding in alone] == ["mean-dominance"]
    assert both[0].cause == "zero-rows" and both[0].rows == list(range(450)) and both[0].value == 0.6
    assert both[1:] == alone
