"""Citations: facts of the bibliography, that every part says its papers, and what a result cites."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from refusals import refuses

import fullrank
from fullrank import cite
from fullrank.bibliography import bibliography, key_of
from fullrank.cli.catalogue import FAMILIES
from fullrank.errors import DataError
from fullrank.heads import HEADS
from fullrank.record import CandidateRow, ChoiceEntry, DiagnosisEntry, Finding, Measure, Result
from fullrank.record.criteria import CRITERIA_TEXTS
from fullrank.record.scores import PROBE_CITATIONS, PROBES, STATISTICS
from fullrank.runs.recipe import OWN_OPTIMIZERS
from fullrank.spectrum import MEASURE_CITATIONS
from fullrank.theory.run import run_theorem

ROOT = Path(__file__).parents[2]
ENTRIES = [
    pytest.param(entry, id=f"{room}-{entry.name}") for room, parts in FAMILIES.items() for entry in parts
]
ARXIV = re.compile(r"\b\d{4}\.\d{5}\b")


def keys(text):
    return re.findall(r"^@\w+\{(.+),$", text, re.MULTILINE)


def without(text):
    return set(keys(text)) - {"fullrank"}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_part_whose_source_is_a_paper_cites_it(entry):
    papers = {"P1": "2110.09348", "P2": "2403.11391"}
    named = {number for name, number in papers.items() if re.search(rf"\b{name}\b", entry.source)}
    named |= set(ARXIV.findall(entry.source))
    own = [*entry.citations, *(key for _, key in entry.families)]
    cited = "".join(bibliography()[key] for key in own)
    assert named <= set(ARXIV.findall(cited))


def test_each_entry_of_the_bibliography_is_whole_and_cited_by_something():
    for key, entry in bibliography().items():
        assert key_of(entry) == key and entry.count("{") == entry.count("}")
        (year,) = re.findall(r"\byear = \{(\d{4})\}", entry)
        assert key.endswith(tuple("timm")) or re.fullmatch(rf"[a-z]+{year}[a-z]*", key), key
        assert "author = {" in entry and "title = {" in entry
    cited = {key for parts in FAMILIES.values() for entry in parts for key in entry.citations}
    cited |= {key for parts in FAMILIES.values() for entry in parts for _, key in entry.families}
    options = [option for parts in FAMILIES.values() for entry in parts for option in entry.options]
    cited |= {key for option in options for key in option.citations}
    cited |= {key for option in options for _, key in option.word_citations}
    cited |= {key for one in STATISTICS for key in one.citations}
    cited |= {key for one in CRITERIA_TEXTS.values() for key in one.citations}
    shared = MEASURE_CITATIONS.keys() & CRITERIA_TEXTS.keys()
    assert all(MEASURE_CITATIONS[name] == CRITERIA_TEXTS[name].citations for name in shared)
    for source in (PROBE_CITATIONS, MEASURE_CITATIONS, OWN_OPTIMIZERS):
        cited |= {key for papers in source.values() for key in papers}
    assert cited == set(bibliography()) and set(PROBE_CITATIONS) == set(PROBES)


def test_without_a_result_the_tool_and_its_two_papers_are_cited():
    assert keys(cite()) == ["fullrank", "jing2022understanding", "xue2024investigating"]
    assert f"version {fullrank.__version__}" in cite()


def test_a_choice_cites_its_criteria_and_the_theory_if_it_was_asked(quick_run):
    row = CandidateRow(run="a", place="h", width=8, values={"two_nn": 3.0, "of a later version": 1.0})
    choice = ChoiceEntry(rule="r", candidates=[row], shortlist=[], images=100)
    update = {"kind": "choice", "recipe": {}, "runs": [], "choice": choice}
    record = quick_run.record.model_copy(update=update)
    assert without(cite(Result(quick_run.path, record))) == {"facco2017estimating"}
    asked = record.model_copy(update={"choice": choice.model_copy(update={"theory": {"a": 0.4}})})
    assert without(cite(Result(quick_run.path, asked))) == {"facco2017estimating", "xue2024investigating"}


def test_a_run_cites_each_part_that_it_used_once(quick_run):
    text = cite(quick_run)
    assert cite(quick_run.path) == text and len(keys(text)) == len(set(keys(text)))
    assert without(text) == {
        "jing2022understanding",  # the head mlp, and infonce
        "oord2018representation",
        "chen2020simple",  # the views
        "he2016deep",  # the encoder
        "pedregosa2011scikit",
        "alpaydin1998cascading",  # the data
        "loshchilov2019decoupled",
        "alain2016understanding",
        "wu2018unsupervised",
        "roy2007effective",
    }
    (reasons,) = re.findall(r"% (.+)\n@inproceedings\{jing2022", text)
    assert "mlp" in reasons and "infonce" in reasons


def test_what_a_study_varies_and_the_optimizer_are_cited(quick_run):
    record = quick_run.record
    (entry,) = record.runs
    lars = record.recipe["optimizer"] | {"name": "lars"}
    encoder = {"encoder": "vit_tiny_patch16_224", "optimizer": lars}
    varied = entry.model_copy(update={"head": "reweight:1.1", "varied": {"objective": "vicreg"}})
    study = record.model_copy(update={"recipe": record.recipe | encoder, "runs": [entry, varied]})
    more = without(cite(fullrank.Run(quick_run.path, study, *parts_of(quick_run)))) - without(cite(quick_run))
    assert more == {
        "you2017large",
        "rw2019timm",
        "dosovitskiy2021image",
        "xue2024investigating",
        "bardes2022vicreg",
    }


@pytest.mark.parametrize(
    ("data", "papers"),
    [
        ("composite:mnist-on-cifar10,mnist=M,cifar10=C", {"lecun1998gradient", "krizhevsky2009learning"}),
        ("composite:two-cues", {"pedregosa2011scikit", "alpaydin1998cascading", "li2023whac"}),
        ("composite:any,foreground=mnist:M,background=stl10:S", {"lecun1998gradient", "coates2011analysis"}),
    ],
)
def test_a_composition_cites_the_papers_of_the_images_it_is_made_of(quick_run, data, papers):
    made = quick_run.record.model_copy(update={"recipe": {"data": data}, "runs": []})
    assert without(cite(Result(quick_run.path, made))) == papers | {"xue2024investigating"}


def parts_of(run):
    return run.recipe, run.encoder, run.head


def test_a_diagnosis_and_a_theorem_cite_their_measures_causes_and_papers(quick_run, tmp_path):
    finding = Finding(
        cause="augmentation",
        place="h",
        level="note",
        measure="share",
        value=2.0,
        threshold=1.0,
        evidence="",
        remedy="",
    )
    diagnosis = DiagnosisEntry(
        target="",
        rows=1,
        places=["h"],
        verdict="",
        collapsed=False,
        cut=None,
        findings=[finding],
        measures=[
            Measure(place="h", name=name, value=1.0) for name in ("rankme", "alpha_req", "stable_rank")
        ],
        spectrum={},
    )
    update = {"kind": "diagnosis", "recipe": {}, "runs": [], "diagnosis": diagnosis}
    text = cite(Result(tmp_path, quick_run.record.model_copy(update=update)))
    assert without(text) == {
        "garrido2023rankme",
        "agrawal2022alpha",
        "rudelson2007sampling",
        "jing2022understanding",
    }
    theorem = run_theorem("feature-weighting", strengths=(1, 2), keep=(1, 0.5), out=tmp_path / "theory")
    assert without(cite(theorem)) == {"xue2024investigating"}


class Own(torch.nn.Module):
    """A head with a paper of its own."""

    bibtex = "@misc{own2030,\n  title = {Mine}\n}"

    def __init__(self, in_dim):
        super().__init__()
        self.in_dim = self.out_dim = in_dim

    def forward(self, h):
        return h


def test_a_part_of_another_package_is_cited_by_its_own_bibtex(quick_run):
    spec = HEADS.parse(Own)
    entry = quick_run.record.runs[0].model_copy(update={"head": str(spec)})
    record = quick_run.record.model_copy(update={"runs": [entry]})
    run = fullrank.Run(quick_run.path, record, *parts_of(quick_run))
    assert "own2030" in without(cite(run)) and Own.bibtex in cite(run)
    stranger = entry.model_copy(update={"head": "elsewhere.py:Head"})
    record = record.model_copy(update={"runs": [stranger]})
    text = cite(fullrank.Run(quick_run.path, record, *parts_of(quick_run)))
    assert "own2030" not in text and "--import elsewhere.py" in text


def test_a_folder_without_a_record_is_refused(tmp_path):
    with refuses(DataError, tmp_path, "record.json"):
        cite(tmp_path)


def test_the_citation_file_names_the_version_and_the_two_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["version"] == fullrank.__version__
    assert {"message", "title", "authors"} <= set(citation)
    for reference, key in zip(citation["references"], keys(cite())[1:], strict=True):
        assert reference["title"] in bibliography()[key] and str(reference["year"]) in bibliography()[key]
        for author in reference["authors"]:
            assert f"{author['family-names']}, {author['given-names']}" in bibliography()[key]
