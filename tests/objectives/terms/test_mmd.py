"""The term mmd: what it averages, and which labels it refuses before any training."""

import numpy as np
import pytest
import torch
from refusals import assert_names, refuses

from fullrank.errors import FullrankWarning, UsageError
from fullrank.mmd import within_class_mmd
from fullrank.objectives import auxiliary
from fullrank.objectives.terms.contract import TrainingLabels
from fullrank.step import Step


def term_of(label):
    return auxiliary(f"mmd:2,label={label}", in_dim=3, out_dim=3)


def labels_of(batch_size=40, **labels):
    """100 images of two classes, `label`, with further labels."""
    numbers = {"label": np.arange(100) % 2} | {name: np.asarray(each) for name, each in labels.items()}
    names = {name: tuple(f"{name}{n}" for n in range(each.max() + 1)) for name, each in numbers.items()}
    return TrainingLabels("pictures (train)", "label", numbers, names, batch_size)


def rare(*counts):
    """A cue of value 1 in the first `counts[c]` images of class c, and 0 in the others."""
    cue = np.zeros(100, np.int64)
    for label, count in enumerate(counts):
        cue[np.flatnonzero(np.arange(100) % 2 == label)[:count]] = 1
    return cue


BALANCED = rare(25, 25)


def test_it_is_the_mean_over_views_and_cues_and_never_pairs_the_views_of_an_image():
    torch.manual_seed(0)
    z, labels = torch.randn(24, 3), torch.arange(12) % 2
    cues = {"background": torch.arange(12) // 2 % 2, "object": torch.arange(12) // 3 % 2}
    single = {
        name: torch.stack([within_class_mmd(half, labels, cue) for half in z.chunk(2)]).mean()
        for name, cue in cues.items()
    }
    step = Step(z, z, labels=labels, cues=cues)
    torch.testing.assert_close(term_of("object")(step), single["object"])
    torch.testing.assert_close(term_of("background+object")(step), torch.stack([*single.values()]).mean())


def test_a_step_without_the_cue_or_the_labels_is_refused():
    step = Step(torch.ones(4, 3), torch.ones(4, 3), labels=torch.zeros(2, dtype=torch.int64))
    for each in (step, Step(step.h, step.z, cues={"background": step.labels})):
        with refuses(UsageError, "background", "labels"):
            term_of("background")(each)


@pytest.mark.parametrize("label", ["background+background", "+object"])
def test_names_twice_or_empty_are_refused(label):
    with refuses(UsageError, label):
        term_of(label)


@pytest.mark.parametrize(
    ("cue", "values", "words"),
    [
        ("label", None, ("label", "background")),
        ("group", 2 * BALANCED + np.arange(100) % 2, ("group", "label", "background")),
        ("place", np.zeros(100, np.int64), ("place", 2, 1, "background")),
        ("place", np.where(np.arange(100) % 2, -1, BALANCED), ("place", "label", "background")),
        ("place", np.full(100, -1), ("place", 2, 0, "background")),
    ],
    ids=["the class itself", "contains the class", "one value", "known in one class", "no value"],
)
def test_a_label_that_cannot_be_compared_within_classes_is_refused_with_one_that_can(cue, values, words):
    more = {} if values is None else {cue: values}
    with refuses(UsageError, *words):
        term_of(cue).check_labels(labels_of(background=BALANCED, **more))


def test_a_single_class_is_refused():
    train = labels_of(background=BALANCED)
    train.numbers["label"][:] = 1
    with refuses(UsageError, "label", 2, 1):
        term_of("background").check_labels(train)


def test_without_any_label_to_compare_none_is_named():
    with refuses(UsageError, "label", "mmd") as raised:
        term_of("label").check_labels(labels_of(place=np.arange(100) % 2))
    assert "place" not in str(raised.value)


def test_groups_too_rare_for_a_batch_are_refused_with_the_batch_that_would_do():
    """3 of 100 images: 1.2 in a batch of 40, and 2 in a batch of 67."""
    with refuses(UsageError, 40, 1.2, 3, 100, 67, "background", "background1", "label1"):
        term_of("background").check_labels(labels_of(40, background=rare(1, 3)))
    with pytest.warns(FullrankWarning):
        term_of("background").check_labels(labels_of(67, background=rare(1, 3)))


def test_where_no_batch_would_do_none_is_named():
    with refuses(UsageError, 40, 0.4, "background") as raised:
        term_of("background").check_labels(labels_of(40, background=rare(1, 1)))
    assert "200" not in str(raised.value)


def test_a_warning_names_the_classes_that_cannot_be_compared(recwarn):
    term_of("background").check_labels(labels_of(40, background=BALANCED))
    assert not recwarn
    with pytest.warns(FullrankWarning) as warned:
        term_of("background").check_labels(labels_of(40, background=rare(25, 3)))
    assert_names(str(warned[0].message), "background", 1, 2, 40, "label1")


def test_every_cue_of_several_is_checked():
    with refuses(UsageError, "place", 2, 1):
        term_of("background+place").check_labels(
            labels_of(background=BALANCED, place=np.zeros(100, np.int64))
        )
