"""A fitted linear probe that may choose among some of its classes alone."""

from collections.abc import Collection
from copy import copy

import torch

from fullrank.errors import UsageError
from fullrank.probes.linear import LinearProbe


def among(probe: LinearProbe, classes: Collection[int]) -> LinearProbe:
    r"""The same probe, whose predictions are taken among `classes` alone; nothing is fitted anew.

    .. math:: \hat y(x) = \arg\max_{c \in C} (w_c^\top x + b_c)

    So a test set of 200 of the 1000 classes is scored without asking which of the others an image may be.
    Raises UsageError where `classes` is empty or the probe has not learnt one of them.

    >>> x, y = torch.eye(3).repeat(5, 1), torch.arange(3).repeat(5)
    >>> among(LinearProbe([1e-3]).fit(x, y), {1, 2}).predict([[1.0, 0.2, 0.1], [0.0, 0.1, 0.9]])
    tensor([1, 2])

    Source: Hendrycks et al. on ImageNet-A (arXiv 1907.07174) and ImageNet-R (arXiv 2006.16241), whose code
    keeps the logits of the 200 classes.
    """
    known = set(probe.classes.tolist())
    if unknown := sorted(set(classes) - known):
        raise UsageError(
            f"A probe chooses among classes that it has learnt, but {len(unknown)} of {len(classes)} are "
            f"unknown to it, the first is {unknown[0]}; name some of its {len(known)}."
        )
    if not classes:
        raise UsageError(f"A probe needs a class to choose, but got none; name some of its {len(known)}.")
    kept = torch.isin(probe.classes, torch.tensor(sorted(classes), device=probe.classes.device))
    chooser = copy(probe)
    chooser.classes, chooser.weight, chooser.bias = (
        probe.classes[kept],
        probe.weight[kept],
        probe.bias[kept],
    )
    return chooser
