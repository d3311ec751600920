"""Outcomes of theorems, each computed once for all the tests that read it."""

from functools import cache

import pytest

from fullrank.theory import Outcome, theorem_named


@pytest.fixture(scope="session")
def outcome_of():
    @cache
    def outcome(name: str, **settings: object) -> Outcome:
        return theorem_named(name, **settings).outcome()

    return outcome
