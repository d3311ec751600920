"""A choice of run and place without labels: the candidates, the shortlist and the rule, in a record."""

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CandidateRow(_Part):
    """One candidate: features of all images at a place of a run, or a file of embeddings.

    `values` has each criterion that was measured, by its name, in its own unit. `parts` has the parts of the
    score, by their names; each is a mean rank among the candidates from 0 (worst) to 1 (best), and `score` is
    their weighted mean. `vetoes` says why a candidate is left out; it then has no parts and no score.
    `low` to `high` have 95 % of the scores in bootstrap samples of the images. `first` and `listed` are the
    shares of these samples in which its score is the highest, and among as many of the highest as are listed.
    All four are None where no samples were drawn. `tied` says that its score cannot be told from the highest
    one, although it is not the only one. `trained_on` names criteria that its own objective trains at this
    place, which are void there.
    """

    run: str
    place: str
    width: int
    vetoes: list[str] = []
    values: dict[str, float] = {}
    parts: dict[str, float] = {}
    score: float | None = None
    low: float | None = None
    high: float | None = None
    first: float | None = None
    listed: float | None = None
    tied: bool = False
    trained_on: list[str] = []

    @property
    def name(self) -> str:
        """Run and place in one word or two; a file of embeddings is only its name."""
        return self.run if self.place == "embedding" else f"{self.run} {self.place}"


class Shortlisted(_Part):
    """A candidate of the shortlist. `score`, its `parts` and `low` to `high`, 95 % of bootstrap samples.

    `tied` is that of its candidate. The order of tied candidates follows `reason`.
    """

    run: str
    place: str
    score: float
    parts: dict[str, float]
    low: float
    high: float
    tied: bool = False
    reason: str = ""


class RuleRegret(_Part):
    """What the rule lost on cases that it was not made on, in points of accuracy.

    `first` and `shortlist` are the median regrets of the first candidate and of the best of the shortlist
    over `cases`, with 95 % intervals. `mean` and `worst` are their means and their largest values, `within`
    the shares of cases within half a point of the best. `source` says which cases.
    """

    cases: int
    first: float
    first_low: float
    first_high: float
    shortlist: float
    shortlist_low: float
    shortlist_high: float
    mean_first: float
    mean_shortlist: float
    worst_first: float
    worst_shortlist: float
    within_first: float
    within_shortlist: float
    source: str


class LabelsChoice(_Part):
    """What a probe on `labels` labelled images would choose instead.

    `accuracies` are those that it saw, 0 to 1, in the order of the candidates; None for a vetoed one.
    `standard_error` is that of the best one. `tied` names further candidates within it.
    """

    labels: int
    run: str
    place: str
    accuracies: list[float | None]
    standard_error: float
    tied: list[str] = []


class ChoiceEntry(_Part):
    """A choice among candidates without labels.

    `rule` is the name of the frozen rule and `regret` what it lost elsewhere; None if the rule has no
    evidence for such candidates. `views` is the spec of the chain of views that all candidates saw; None for
    files.
    `images` and `viewed` count the images, and those of them that had views. `notes` are sentences on what to
    mind. `theory` has, by run, the share of variance for which the theory predicts h to be better than z.
    """

    rule: str
    candidates: list[CandidateRow]
    shortlist: list[Shortlisted]
    regret: RuleRegret | None = None
    images: int
    viewed: int = 0
    views: str | None = None
    seed: int = 0
    samples: int = 0
    labels: LabelsChoice | None = None
    theory: dict[str, float] = {}
    notes: list[str] = []

    @property
    def headline(self) -> str:
        """The first candidate of the shortlist, or that there is none."""
        if not self.shortlist:
            return "No candidate is left: every one has a veto."
        first, *others = self.shortlist
        named = "; then ".join(place_of_run(each.run, each.place) for each in others)
        return f"Keep {place_of_run(first.run, first.place)}{f'; then {named}' if others else ''}."


def place_of_run(run: str, place: str) -> str:
    """A candidate in a sentence; a file of embeddings has no places.

    >>> place_of_run("digits-mlp", "h"), place_of_run("dino.npy", "embedding")
    ('h of digits-mlp', 'dino.npy')
    """
    return run if place == "embedding" else f"{place} of {run}"
