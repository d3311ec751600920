"""Does a part of yours, a spec or a class, keep its contract? A broken clause raises ContractError."""

from fullrank.objectives.terms.samples import VIEW_DIMS as VIEW_DIMS
from fullrank.testing.parts import (
    check_cause as check_cause,
    check_encoder as check_encoder,
    check_head as check_head,
    check_objective as check_objective,
    check_source as check_source,
)
from fullrank.testing.terms import check_auxiliary as check_auxiliary
