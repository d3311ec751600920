"""Choosing as users do: runs, one run, files, labels, and everything that is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from choice_pools import candidate, mixture, pool_of, three_runs

from fullrank import Run, train
from fullrank.choosing.candidates import Candidate, Reading, unique_names
from fullrank.choosing.choose import choose, choose_among
from fullrank.choosing.labels import choose_with_labels
from fullrank.choosing.reading import default_places, read_pool
from fullrank.choosing.vetoes import find_vetoes
from fullrank.errors import DataError, UsageError
from fullrank.record import Record


def save(folder: Path, name: str, rows: torch.Tensor, ids: list[str] | None = None) -> str:
    path = folder / f"{name}.npy"
    np.save(path, rows.numpy())
    if ids is not None:
        (folder / f"{name}.ids.txt").write_text("".join(f"{each}\n" for each in ids))
    return str(path)


def test_noise_is_neither_first_nor_preferred():
    entry = choose_among(three_runs())
    assert entry.shortlist[0].run in ("a", "b")
    scores = {each.run: each.score for each in entry.candidates}
    assert scores["noise"] == min(scores.values())


def test_the_choice_does_not_depend_on_the_order_of_candidates():
    pool = three_runs()
    turned = pool_of(*reversed(pool.candidates))
    scores = [{each.run: each.score for each in choose_among(some).candidates} for some in (pool, turned)]
    assert scores[0] == pytest.approx(scores[1])


def test_candidates_without_a_choice_are_vetoed_with_a_reason():
    constant = candidate("constant", torch.ones(400, 6), jitter=0.0)
    one_line = candidate("line", torch.randn(400, 1) @ torch.randn(1, 6))
    holes = candidate("holes", mixture())
    holes.clean[3, 2] = torch.nan
    blind = candidate("blind", 0.001 * mixture(), jitter=100.0)
    pool = pool_of(constant, one_line, holes, blind, candidate("good", mixture()))
    assert [bool(each) for each in find_vetoes(pool)] == [True, True, True, True, False]
    entry = choose_among(pool)
    assert [each.run for each in entry.shortlist] == ["good"]
    assert all(each.score is None for each in entry.candidates if each.vetoes)


def test_an_offset_that_all_images_share_is_no_veto_but_noise_around_one_point_is():
    base = mixture()
    offset = Candidate("offset", "h", base + 300 * base.std())
    collapsed = Candidate("collapsed", "h", torch.ones(400, 6) + 1e-5 * torch.randn(400, 6))
    few = Candidate("few", "h", torch.randn(400, 4))
    found = find_vetoes(pool_of(offset, collapsed, few))
    assert [len(each) for each in found] == [0, 1, 1]


def test_if_all_are_vetoed_there_is_no_shortlist():
    pool = pool_of(
        candidate("a", torch.ones(80, 3), jitter=0.0), candidate("b", torch.ones(80, 4), jitter=0.0)
    )
    entry = choose_among(pool)
    assert not entry.shortlist
    assert all(each.vetoes for each in entry.candidates)


def test_many_labels_find_what_shows_the_classes():
    found = choose_with_labels(three_runs(), 100, [])
    assert found.run in ("a", "b")
    assert found.accuracies[2] < 0.5 < found.accuracies[0]


def test_labels_do_not_choose_a_candidate_with_a_veto():
    pool = three_runs()
    holes = candidate("holes", mixture())
    holes.clean[0, 0] = torch.nan
    found = choose_with_labels(pool_of(holes, *pool.candidates, labels=pool.labels), 100, [], vetoed={0})
    assert found.accuracies[0] is None
    assert found.run in ("a", "b")


def test_labels_without_a_number_of_them_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="digit"):
        choose([save(tmp_path, name, mixture()) for name in "ab"], labels="digit", out=tmp_path / "x")


def test_a_term_flags_the_criteria_that_it_trains_at_its_place(tmp_path: Path):
    run = train(
        "digits",
        out=tmp_path / "run",
        head="linear:8",
        objective="infonce:0.2 + koleo:0.1",
        encoder="tiny-resnet,width=8",
        limit=100,
        batch_size=50,
        epochs=1,
    )
    flags = {each.place: each.trained_on for each in read_pool([run], Reading(limit=100)).candidates}
    assert "two_nn" in flags["h"]
    assert "infonce" in flags["z"]
    assert "infonce" not in flags["h"]
    assert "two_nn" not in flags["z"]


def test_fewer_labels_than_asked_for_are_refused():
    pool = three_runs()
    with pytest.raises(DataError, match="400"):
        choose_with_labels(pool, 401, [])
    with pytest.raises(UsageError):
        choose_with_labels(pool, 3, [])


def test_a_run_is_compared_at_its_places_and_the_record_says_all(quick_run: Run, tmp_path: Path):
    made = choose(quick_run.path, limit=200, out=tmp_path / "choice")
    places = default_places(quick_run.encoder, quick_run.head)
    found = [each.place for each in made.entry.candidates]
    assert found == [place for place in places if place in found]
    assert {"h", "z"} <= set(found)
    assert Record.load(tmp_path / "choice").choice == made.entry
    assert made.entry.images == 200
    trained = {each.place: each.trained_on for each in made.entry.candidates}
    assert trained["z"]
    assert not trained["h"]


def test_files_are_matched_by_their_ids(tmp_path: Path):
    rows, names = mixture(200), [f"image {number}" for number in range(200)]
    order = np.random.default_rng(0).permutation(200)
    a = save(tmp_path, "a", rows, names)
    b = save(tmp_path, "b", rows[torch.from_numpy(order)], [names[number] for number in order])
    pool = read_pool([a, b], Reading())
    assert torch.equal(pool.candidates[0].clean, pool.candidates[1].clean)


def test_files_of_unlike_images_or_lengths_are_refused(tmp_path: Path):
    a = save(tmp_path, "a", mixture(100), [f"a{number}" for number in range(100)])
    b = save(tmp_path, "b", mixture(100), [f"b{number}" for number in range(100)])
    with pytest.raises(UsageError, match="id"):
        choose([a, b], out=tmp_path / "x")
    c, d = save(tmp_path, "c", mixture(100)), save(tmp_path, "d", mixture(90))
    with pytest.raises(UsageError, match="100"):
        choose([c, d], out=tmp_path / "x")


def test_too_little_to_choose_from_is_refused(quick_run: Run, tmp_path: Path):
    few = [save(tmp_path, name, mixture(20)) for name in "ab"]
    with pytest.raises(DataError, match="20"):
        choose(few, out=tmp_path / "x")
    one = save(tmp_path, "one", mixture(100))
    with pytest.raises(UsageError):
        choose([one], out=tmp_path / "x")
    with pytest.raises(UsageError, match="twice"):
        choose([one, one], out=tmp_path / "x")
    with pytest.raises(UsageError):
        choose([one, quick_run.path], out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_runs_on_unlike_images_need_data(quick_run: Run, tmp_path: Path):
    other = train(
        "digits", out=tmp_path / "run", head="none", encoder="tiny-resnet,width=8", classes="3+8", epochs=1
    )
    with pytest.raises(UsageError, match="--data"):
        choose([quick_run.path, other.path], out=tmp_path / "x")
    made = choose([quick_run.path, other.path], "digits", limit=150, out=tmp_path / "y")
    assert {each.run for each in made.entry.candidates} == set(
        unique_names([str(quick_run.path), str(other.path)])
    )


def test_the_command_ends_with_3_if_nothing_is_left_and_with_2_for_one_candidate(tmp_path: Path):
    from typer.testing import CliRunner

    from fullrank.cli.commands import app

    same = [save(tmp_path, name, torch.ones(100, 5)) for name in "ab"]
    out = ["--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, ["choose", *same, *out]).exit_code == 3
    assert Record.load(tmp_path / "out").choice is not None
    good = [save(tmp_path, name, mixture(seed=seed)) for seed, name in enumerate("cd")]
    assert CliRunner().invoke(app, ["choose", *good, "--out", str(tmp_path / "good")]).exit_code == 0
    refused = CliRunner().invoke(app, ["choose", good[0], "--out", str(tmp_path / "one")])
    assert isinstance(refused.exception, UsageError) or refused.exit_code == 2
