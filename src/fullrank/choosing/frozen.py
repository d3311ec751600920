"""The frozen rule of a choice, and what it lost on cases that it was not made on."""

import math
from functools import cache
from importlib.resources import files

import yaml
from pydantic import BaseModel, ConfigDict

from fullrank.choosing.candidates import Pool
from fullrank.record import RuleRegret

_RULE = files(__package__).joinpath("rule.yaml")
_EVIDENCE = files(__package__).joinpath("evidence.yaml")


class RuleSettings(BaseModel):
    """The frozen settings of the rule, from `rule.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    weights: dict[str, float]
    clusters: float
    few: float
    penalty: float
    rows: int
    samples: int
    heads: list[str]

    def clusters_of(self, images: int) -> int:
        """The number of k-means clusters for so many images."""
        return max(5, int(self.clusters * math.sqrt(images)))


@cache
def settings() -> RuleSettings:
    """The frozen rule."""
    return RuleSettings.model_validate(yaml.safe_load(_RULE.read_text()))


def known_regret(pool: Pool) -> RuleRegret | None:
    """What the rule lost on cases like this pool that it was not made on, or None if there are none.

    Evidence is there for several runs with views, and for the places of one run.
    """
    if pool.views is None:
        return None
    kind = "runs" if len({each.run for each in pool.candidates}) > 1 else "places"
    regrets = yaml.safe_load(_EVIDENCE.read_text())
    return RuleRegret.model_validate(regrets[kind]) if kind in regrets else None
