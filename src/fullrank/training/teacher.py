"""A teacher: a moving average of encoder, head and what the objective lists, without gradient."""

import copy
from collections.abc import Iterable

import torch
from torch import nn

from fullrank.errors import UsageError


class Teacher(nn.Module):
    r"""The moving average of a student's encoder, head and of those parts that its objective lists.

    .. math:: \theta_t \leftarrow m \, \theta_t + (1 - m) \, \theta_s

    after each step of the optimizer. It starts as a copy of the student. Its weights are averaged. Its
    buffers, such as the running statistics of batch norms, are its own. It has no gradient.

    Args:
        encoder: The encoder of the student.
        head: The head of the student.
        *parts: What the objective lists in `averaged`, in order, such as DINO's prototypes; never a
            predictor.

    >>> student = nn.Linear(2, 3), nn.Identity()
    >>> teacher = Teacher(*student)
    >>> _ = nn.init.ones_(student[0].weight), nn.init.zeros_(teacher.encoder.weight)
    >>> teacher.follow(student, momentum=0.75)
    >>> teacher.encoder.weight.unique()
    tensor([0.2500])

    Source: He et al. 2020 (MoCo, 1911.05722), Equation 2; Grill et al. 2020 (BYOL, 2006.07733), Equation 1.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, *parts: nn.Module):
        super().__init__()
        self.encoder, self.head = copy.deepcopy(encoder), copy.deepcopy(head)
        self.parts = nn.ModuleList(copy.deepcopy(part) for part in parts)
        self.requires_grad_(False)

    @torch.no_grad()
    def follow(self, student: Iterable[nn.Module], momentum: float) -> None:
        """Move towards the student's encoder, head and parts, of which `momentum` is the share that stays.

        Args:
            student: The same modules that the teacher was made of, in order.
            momentum: From 0, which copies the student, to 1, which changes nothing.

        Raises:
            UsageError: `momentum` is outside 0 to 1.
        """
        if not 0 <= momentum <= 1:
            raise UsageError(
                f"The momentum of a teacher must lie in 0 to 1, but got {momentum}; 0.996 is usual."
            )
        own = [weight for part in (self.encoder, self.head, *self.parts) for weight in part.parameters()]
        theirs = [weight.detach() for part in student for weight in part.parameters()]
        if own:
            torch._foreach_lerp_(own, theirs, 1 - momentum)
