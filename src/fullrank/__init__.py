"""Train and diagnose joint-embedding encoders: heads, dimensional collapse, and the layer to keep.

The public names; each is imported on first use, so that `import fullrank` costs nothing.
"""

from typing import TYPE_CHECKING

from fullrank.lazy import attach

if TYPE_CHECKING:
    from fullrank.choosing.choose import Choice as Choice, choose as choose
    from fullrank.data import register_source as register_source, source as source
    from fullrank.diagnosis.causes import register_cause as register_cause
    from fullrank.diagnosis.diagnose import Diagnosis as Diagnosis, diagnose as diagnose
    from fullrank.diagnosis.watch.huggingface import TrainerMonitor as TrainerMonitor
    from fullrank.diagnosis.watch.loop import Watch as Watch, watch as watch
    from fullrank.diagnosis.watch.spectrum_monitor import SpectrumMonitor as SpectrumMonitor
    from fullrank.encoders import encoder as encoder, register_encoder as register_encoder
    from fullrank.evaluation.probe import probe as probe
    from fullrank.heads import (
        ConditionedHead as ConditionedHead,
        CorrectionHead as CorrectionHead,
        DiagonalHead as DiagonalHead,
        LinearHead as LinearHead,
        LowRankHead as LowRankHead,
        MatryoshkaHead as MatryoshkaHead,
        MLPHead as MLPHead,
        NoHead as NoHead,
        OrthogonalHead as OrthogonalHead,
        RandomSubvectorHead as RandomSubvectorHead,
        ReweightHead as ReweightHead,
        SubvectorHead as SubvectorHead,
        head as head,
        register_head as register_head,
    )
    from fullrank.objectives import (
        AlignmentLoss as AlignmentLoss,
        BarlowTwinsLoss as BarlowTwinsLoss,
        BYOLLoss as BYOLLoss,
        CrossEntropyLoss as CrossEntropyLoss,
        DINOLoss as DINOLoss,
        InfoNCELoss as InfoNCELoss,
        MMCRLoss as MMCRLoss,
        NestedLoss as NestedLoss,
        NTXentLoss as NTXentLoss,
        QueueInfoNCELoss as QueueInfoNCELoss,
        SIGRegLoss as SIGRegLoss,
        SimSiamLoss as SimSiamLoss,
        SpectralContrastiveLoss as SpectralContrastiveLoss,
        SupConLoss as SupConLoss,
        VICRegLoss as VICRegLoss,
        VISRegLoss as VISRegLoss,
        WeakSIGRegLoss as WeakSIGRegLoss,
        auxiliary as auxiliary,
        objective as objective,
        register_auxiliary as register_auxiliary,
        register_objective as register_objective,
    )
    from fullrank.probes import (
        ClassMeanProbe as ClassMeanProbe,
        LinearProbe as LinearProbe,
        NearestProbe as NearestProbe,
    )
    from fullrank.record.finding import read_result as read_result
    from fullrank.reports.combined.page import write_report as write_report
    from fullrank.reports.page import write_page as write_page
    from fullrank.runs.recipe import Optimizer as Optimizer, Recipe as Recipe
    from fullrank.runs.run import Run as Run, load as load
    from fullrank.studies.cite import cite as cite
    from fullrank.studies.compare import Study as Study, compare as compare
    from fullrank.studies.demo import demo as demo
    from fullrank.studies.reproduce import Reproduction as Reproduction, reproduce as reproduce
    from fullrank.targets.embed import embed as embed, write_embeddings as write_embeddings
    from fullrank.targets.export import export as export
    from fullrank.targets.exported import load_exported as load_exported
    from fullrank.targets.opening import Target as Target, target as target
    from fullrank.training.dry_run import dry_run as dry_run
    from fullrank.training.module import JointEmbedding as JointEmbedding
    from fullrank.training.train import train as train
    from fullrank.version import __version__ as __version__
    from fullrank.views import view_pipeline as view_pipeline

__getattr__, __dir__, __all__ = attach(__name__)
