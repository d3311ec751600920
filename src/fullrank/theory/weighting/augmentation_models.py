r"""Second moments of independent features x_i = phi_i u_i, u_i = 1 or -1, in three models of augmentation."""

import numpy as np
from numpy.typing import ArrayLike

from fullrank.errors import UsageError
from fullrank.theory.common.flow import Array
from fullrank.theory.common.inputs import features


def additive_noise(strengths: ArrayLike, noise: ArrayLike) -> tuple[Array, Array]:
    r"""Each view adds noise of deviation s_i to feature i.

    .. math:: M_{ii} = \phi_i^2 + s_i^2, \quad \tilde M_{ii} = \phi_i^2, \quad
              w_i = \phi_i / (\phi_i^2 + s_i^2)

    Shapes: (d,), (d,) -> the moments M and M~, (d, d). Raises UsageError for strengths not above 0, negative
    noise and lists of different length. Derived here.

    >>> moment, cross_moment = additive_noise([2.0, 1.0], [0.0, 1.0])
    >>> moment.diagonal(), cross_moment.diagonal()
    (array([4., 2.]), array([4., 1.]))
    """
    strengths, noise = features(strengths, noise=noise)
    return np.diag(strengths**2 + noise**2), np.diag(strengths**2)


def keep_or_resample(strengths: ArrayLike, keep: ArrayLike) -> tuple[Array, Array]:
    r"""Each view keeps :math:`u_i` with probability k_i and draws it anew otherwise.

    .. math:: M_{ii} = \phi_i^2, \quad \tilde M_{ii} = k_i^2 \phi_i^2, \quad w_i = k_i / \phi_i

    Shapes: (d,), (d,) -> the moments M and M~, (d, d). Raises UsageError for strengths not above 0, a keep
    outside 0 to 1 and lists of different length. Derived here.

    >>> moment, cross_moment = keep_or_resample([2.0, 1.0], [1.0, 0.5])
    >>> moment.diagonal(), cross_moment.diagonal()
    (array([4., 1.]), array([4.  , 0.25]))
    """
    strengths, keep = features(strengths, keep=keep, high=1)
    return np.diag(strengths**2), np.diag((keep * strengths) ** 2)


def drop(strengths: ArrayLike, probabilities: ArrayLike) -> tuple[Array, Array]:
    r"""Each view sets feature i to 0 with probability p_i.

    .. math:: M_{ii} = (1 - p_i) \phi_i^2, \quad \tilde M_{ii} = (1 - p_i)^2 \phi_i^2, \quad w_i = 1 / \phi_i

    Shapes: (d,), (d,) -> the moments M and M~, (d, d). Raises UsageError for strengths not above 0, a
    probability outside 0 to 1, lists of different length and features that are all always dropped. Derived
    here.

    >>> moment, cross_moment = drop([2.0, 1.0], [0.0, 0.5])
    >>> moment.diagonal(), cross_moment.diagonal()
    (array([4. , 0.5]), array([4.  , 0.25]))
    """
    strengths, dropped = features(strengths, drop=probabilities, high=1)
    remaining = 1 - dropped
    if not remaining.any():
        raise UsageError("drop is 1 for every feature, so views are always empty; drop one of them less.")
    return np.diag(remaining * strengths**2), np.diag((remaining * strengths) ** 2)
