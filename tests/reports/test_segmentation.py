"""What pages and the terminal say of emergent segmentation: no sentence says more than its numbers."""

import numpy as np
import pytest

from fullrank.cli.tables import print_objects
from fullrank.record import Score
from fullrank.record.scores import (
    ABOVE,
    AREA_SHARE,
    GRADIENT_SHARE,
    JACCARD,
    PERMUTED,
    UNTRAINED,
)
from fullrank.reports.segmentation import object_tables, overlays, segmentation_section


def score(statistic, value, half=None, subject=""):
    return Score(
        place="h",
        label="label",
        split="test",
        features="raw",
        shots=None,
        probe="segmentation",
        statistic=statistic,
        subject=subject,
        value=value,
        low=None if half is None else value - half,
        high=None if half is None else value + half,
    )


def scores(found=0.42, permuted=0.25, before=0.31, half=0.02, share="0.6"):
    return [
        score(JACCARD, found, half, share),
        score(PERMUTED, permuted, half, share),
        score(ABOVE, found - permuted, half, share),
        score(UNTRAINED, before, half, share),
        score(GRADIENT_SHARE, 0.2, half),
        score(AREA_SHARE, 0.125, half),
    ]


@pytest.mark.parametrize(
    ("found", "half", "holds", "lacks"),
    [
        (0.42, 0.02, ("42.0", "25.0", "17.0", "above", "31.0", "+11.0"), ("below", "includes")),
        (0.15, 0.02, ("15.0", "10.0", "below", "−16.0"), ("above", "includes")),
        (0.26, 0.02, ("+1.0", "includes"), ("above", "below")),
        (0.26, None, ("+1.0",), ("above", "below", "includes")),
        (0.31, 0.02, ("unchanged",), ("+0.0",)),
    ],
)
def test_the_sentence_of_the_attention_follows_its_interval(found, half, holds, lacks):
    attention, gradient = object_tables(scores(found, half=half)).sentences
    assert all(word in attention for word in holds) and not any(word in attention for word in lacks)
    assert "20.0 %" in gradient and "12.5 %" in gradient and "before" not in gradient


def test_the_terminal_shows_both_tables_or_the_gradient_alone(capsys):
    print_objects(scores())
    out = capsys.readouterr().out
    assert all(value in out for value in ("42.0 ± 2.0", "17.0", "31.0", "20.0", "12.5"))
    print_objects(scores()[-2:])
    out = capsys.readouterr().out
    assert "20.0" in out and "permuted" not in out
    assert object_tables([]) is None


def test_a_study_has_intervals_over_seeds_and_a_sentence_for_each_row(large_record):
    runs = [run.model_copy(update={"scores": scores(0.4 + 0.01 * run.seed)}) for run in large_record.runs]
    section = segmentation_section(large_record.model_copy(update={"runs": runs}), {})
    heads = dict.fromkeys(run.row for run in runs)
    rows = section["tables"].attention
    assert [row.head for row in rows] == list(heads) and section["over"] == "seeds"
    seeds = [run.seed for run in runs if run.row == rows[0].head]
    assert rows[0].cells[0].mean == pytest.approx(40 + np.mean(seeds))
    assert len(section["tables"].sentences) == 2 * len(heads)
    assert segmentation_section(large_record, {}) is None


def test_overlays_colour_what_attention_and_object_share():
    truth, chosen = np.zeros((2, 1, 96, 96), bool)
    truth[0, :48], chosen[0, :, :48] = True, True
    arrays = {
        "segmentation.images": np.full((1, 96, 96, 1), 200, np.uint8),
        "segmentation.objects": truth,
        "segmentation.attention": chosen,
        "segmentation.overlaps": np.array([1 / 3]),
    }
    (shown,) = overlays(arrays)
    pixels = {name: decoded(address) for name, address in shown["pictures"].items()}
    assert shown["overlap"] == "33.3" and (pixels["image"] == 200).all()
    assert (pixels["object"][:48] == 200).all() and (pixels["object"][48:] == 50).all()
    assert (pixels["attention"][:, :48] == 200).all() and (pixels["attention"][:, 48:] == 50).all()
    corners = {tuple(pixels["overlap"][y, x]) for y in (0, -1) for x in (0, -1)}
    assert len(corners) == 4 and (50, 50, 50) in corners
    assert overlays({}) == [] and overlays(arrays | {"segmentation.objects": truth[:, :2]}) == []


def decoded(address):
    import base64
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))
