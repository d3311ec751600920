"""A choice without labels in sentences, the same on a terminal and on the page. Torch-free."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fullrank.errors import count_of, few_of
from fullrank.record.choice import CandidateRow, ChoiceEntry, LabelsChoice, place_of_run
from fullrank.record.comparisons import grouped
from fullrank.record.criteria import CRITERIA_TEXTS
from fullrank.reports.numbers import decimals, in_points

# What each part of a score says of a candidate.
PARTS = {
    "structure": "how well a small probe on the features predicts clusters of other candidates' features",
    "dimension": "along how many directions the features vary near each other",
    "dimension in its run": "the same, compared with the other places of its run alone",
}
# So many runs of one place are named.
_MOST_RUNS = 2
_SEPARATORS = "-_./ ,="


@dataclass(frozen=True)
class LeftOut:
    """Candidates that are left out for the same reasons."""

    names: tuple[str, ...]
    reasons: tuple[str, ...]


def summary(entry: ChoiceEntry) -> str:
    """How many candidates there are, of what, and on which images."""
    runs = len({each.run for each in entry.candidates})
    files = is_of_files(entry)
    of_runs = "" if files else f" from {count_of(runs, 'run')}"
    noun = "row" if files else "image"
    views = f", {entry.viewed:,} of them with views ({entry.views})" if entry.views else ""
    candidates = count_of(len(entry.candidates), "file" if files else "candidate")
    return f"{candidates}{of_runs} on {entry.images:,} {noun}{'s' * (entry.images != 1)}{views}."


def is_of_files(entry: ChoiceEntry) -> bool:
    """Whether every candidate is a file of embeddings, which has no places."""
    return all(each.place == "embedding" for each in entry.candidates)


def in_order(entry: ChoiceEntry) -> list[CandidateRow]:
    """The candidates: the shortlist in its order, then by falling score, then those that are left out."""
    listed = {(each.run, each.place): place for place, each in enumerate(entry.shortlist)}

    def position(row: CandidateRow) -> tuple[bool, int, float]:
        score = row.score or 0.0
        return row.score is None, listed.get((row.run, row.place), len(listed)), -score

    return sorted(entry.candidates, key=position)


def status(entry: ChoiceEntry, row: CandidateRow) -> str:
    """Where a candidate stands on the shortlist, or that it is left out; "" for the others.

    >>> row = CandidateRow(run="a", place="h", width=8, vetoes=["Nothing varies."])
    >>> status(ChoiceEntry(rule="first", candidates=[row], shortlist=[], images=9), row)
    'left out'
    """
    names = [(each.run, each.place) for each in entry.shortlist]
    if (row.run, row.place) in names:
        return str(names.index((row.run, row.place)) + 1)
    return "left out" if row.vetoes else ""


def part_names(entry: ChoiceEntry) -> list[str]:
    """The parts that scores have, in the order of the record."""
    return list(dict.fromkeys(name for each in entry.candidates for name in each.parts))


def criterion_names(entry: ChoiceEntry) -> list[str]:
    """The criteria that were measured, in the order of the record."""
    return list(dict.fromkeys(name for each in entry.candidates for name in each.values))


def title_of(criterion: str) -> str:
    """What a criterion is called; one that is unknown has its own name."""
    return CRITERIA_TEXTS[criterion].title if criterion in CRITERIA_TEXTS else criterion.replace("_", " ")


def interval(low: float | None, high: float | None) -> str:
    """The ends of an interval of scores; an en dash without one.

    >>> interval(0.8512, 0.95), interval(None, None)
    ('0.85 to 0.95', '–')
    """
    return "–" if low is None or high is None else f"{decimals(low, 2)} to {decimals(high, 2)}"


def per_cent(share: float | None) -> str:
    """A share of 0 to 1 in per cent, without decimals; it is 0 or 100 only if it is so exactly.

    >>> per_cent(0.0), per_cent(0.001), per_cent(0.63), per_cent(0.998), per_cent(None)
    ('0 %', '<1 %', '63 %', '>99 %', '–')
    """
    if share is None:
        return "–"
    rounded = f"{100 * share:.0f} %"
    if rounded == "0 %" and share > 0:
        return "<1 %"
    return ">99 %" if rounded == "100 %" and share < 1 else rounded


def tie_sentences(entry: ChoiceEntry) -> list[str]:
    """Which candidates cannot be told from the highest score, and what orders them; empty for one alone."""
    kept = [each for each in entry.candidates if each.score is not None]
    if len(kept) < 2 or not entry.samples:
        return []
    tied = [each for each in in_order(entry) if each.tied]
    if not tied:
        return [
            "The first is ahead of all others by more than one standard error over samples of the images."
        ]
    named = few_of([place_of_run(each.run, each.place) for each in tied])
    sentences = [
        f"{count_of(len(tied), 'candidate')} cannot be told apart over samples of the images: {named}."
    ]
    reasons = dict.fromkeys(
        each.reason.strip().rstrip(".") for each in entry.shortlist if each.reason.strip()
    )
    sentences += [f"Why this order: {reason}." for reason in reasons]
    best = max(kept, key=lambda each: each.score or 0.0)
    if (best.run, best.place) not in {(each.run, each.place) for each in entry.shortlist}:
        highest = f"{decimals(best.score, 2)}, is that of {place_of_run(best.run, best.place)}"
        sentences.append(
            f"The highest score, {highest}. It is not listed: tied candidates follow this order, and the "
            "list has candidates that differ in place and recipe."
        )
    return sentences


def score_sentences(entry: ChoiceEntry) -> list[str]:
    """What a score is made of, and what its interval covers."""
    names, kept = part_names(entry), [each for each in entry.candidates if each.score is not None]
    if not kept:
        return []
    of = f"the {len(kept)} candidates that are kept" if len(kept) > 1 else "one candidate"
    mean = "a weighted mean of ranks" if len(names) > 1 else "a rank"
    made = f"The score (rule {entry.rule}) is {mean} among {of}: 0 is the worst, 1 the best."
    parts = [f"{name.capitalize()}: {PARTS[name]}." for name in names if name in PARTS]
    sentences = [made, *parts]
    if entry.samples:
        sentences.append(
            f"Intervals (95 %) and shares come from {entry.samples:,} bootstrap samples of the images: in so "
            "many of them the score of a candidate is the highest, or among as many of the highest as are "
            "listed. They leave out what another seed of the training would change."
        )
    return sentences


def left_out(entry: ChoiceEntry) -> list[LeftOut]:
    """The candidates with a veto, those with the same reasons together."""
    vetoed = [each for each in entry.candidates if each.vetoes]
    groups = grouped((tuple(each.vetoes), place_of_run(each.run, each.place)) for each in vetoed)
    return [LeftOut(tuple(names), reasons) for reasons, names in groups.items()]


def left_out_sentence(entry: ChoiceEntry) -> str:
    """How many candidates have a veto; "" for none."""
    vetoed, every = sum(bool(each.vetoes) for each in entry.candidates), len(entry.candidates)
    return f"Left out: {vetoed} of {count_of(every, 'candidate')}." if vetoed else ""


def trained_sentences(entry: ChoiceEntry) -> list[str]:
    """Which criteria say nothing of which candidates, because their own objective trains them there."""
    measured = {name for each in entry.candidates for name in each.values}
    trained = [
        (tuple(name for name in each.trained_on if name in measured), each) for each in entry.candidates
    ]
    groups = grouped(pair for pair in trained if pair[0])
    return [
        f"The objective trains {_all_of([title_of(each) for each in criteria])} at {_by_place(rows)}; "
        f"{'this criterion says' if len(criteria) == 1 else 'these criteria say'} nothing there."
        for criteria, rows in groups.items()
    ]


def _by_place(rows: Sequence[CandidateRow]) -> str:
    """Candidates by their places; the runs of a place are counted where they are many."""
    named = []
    for place, here in grouped((each.place, each) for each in rows).items():
        many = len(here) > _MOST_RUNS and place != "embedding"
        counted = [f"{place} of {count_of(len(here), 'run')}"]
        named += counted if many else [place_of_run(each.run, each.place) for each in here]
    return few_of(named)


def regret_sentences(entry: ChoiceEntry) -> list[str]:
    """How many points of accuracy the rule lost elsewhere, or that this is not known."""
    regret = entry.regret
    if regret is None:
        of = "files of embeddings" if is_of_files(entry) else "such candidates"
        return [f"How much accuracy this rule loses is not known: it was not measured on {of}."]
    first = _with_ends(regret.first, regret.first_low, regret.first_high)
    best = _with_ends(regret.shortlist, regret.shortlist_low, regret.shortlist_high)
    return [
        f"On {count_of(regret.cases, 'case')} that the rule was not made on, the first choice lost a median "
        f"of {first} points of accuracy, and the best of the shortlist {best}.",
        f"The first choice was within half a point of the best in {per_cent(regret.within_first)} of the "
        f"cases, the best of the shortlist in {per_cent(regret.within_shortlist)}.",
        f"The means are {in_points(regret.mean_first)} and {in_points(regret.mean_shortlist)} points, the "
        f"worst cases {in_points(regret.worst_first)} and {in_points(regret.worst_shortlist)}.",
        f"These cases: {regret.source.rstrip('.')}.",
    ]


def labels_sentences(entry: ChoiceEntry) -> list[str]:
    """What a few labels would choose, and whether that is the first choice; empty where none were used."""
    labels = entry.labels
    if labels is None:
        return []
    best = accuracy_of(entry, labels.run, labels.place)
    error = f"standard error {in_points(100 * labels.standard_error)}"
    with_labels = f"A probe on {count_of(labels.labels, 'labelled image')}"
    chosen = f"{place_of_run(labels.run, labels.place)} (accuracy {_accuracy(best)} points, {error})"
    sentences = [f"{with_labels} would choose {chosen}."]
    if labels.tied:
        names = {each.name: place_of_run(each.run, each.place) for each in entry.candidates}
        tied = few_of([names.get(each, each) for each in labels.tied])
        sentences.append(f"Within one standard error of it: {tied}.")
    if entry.shortlist:
        sentences.append(_agreement(entry, labels))
    return sentences


def _agreement(entry: ChoiceEntry, labels: LabelsChoice) -> str:
    first = entry.shortlist[0]
    if (first.run, first.place) == (labels.run, labels.place):
        return "The choice without labels is the same."
    name = place_of_run(first.run, first.place)
    seen = f"{name}, the choice without labels, has {_accuracy(accuracy_of(entry, first.run, first.place))}"
    row = next(
        (each for each in entry.candidates if (each.run, each.place) == (first.run, first.place)), None
    )
    if row is not None and row.name in labels.tied:
        return f"{seen} points there: so many labels cannot tell the two apart."
    listed = (labels.run, labels.place) in [(each.run, each.place) for each in entry.shortlist]
    return f"{seen} points there{'; what the labels choose is on the shortlist' if listed else ''}."


def accuracy_of(entry: ChoiceEntry, run: str, place: str) -> float | None:
    """The accuracy, 0 to 1, that the labels saw at a candidate; None for a vetoed one and without labels."""
    if entry.labels is None:
        return None
    pairs = zip(entry.candidates, entry.labels.accuracies, strict=True)
    return next((each for row, each in pairs if (row.run, row.place) == (run, place)), None)


def theory_sentences(entry: ChoiceEntry) -> list[str]:
    """For which share of the variance the theory predicts h to be better than z, over the runs."""
    shares = entry.theory
    if not shares:
        return []
    if len(shares) == 1:
        ((run, share),) = shares.items()
        what = f"for {per_cent(share)} of the variance of {run}"
    else:
        least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
        above = sum(share > 0.5 for share in shares.values())
        what = (
            f"for {per_cent(shares[least])} ({least}) to {per_cent(shares[most])} ({most}) of the variance, "
            f"and for more than half of it in {above} of {len(shares)} runs"
        )
    return [
        f"The theory of reweighted features predicts h to be better than z {what}.",
        "On digits these shares were wrong about the place in most runs, so the rule does not use them.",
    ]


def short_names(names: Sequence[str], longest: int) -> dict[str, str]:
    """Each name in at most `longest` characters, all different; of what all begin with, the end is cut first.

    What is still too long loses its middle. Names that would then be equal are cut elsewhere, and in the end
    numbered.

    >>> list(short_names(["a", "bc"], 4).values())
    ['a', 'bc']
    >>> list(short_names(["digits-mlp-48-s0", "digits-none-s1"], 13).values())
    ['dig…mlp-48-s0', 'dig…none-s1']
    >>> list(short_names(["resnet-50-imagenet", "vit-small-imagenet"], 9).values())
    ['resn…enet', 'vit-…enet']
    """
    every = list(dict.fromkeys(names))
    if all(len(name) <= longest for name in every):
        return {name: name for name in every}
    shared = _shared_start(every) if len(every) > 1 else 0
    room = max(longest - 1 - max(len(name) - shared for name in every), 0)
    starts = [f"{name[:room]}…{name[shared:]}" if room < shared else name for name in every]
    for head in sorted(range(longest), key=lambda size: abs(size - longest // 2)):
        cut = [_without_middle(name, head, longest) for name in starts]
        if len({*cut}) == len(cut):
            return dict(zip(every, cut, strict=True))
    return {
        name: f"{start[: longest - 1 - len(str(number))]}…{number}"
        for number, (name, start) in enumerate(zip(every, starts, strict=True), 1)
    }


def _shared_start(names: Sequence[str]) -> int:
    """How many characters all names begin with, up to and with the last separator among them."""
    first, last = min(names), max(names)  # in alphabetical order: all others begin with what these share
    unlike = (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    shared = first[: next(unlike, min(len(first), len(last)))]
    ends = [place + 1 for place, sign in enumerate(shared) if sign in _SEPARATORS]
    return ends[-1] if ends and ends[-1] > 1 else 0


def _without_middle(name: str, head: int, longest: int) -> str:
    if len(name) <= longest:
        return name
    tail = longest - 1 - head
    return f"{name[:head]}…{name[len(name) - tail :] if tail else ''}"


def _all_of(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _accuracy(share: float | None) -> str:
    return in_points(None if share is None else 100 * share)


def _with_ends(value: float, low: float, high: float) -> str:
    return f"{in_points(value)} [{in_points(low)}, {in_points(high)}]"
