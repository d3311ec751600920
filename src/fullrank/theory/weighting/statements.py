"""What the theorems on feature weighting say: in words, as one equation, and which claim they model."""

from fullrank.theory.common.papers import PROJECTION_HEAD

_MODEL = "This page shows this project's own model of a claim of the paper: "
_LAYERS = (
    ("φ_{i}", "the strength of feature i in the input"),
    ("k_{i}", "the probability that a view keeps feature i; otherwise the view draws it anew"),
)

FEATURE_WEIGHTING = PROJECTION_HEAD.states(
    _MODEL + "layers weight features more unequally with depth",
    title="Each layer weights features further from the input",
    example="--strengths 1,1,1,1,1 --depth 1,2,4,8",
    words="A deep linear net under a contrastive loss changes the weight of each feature step by step. On a "
    "logarithmic scale, every layer moves the weight by the same amount from the strength in the input to "
    "the "
    "weight at the output. The layer before the head therefore lies between the input and the output.",
    equation="a_{i}^{(l)} = φ_{i} w_{i}^{l/L},   w_{i} = k_{i} / φ_{i}",
    letters=(
        ("a_{i}^{(l)}", "the weight of feature i after layer l"),
        *_LAYERS,
        ("w_{i}", "the factor by which the whole net multiplies feature i"),
        ("l, L", "the number of a layer, and the number of all layers"),
    ),
)
WEIGHT_DECAY = PROJECTION_HEAD.states(
    _MODEL + "weight decay reduces the advantage of the layer before the head",
    title="Weight decay removes weak features from every layer",
    example="--decay 0.01,0.03,0.1,0.3,1",
    words="Each feature has a threshold. If weight decay is above it, the net loses the feature in all "
    "layers at "
    "once, so the layer before the head has no advantage for it. Between two thresholds the outcome depends "
    "on "
    "the start: a good start keeps the feature although the loss would be lower without it.",
    equation="m_{i}^{2} w_{i}^{3} − q_{i} w_{i} + λ/2 = 0   (two layers; the larger root)",
    letters=(
        ("w_{i}", "the factor by which the whole net multiplies feature i"),
        ("λ", "the weight decay: λ times the sum of all squared weights is added to the loss"),
        ("m_{i}", "the second moment of feature i in one view, φ_{i}^{2} here"),
        ("q_{i}", "the second moment of feature i across two views, k_{i}^{2} φ_{i}^{2} here"),
        *_LAYERS,
    ),
)
PRE_OR_POST = PROJECTION_HEAD.states(
    _MODEL + "the layer before the head is better for features that augmentation disrupts",
    title="Before the head or after it: which needs fewer labels",
    example="--seed 0,1,2,3",
    words="A label that depends on one feature is easy to learn where that feature is strong among the "
    "others. "
    "A feature that augmentation disrupts is weaker at the output than before the head. It can therefore "
    "need "
    "fewer labels before the head.",
    equation="S_{j}(t) = ∑_{i} φ_{i}^{2} w_{i}^{2t} / (φ_{j}^{2} w_{j}^{2t})",
    letters=(
        ("S_{j}(t)", "a bound on the mistakes of a perceptron that learns the sign of feature j"),
        ("t", "the share of the depth: 0 is the input, 1/2 before the head (pre), 1 the output (post)"),
        ("φ_{i}", "the strength of feature i in the input"),
        (
            "w_{i}",
            "the factor by which the whole net multiplies feature i: k_{i} / φ_{i} if views keep features",
        ),
    ),
)
ABSENT_FEATURES = PROJECTION_HEAD.states(
    _MODEL + "in a nonlinear net, lower layers can hold features that are absent from higher ones",
    title="A feature can exist before the head and be absent after it",
    example="--threshold 0,0.25,0.5,1,2",
    words="A symmetrised ReLU sets small values to zero. A feature that is too weak to pass it has no output "
    "and "
    "receives no gradient. It keeps its weight before the head and is exactly zero after it.",
    equation="feature i is absent after the head if |w_{1,i}| φ_{i} ≤ b",
    letters=(
        ("w_{1,i}", "the weight of feature i in the layer before the ReLU, at the start of training"),
        ("φ_{i}", "the strength of feature i in the input"),
        ("b", "the threshold of the symmetrised ReLU: values between −b and b become 0"),
    ),
)
REWEIGHTING = PROJECTION_HEAD.states(
    _MODEL + "a fixed reweighting of channels can replace a trained head",
    title="A fixed reweighting head strengthens features in the layer below",
    example="--kappa 1.2,1.5,2",
    words="The head multiplies each channel by a fixed number that falls from channel to channel. Training "
    "makes "
    "up for it: after the head every feature has the weight that it would have without a head. Before the "
    "head, "
    "a feature in a late channel is therefore stronger.",
    equation="h_{i} = κ^{c(i)} z_{i}",
    letters=(
        ("h_{i}", "the weight of feature i before the head"),
        ("z_{i}", "the weight of feature i after the head"),
        ("κ", "the ratio of the weights of neighbouring channels: channel c is multiplied by κ^{−c}"),
        ("c(i)", "the channel that holds feature i; features that are learned faster take earlier channels"),
    ),
)
PREDICT = PROJECTION_HEAD.states(
    _MODEL + "augmentation decides how strongly an embedding holds each feature",
    title="The directions that a run should keep, and those that it kept",
    words="The linear theory says how strongly the embedding holds each direction of a representation: the "
    "more "
    "two views of an image agree in a direction, the more strongly. This page compares that prediction with "
    "what a trained run did.",
    equation="a_{i} = √ρ_{i} for the p directions with the largest ρ_{i}, and 0 for the others",
    letters=(
        ("a_{i}", "the predicted weight of direction i, relative to the largest"),
        ("ρ_{i}", "the correlation of direction i between two views of an image"),
        ("p", "the rank that the embedding can have"),
    ),
)
