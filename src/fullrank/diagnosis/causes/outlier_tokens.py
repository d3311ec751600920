"""A few patch tokens of a vision transformer have far larger norms than the others."""

from dataclasses import dataclass
from typing import final

from fullrank.diagnosis.causes.contract import Cause, Rule, Stage
from fullrank.diagnosis.evidence import Evidence, PlaceEvidence
from fullrank.diagnosis.tokens import OUTLIER, TokenNorms
from fullrank.record import Finding, ProbedAgain


@final
@dataclass(frozen=True)
class OutlierTokens(Cause):
    r"""The median norm of outlier tokens over the median norm of all patch tokens, where outliers are few.

    .. math:: r = \operatorname{median}_{t \in O} \|t\| / \operatorname{median}_t \|t\|,
              \qquad O = \{t : \|t\| > 5 \operatorname{median}_t \|t\|\}

    It is a finding if r exceeds the rule's threshold, and from 0.01 % to 10 % of the tokens are outliers.
    Features that are pooled over patches are averaged over both kinds.

    What it cannot see: tokens of an encoder that hands out no tokens, and class or register tokens.

    >>> import torch
    >>> norms = torch.ones(20, 49)
    >>> norms[:, 7] = 30
    >>> h = PlaceEvidence("blocks.3.mean", torch.randn(20, 4))
    >>> evidence = Evidence((h,), tokens=(TokenNorms.of("blocks.3.mean", norms),))
    >>> [(finding.cause, finding.value) for finding in OutlierTokens().check(h, evidence)]
    [('outlier-tokens', 30.0)]

    Source: after Darcet et al. 2024, section 2.1, where the limit is a fixed norm for one model.
    """

    name = "outlier-tokens"
    stage = Stage.SHAPE
    rule: Rule = Rule(
        level="note",
        measure="median norm of outlier tokens over that of all patch tokens",
        side="above",
        threshold=OUTLIER,
        remedy="Leave these tokens out of averages and dense maps, or train with register tokens.",
    )

    def check(self, place: PlaceEvidence, evidence: Evidence) -> list[Finding]:
        """A finding if a few tokens at `place` stand out."""
        norms = next((each for each in evidence.tokens if each.place == place.place), None)
        if norms is None or not norms.stand_out:
            return []
        probed = evidence.again("without outlier tokens")
        again = next((each for each in probed if each.place == place.place), None)
        return self.judged(self.rule, place, norms.ratio, _sentence(norms, again))


def _sentence(norms: TokenNorms, again: ProbedAgain | None) -> str:
    text = (
        f"{100 * norms.share:.2g} % of the patch tokens have a norm above {OUTLIER:g} times the median; "
        f"half of these are at {norms.ratio:.3g} times it or more. "
        f"{100 * norms.images:.3g} % of the images have such a token ({norms.tokens} tokens an image)."
    )
    if again is None:
        return text
    error = "" if again.error is None else f" (paired standard error {100 * again.error:.1f})"
    return (
        f"{text} Pooled without them, a linear probe reads {100 * again.linear:.1f} % of the labels instead "
        f"of {100 * again.before:.1f} %{error}."
    )
