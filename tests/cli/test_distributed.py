"""`fullrank check-distributed` as a user meets it."""

import subprocess
import sys


def run(*arguments):
    command = [sys.executable, "-m", "fullrank", "check-distributed", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=None)


def test_a_wrong_number_is_a_usage_error():
    found = run("--objective", "infonce", "--processes", "3", "--images", "16")
    assert found.returncode == 2 and found.stderr.count("\n") == 1


def test_it_says_that_they_are_the_same():
    found = run("--objective", "barlow-twins", "--images", "16", "--width", "4")
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith("  the same\n") and max(map(len, found.stdout.splitlines())) <= 80
