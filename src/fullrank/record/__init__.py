"""Records: what a command leaves behind, and how a record is made."""

from fullrank.record.beside import (
    LostDirection as LostDirection,
    MeasureChange as MeasureChange,
    PairedScore as PairedScore,
    PlacePair as PlacePair,
    SideBySide as SideBySide,
    SimilarityMap as SimilarityMap,
)
from fullrank.record.choice import (
    CandidateRow as CandidateRow,
    ChoiceEntry as ChoiceEntry,
    LabelsChoice as LabelsChoice,
    RuleRegret as RuleRegret,
    Shortlisted as Shortlisted,
)
from fullrank.record.map import MapMethod as MapMethod, RowMap as RowMap
from fullrank.record.probed import Baseline as Baseline, ProbedImages as ProbedImages
from fullrank.record.schema import (
    RECORD_FILE as RECORD_FILE,
    SCHEMA as SCHEMA,
    BaselineComparison as BaselineComparison,
    Compared as Compared,
    Comparison as Comparison,
    CorrectionTable as CorrectionTable,
    DiagnosisEntry as DiagnosisEntry,
    DimensionCurve as DimensionCurve,
    Finding as Finding,
    LayerRow as LayerRow,
    Machine as Machine,
    Measure as Measure,
    OperationShare as OperationShare,
    Predicts as Predicts,
    ProbedAgain as ProbedAgain,
    ProbeScore as ProbeScore,
    Published as Published,
    Record as Record,
    Result as Result,
    RunEntry as RunEntry,
    Score as Score,
    TableEntry as TableEntry,
    TableRow as TableRow,
    TheoryCurve as TheoryCurve,
    TheoryEntry as TheoryEntry,
    TheoryMeasure as TheoryMeasure,
    TheoryPanel as TheoryPanel,
    TheoryStatement as TheoryStatement,
    ViewReadout as ViewReadout,
)
from fullrank.record.spectra import Spectrum as Spectrum
