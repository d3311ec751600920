"""The command line as a user meets it, in processes of its own where start-up or exit matters."""

import os
import pty
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings

import forked
import numpy as np
import pytest
import typer
from refusals import assert_names, error_line
from typer.testing import CliRunner

from fullrank import cli
from fullrank.cli.catalogue import FAMILIES
from fullrank.cli.commands import app
from fullrank.errors import FullrankWarning
from fullrank.objectives.agreement import Agreement
from fullrank.record import Record
from fullrank.runs.recipe import RECIPE_KEYS, recipe_names
from fullrank.training.callbacks.checkpoints import load_state, newest_whole

# Two classes: a probe of ten takes most of the time of such a run.
QUICK = [
    *("--set", "classes=3+8", "--limit", "120", "--batch-size", "40", "--epochs", "1"),
    *("--encoder", "tiny-resnet,width=4"),
]


def run(capsys, monkeypatch, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["fullrank", *arguments])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


@pytest.mark.filterwarnings("always")
def test_a_note_is_printed_once_and_others_warnings_each_time(capsys, monkeypatch):
    def command():
        for _ in range(2):
            warnings.warn("part.py changed", FullrankWarning, stacklevel=1)
            warnings.warn("theirs", UserWarning, stacklevel=1)
        raise SystemExit

    monkeypatch.setattr("fullrank.cli.commands.app", command)
    _, _, error = run(capsys, monkeypatch)
    assert error.count("note: part.py changed\n") == 1
    assert error.count("UserWarning: theirs") == 2


