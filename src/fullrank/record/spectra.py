"""The spectrum of the features at a place, as a record holds it."""

from pydantic import BaseModel


class Spectrum(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """The spectrum of the centred covariance (1/N) of the raw features at a place, on the test split.

    `singular_values` are descending; `effective_rank` is exp(entropy) of their normalised square roots.
    """

    singular_values: list[float]
    effective_rank: float
