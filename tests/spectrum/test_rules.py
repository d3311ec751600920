"""The rules as data: complete, torch-free, and the same in docs/causes.md."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from fullrank.errors import UsageError
from fullrank.spectrum.rules import RULES

PAGE = Path(__file__).parents[2] / "docs" / "causes.md"


def test_every_cause_has_a_rule_and_each_a_remedy_of_one_sentence():
    causes = {rule.cause for rule in RULES}
    assert causes == {
        "augmentation",
        "implicit-regularisation",
        "dead-channels",
        "mean-dominance",
        "too-few-samples",
        "complete-collapse",
        "unexplained-low-rank",
    }
    for rule in RULES:
        assert rule.remedy.endswith(".") and ". " not in rule.remedy


@pytest.mark.parametrize("rule", list(RULES), ids=lambda rule: f"{rule.cause}-{rule.threshold}")
def test_a_rule_fires_on_its_side_of_the_threshold_alone(rule):
    beyond = 1 if rule.side == "above" else -1
    assert rule.fires(rule.threshold * (1 + 1e-6 * beyond))
    assert not rule.fires(rule.threshold) and not rule.fires(rule.threshold * (1 - 1e-6 * beyond))


@pytest.mark.parametrize("rule", list(RULES), ids=lambda rule: f"{rule.cause}-{rule.threshold}")
def test_the_page_shows_threshold_and_remedy(rule):
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{rule.cause}`")]
    side = ">" if rule.side == "above" else "<"
    assert any(f"{side} {rule.threshold:g} |" in row and rule.remedy in row for row in rows)


def test_the_page_shows_the_limits_behind_a_low_rank():
    text = PAGE.read_text()
    for name in ("gap", "single_gap", "lost_share", "kept_ratio"):
        assert f"`{name}` = {getattr(RULES, name):g}" in text


def test_impossible_rules_are_refused():
    with pytest.raises(UsageError, match="finite number of 0 or more, but got nan"):
        dataclasses.replace(RULES.augmentation, threshold=float("nan"))
    with pytest.raises(UsageError, match=r"gap must be a number of 1 or more, but got 0\.5"):
        dataclasses.replace(RULES, gap=0.5)
    with pytest.raises(UsageError, match="lost_share must lie between 0 and 1, but got 1"):
        dataclasses.replace(RULES, lost_share=1)


def test_rules_load_without_torch():
    code = "import sys, fullrank.spectrum.rules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