def modules_loaded_by(code: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(' '.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(result.stdout.splitlines()[-1].split())


def test_denormals_are_flushed_in_every_thread_and_then_no_longer_in_this_one():
    modules_loaded_by(
        "import numpy, torch\n"
        "from fullrank.devices import flushed_denormals\n"
        "torch.set_num_threads(2)\n"
        "tiny = torch.from_numpy(numpy.full(4_000_000, 1e-39, numpy.float32))\n"
        "with flushed_denormals():\n"
        "    assert not (tiny * 1.0).view(torch.int32).any()\n"
        "assert (tiny[:1] * 1.0).view(torch.int32).all()"
    )


HEAVY = {"torchvision", "timm", "lightning", "torchmetrics"}


def test_help_and_list_answer_without_torch():
    code = (
        "import sys; from fullrank import cli\n"
        "for line in ('--help', 'list', 'list heads', 'list recipe-keys', 'train --help'):\n"
        "    sys.argv = ['fullrank', *line.split()]\n"
        "    try: cli.main()\n    except SystemExit: pass"
    )
    assert not modules_loaded_by(code) & {"numpy", "torch", "scipy", "sklearn", "plotly", *HEAVY}


def test_parts_load_none_of_the_heavy_libraries():
    code = (
        "import fullrank\n"
        "from fullrank.heads import SubvectorHead\n"
        "from fullrank import InfoNCELoss, encoder; encoder('tiny-resnet', image_size=8)\n"
        "from fullrank.spectrum.functional import effective_rank\n"
        "from fullrank import LinearProbe, watch, view_pipeline; view_pipeline('simclr', image_size=8)"
    )
    assert not modules_loaded_by(code) & HEAVY


COMMANDS = ["", *typer.main.get_command(app).commands, "theory predict", "theory strong-augmentation"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_fits_80_columns(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80
    assert not [line for line in result.output.splitlines() if "--" in line and "<list[" in line]


def test_train_probe_and_report(capsys, monkeypatch, tmp_path):
    out = str(tmp_path / "run")
    status, printed, _ = run(capsys, monkeypatch, "train", *QUICK, "--head", "mlp:8", "--out", out)
    assert status == 0 and "mlp:8" in printed and "report.html" in printed
    assert (tmp_path / "run" / "report.html").stat().st_size > 1e5
    status, printed, _ = run(
        capsys, monkeypatch, "probe", out, "--place", "h", "--place", "h[:4]", "--place", "head.1"
    )
    assert status == 0 and "h[:4]" in printed and "head.1" in printed
    (tmp_path / "run" / "report.html").unlink()
    status, printed, _ = run(capsys, monkeypatch, "report", out)
    assert status == 0 and (tmp_path / "run" / "report.html").exists()
    status, printed, notes = run(capsys, monkeypatch, "table", out)
    assert status == 0 and len(printed.splitlines()) == 3 and "mlp:8" in printed and "digits" in notes
    status, printed, _ = run(capsys, monkeypatch, "table", out, "--out", str(tmp_path / "mine.csv"))
    assert printed.strip() == str(tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_text().startswith("kind,folder,row,head")
    status, _, _ = run(capsys, monkeypatch, "table", out, "--out", str(tmp_path / "new" / "heads.tex"))
    assert status == 0 and (tmp_path / "new" / "heads.tex").is_file()
    status, _, _ = run(capsys, monkeypatch, "report", out, out, "--out", str(tmp_path / "both"))
    assert status == 0 and (tmp_path / "both" / "report.html").exists()
    status, printed, _ = run(capsys, monkeypatch, "report", "--each", out, out)
    assert status == 0 and printed.split() == 2 * [str(tmp_path / "run" / "report.html")]


def test_compare_prints_a_table_of_80_columns_and_writes_a_page(capsys, monkeypatch, tmp_path):
    out = str(tmp_path / "study")
    heads = "none,none,norm=batch"
    status, printed, _ = run(
        capsys, monkeypatch, "compare", *QUICK, "--heads", heads, "--seeds", "2", "--out", out
    )
    assert status == 0
    for head in ("none", "none,norm=batch"):
        assert head in printed
    assert max(len(line) for line in printed.splitlines() if out not in line) <= 80
    assert len(Record.load(tmp_path / "study").runs) == 4
    assert (tmp_path / "study" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "names"),
    [
        ("train --head linaer", 2, ["linaer", "linear"]),
        ("train --head subvector:400", 2, ["dim=400", 1, 96]),
        ("train --data digist", 2, ["digist", "digits"]),
        ("train --recipe nothing.yaml", 2, ["nothing.yaml", "list recipes"]),
        ("train --batch-size 1", 2, ["batch_size", 1, 2]),
        ("train --epochs many", 2, ["epochs", "many", 1]),
        ("train --set epoch=3", 2, ["epoch", "epochs"]),
        ("train --set epochs", 2, ["--set", "epochs"]),
        ("train --resume", 2, ["--resume", "--out"]),
        ("train --dry-run --resume", 2, ["--resume"]),
        ("train --data folder:/nowhere/at/all", 1, ["/nowhere/at/all"]),
        ("compare --heads none,,mlp", 2, ["none,,mlp"]),
        ("compare --heads norm=batch", 2, ["norm=batch"]),
        ("compare --heads none --set head=mlp", 2, ["--heads", "--set head="]),
        ("compare", 2, ["--heads", "--vary"]),
        ("compare --vary objective", 2, ["--vary", "'objective'"]),
        ("compare --vary epochs=", 2, ["--vary epochs"]),
        ("compare --vary epochs=1 --vary epochs=2", 2, ["--vary epochs=1,2"]),
        ("compare --epochs 3 --vary epochs=1,2", 2, ["--vary epochs=1,2", "epochs=3"]),
        ("compare --heads none --head mlp", 2, ["--heads", "--head"]),
        ("diagnose x.npy --fail-on rank", 2, ["--fail-on", "collapse", "rank"]),
        ("probe /nowhere", 2, ["/nowhere"]),
        ("report /nowhere", 1, ["/nowhere", "record.json"]),
        ("report a b --each --out c", 2, ["--out", "c"]),
        ("report a --figures gif", 2, ["gif", "svg"]),
        ("table /nowhere", 1, ["/nowhere", "record.json"]),
        ("table a --format word", 2, ["word", "markdown", "latex"]),
        ("table a --out a.doc", 2, ["a.doc", ".tex", "--format"]),
        ("list haeds", 2, ["haeds", "heads"]),
        ("check-distributed --objective infonce --processes 3 --images 16", 2, [3, 16]),
    ],
)
def test_bad_input_is_one_sentence_and_the_right_status(
    capsys, monkeypatch, tmp_path, arguments, status, names
):
    monkeypatch.chdir(tmp_path)
    exit_status, _, error = run(capsys, monkeypatch, *arguments.split())
    assert exit_status == status
    assert_names(error_line(error), *names)
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_exists_is_refused_with_status_2(capsys, monkeypatch, quick_run):
    status, _, error = run(capsys, monkeypatch, "train", "--out", str(quick_run.path))
    assert status == 2
    assert_names(error, quick_run.path, "--resume")


def test_probing_a_place_that_is_not_there(capsys, monkeypatch, quick_run):
    status, _, error = run(capsys, monkeypatch, "probe", str(quick_run.path), "--place", "h[:4000]")
    assert status == 2
    assert_names(error, 4000, 32)


def test_a_folder_that_cannot_be_written_is_one_sentence(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    status, _, error = run(capsys, monkeypatch, "train", *QUICK, "--head", "none", "--out", str(out))
    assert status == 1
    assert_names(error_line(error), tmp_path / "file")


@pytest.mark.parametrize("family", [None, *FAMILIES])
def test_list_shows_every_part(family):
    result = CliRunner().invoke(app, ["list", *([family] if family else [])], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    for registry in FAMILIES.values() if family is None else [FAMILIES[family]]:
        for entry in registry:
            assert entry.name in result.output


def test_list_shows_every_recipe_and_every_key():
    result = CliRunner().invoke(app, ["list", "recipes"])
    assert all(name in result.output for name in recipe_names())
    result = CliRunner().invoke(app, ["list", "recipe-keys"], env={"COLUMNS": "200"})
    assert [line.split()[0] for line in result.output.splitlines()[1:]] == list(RECIPE_KEYS)


@pytest.mark.parametrize(("apart", "status"), [(1e-9, 0), (1e-3, 1)])
def test_check_distributed_prints_losses_and_fails_where_they_differ(capsys, monkeypatch, apart, status):
    agreement = Agreement("barlow-twins", 2, 1.25, 1.5, apart, apart)
    monkeypatch.setattr("fullrank.objectives.agreement.check_agreement", lambda *_: agreement)
    line = "check-distributed --objective barlow-twins --images 16 --width 4"
    exit_status, printed, error = run(capsys, monkeypatch, *line.split())
    assert exit_status == status and max(map(len, printed.splitlines())) <= 80
    assert_names(printed, "barlow-twins", 16, 4, 1.25, 1.5, f"{apart:.1e}")
    assert printed.endswith("same\n") == (status == 0)
    assert ("gather_rows" in error) == (status == 1)


def read_terminal(leader: int, into: list[bytes]) -> None:
    """Take what a program writes to its terminal, so that it never waits for a reader."""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # Linux says so when the other end is closed
            return
        if not chunk:
            return
        into.append(chunk)


def test_a_disk_without_room_is_one_sentence(capsys, monkeypatch, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((300, 16), np.float32))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python would leave a module's bytecode cut short
    # As on a full disk, the system refuses the file.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        paths = [str(tmp_path / "x.npy"), "--out", str(tmp_path / "o")]
        status, _, error = run(capsys, monkeypatch, "diagnose", *paths)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1 and f"{tmp_path}/o/" in error_line(error)
    assert_names(error_line(error), "room", "--resume")
    assert not list((tmp_path / "o").iterdir())


@pytest.mark.parametrize("status", [130, 143])
def test_a_command_that_saves_nothing_ends_at_once(capsys, monkeypatch, tmp_path, status):
    """Signals to this very process, while it looks at a file of embeddings."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((60000, 64), np.float32))
    number = status - 128
    handler = signal.signal(number, signal.SIG_IGN)  # a late signal must not end pytest
    timer = threading.Timer(0.5, os.kill, (os.getpid(), number))
    timer.start()
    left, _, error = run(
        capsys, monkeypatch, "diagnose", str(tmp_path / "x.npy"), "--out", str(tmp_path / "o")
    )
    timer.join()
    signal.signal(number, handler)
    assert left == status and "Interrupted" in error.splitlines()[-1] and "Traceback" not in error
    assert not (tmp_path / "o" / "record.json").exists()


def in_terminal(terminal, arguments):
    """The command, with what it prints and its errors in this terminal."""
    stream = os.open(terminal, os.O_WRONLY | os.O_NOCTTY)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.close(stream)
    sys.argv = ["fullrank", *arguments]
    return cli.main()


def test_an_interrupt_in_a_terminal_saves_and_says_how_to_go_on(tmp_path):
    """A process of its own, SIGINT as Ctrl-C sends it: status 130, one sentence, a checkpoint."""
    out = str(tmp_path / "run")
    leader, follower = pty.openpty()
    arguments = ["train", *QUICK, "--head", "none", "--epochs", "200", "--out", out]
    printed_file, terminal = tmp_path / "said.txt", os.ttyname(follower)
    process = forked.start(printed_file, in_terminal, terminal, arguments, TERM="xterm", COLUMNS="80")
    printed: list[bytes] = []
    reader = threading.Thread(target=read_terminal, args=(leader, printed))
    reader.start()
    while not (tmp_path / "run" / "metrics.csv").exists() and process.is_alive():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    (status,) = forked.finish([process])
    os.close(follower)
    reader.join()
    text = b"".join(printed).decode()
    assert status == 130 and "--resume" in text and "Traceback" not in text, text
    saved = load_state(newest_whole(tmp_path / "run"))
    assert 0 < saved["global_step"] < 1000
