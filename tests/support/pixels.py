"""What pixels are worth: an encoder whose h is the image, for tests of evaluations."""

import numpy as np
from torch import nn

from fullrank.evaluation.evaluate import evaluate
from fullrank.evaluation.scores import Request
from fullrank.heads import head


class Pixels(nn.Module):
    """An encoder whose h is the image's pixels."""

    places = ()

    def features(self, x, places):
        return {"h": x.flatten(1)}


def flat(images):
    return images.tensor().flatten(1).float() / 255


def evaluated(train, test, places=("h",), shifts=None, **request):
    """What pixels are worth."""
    module = head("none", in_dim=int(np.prod(train.image_shape)))
    return evaluate(Pixels(), module, train, test, list(places), Request(**request), shifts)
