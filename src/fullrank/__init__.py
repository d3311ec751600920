"""Train and diagnose joint-embedding encoders: heads, dimensional collapse, and the layer to keep.

The public names; each is imported on first use, so that `import fullrank` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullrank.data import source as source
    from fullrank.encoders import encoder as encoder
    from fullrank.heads import (
        DiagonalHead as DiagonalHead,
        LinearHead as LinearHead,
        LowRankHead as LowRankHead,
        MLPHead as MLPHead,
        NoHead as NoHead,
        OrthogonalHead as OrthogonalHead,
        RandomSubvectorHead as RandomSubvectorHead,
        ReweightHead as ReweightHead,
        SubvectorHead as SubvectorHead,
        head as head,
    )
    from fullrank.objectives import (
        InfoNCELoss as InfoNCELoss,
        NTXentLoss as NTXentLoss,
        objective as objective,
    )
    from fullrank.probes import LinearProbe as LinearProbe, NearestProbe as NearestProbe
    from fullrank.reports.page import write_page as write_page
    from fullrank.studies.compare import Study as Study, compare as compare
    from fullrank.studies.demo import demo as demo
    from fullrank.training.module import JointEmbedding as JointEmbedding
    from fullrank.training.recipe import Optimizer as Optimizer, Recipe as Recipe
    from fullrank.training.run import Run as Run, load as load, train as train
    from fullrank.views import view_pipeline as view_pipeline

_HOMES = {
    "fullrank.data": ["source"],
    "fullrank.encoders": ["encoder"],
    "fullrank.heads": [
        "head",
        "NoHead",
        "LinearHead",
        "MLPHead",
        "DiagonalHead",
        "OrthogonalHead",
        "SubvectorHead",
        "LowRankHead",
        "ReweightHead",
        "RandomSubvectorHead",
    ],
    "fullrank.objectives": ["objective", "InfoNCELoss", "NTXentLoss"],
    "fullrank.probes": ["LinearProbe", "NearestProbe"],
    "fullrank.reports.page": ["write_page"],
    "fullrank.studies.compare": ["Study", "compare"],
    "fullrank.studies.demo": ["demo"],
    "fullrank.training.module": ["JointEmbedding"],
    "fullrank.training.recipe": ["Optimizer", "Recipe"],
    "fullrank.training.run": ["Run", "train", "load"],
    "fullrank.views": ["view_pipeline"],
}
__all__ = [name for names in _HOMES.values() for name in names]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
