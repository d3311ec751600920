"""Every test, and every example in a docstring, begins with the same random state, in any order."""

import pytest
import torch


@pytest.fixture(autouse=True)
def same_random_state() -> None:
    """Seed torch, whose initial weights are drawn from one generator for all."""
    torch.manual_seed(0)
