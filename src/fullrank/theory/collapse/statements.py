"""What the theorems on dimensional collapse say: in words, as one equation, and where the paper has them."""

from fullrank.theory.common.papers import COLLAPSE

STRONG_AUGMENTATION = COLLAPSE.states(
    "Theorem 1 in Section 4.2; the experiment is Figure 3",
    title="Strong augmentation collapses dimensions",
    example="--noise 0,0.5,1,1.5,2,3",
    words="Contrastive learning strengthens directions in which images differ and weakens directions in "
    "which "
    "the two views of one image differ. Where augmentation moves the data more than the data vary, the "
    "second "
    "effect wins: the weights in that direction shrink to zero, and the embedding loses that dimension.",
    equation="W(t) u_{k} = e^{λ_{k} t} W(0) u_{k} → 0 if λ_{k} < 0,   where X = Σ_{0} − Σ_{1}",
    letters=(
        ("W(t)", "the weights of one linear layer at training time t: the embedding is z = W x"),
        ("X", "the matrix that drives training; the theorem holds it fixed"),
        ("Σ_{0}", "the weighted covariance of the data: how images differ from each other"),
        ("Σ_{1}", "the weighted covariance of the augmentation: how two views of one image differ"),
        (
            "u_{k}, λ_{k}",
            "an eigenvector of X and its eigenvalue; there is one pair for each input dimension",
        ),
    ),
)
IMPLICIT_REGULARIZATION = COLLAPSE.states(
    "Theorem 3 in Section 5.3; the experiment is Figures 5 and 6",
    title="Two layers leave small singular values behind",
    example="--steps 100,300,1000,3000",
    words="In two linear layers each singular value grows at a speed that is multiplied by the square of its "
    "partner in the other layer. Small values therefore grow more slowly than large ones and are left "
    "behind. "
    "The embedding becomes low-rank although no augmentation is strong.",
    equation="dσ_{1,k} / dt = σ_{1,k} σ_{2,k}^{2} g_{k},   g_{k} = v_{k}^{T} X v_{k}",
    letters=(
        ("σ_{1,k}, σ_{2,k}", "the k-th singular value of the first and of the second layer"),
        ("g_{k}", "the gain of mode k: how strongly the data drive it"),
        ("v_{k}", "the k-th right singular vector of the first layer"),
        ("X", "the matrix that drives training: data covariance minus augmentation covariance"),
        ("t", "training time"),
    ),
)
DEPTH = COLLAPSE.states(
    "Section 5 and Figure 11; the law for more than two layers is derived in this project",
    title="More layers collapse more dimensions",
    example="--steps 100,300,800,2000",
    words="The singular values of stacked linear layers multiply. With every layer that is added, small "
    "values "
    "grow more slowly relative to large ones, so more dimensions of the embedding are left behind. One layer "
    "alone leaves none behind.",
    equation="dσ_{k} / dt = g_{k} σ_{k}^{2L − 1}",
    letters=(
        ("σ_{k}", "the k-th singular value of each layer, when all layers share their singular values"),
        ("L", "the number of layers"),
        ("g_{k}", "the gain of mode k: how strongly the data drive it"),
        ("t", "training time"),
    ),
)
