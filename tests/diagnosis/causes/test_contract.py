"""Rules as data, the page that shows them, what findings carry, and what the catalogue loads."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from refusals import refuses

from fullrank.diagnosis import Evidence, PlaceEvidence, find_causes
from fullrank.diagnosis.causes import CAUSES, Augmentation, Cause, DeadChannels
from fullrank.diagnosis.shape import LOW_RANK
from fullrank.errors import UsageError

PAGE = Path(__file__).parents[3] / "docs" / "causes.md"
REGISTERED = [CAUSES.build(entry.name) for entry in CAUSES]
RULES = [
    pytest.param(cause, rule, id=f"{cause.name}-{rule.threshold:g}-{rule.level}")
    for cause in REGISTERED
    for rule in cause.rules
]


def test_the_catalogue_is_in_the_order_of_the_stages():
    order = [cause.name for cause in REGISTERED]
    assert order == [
        "zero-rows",
        "duplicate-rows",
        "leakage",
        "view-gap",
        "outlier-tokens",
        "batch-statistics",
        "complete-collapse",
        "dead-channels",
        "mean-dominance",
        "class-collapse",
        "dimensional-collapse",
        "uneven-scale",
        "dominant-direction",
        "too-few-samples",
        "augmentation",
        "implicit-regularisation",
        "unexplained-low-rank",
    ]


@pytest.mark.parametrize(("cause", "rule"), RULES)
def test_the_page_shows_level_measure_threshold_and_remedy(cause, rule):
    side = ">" if rule.side == "above" else "<"
    cells = f"| {rule.level} | {rule.measure} | {side} {rule.threshold:g} | {rule.remedy} |"
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{cause.name}`")]
    assert any(row.endswith(cells) for row in rows)


def test_the_page_shows_no_rule_that_is_none():
    rows = re.findall(r"^\| `[a-z-]+`.*\| (?:alarm|note) \|", PAGE.read_text(), flags=re.MULTILINE)
    assert len(rows) == len(RULES)


def test_the_page_shows_the_limits_behind_a_low_rank():
    text = PAGE.read_text()
    for name in ("gap", "single_gap", "lost_share"):
        assert f"`{name}` = {getattr(LOW_RANK, name):g}" in text
    assert f"`kept_ratio` = {Augmentation().kept_ratio:g}" in text


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), -1.0])
def test_impossible_thresholds_are_refused(threshold):
    rule = DeadChannels().plain
    with refuses(UsageError, "channels", 0, threshold):
        dataclasses.replace(rule, threshold=threshold)


def test_a_finding_carries_the_summary_of_the_catalogue_as_its_title():
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    x[:, 0] = 1
    (found,) = find_causes(Evidence((PlaceEvidence("z", x),)))
    assert (found.cause, found.title, found.rows) == ("dead-channels", CAUSES["dead-channels"].summary, [])
    assert found.title


def test_a_cause_without_a_check_cannot_be_made():
    with pytest.raises(TypeError, match="check"):
        type("Idle", (Cause,), {"name": "idle"})()


def test_catalogue_and_contract_load_without_torch():
    code = "import sys, fullrank.diagnosis.causes.contract; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
