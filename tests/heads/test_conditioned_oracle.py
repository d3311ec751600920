"""CASSLE's heads without parameters give what they give for views to which nothing was applied."""

import numpy as np
import pytest
import related_oracle as oracle
import torch

from fullrank import head, view_pipeline
from fullrank.views import ViewParameters, step_generator

COUNT, DIM = 6, 5


def drawn_from(spec: str, channels: int) -> ViewParameters:
    views = view_pipeline(spec, image_size=12, channels=channels)
    return views.sample(COUNT, step_generator(seed=2, epoch=0, step=0), (12, 16))


@pytest.mark.parametrize(
    ("spec", "channels"), [("directclr", 3), ("simclr,contrast=0,drop=0.5", 3), ("weak,flip=0", 1)]
)
@pytest.mark.parametrize("name", ["linear:3", "mlp:3,hidden=7,layers=3"])
def test_no_parameters_are_the_parameters_of_the_untouched_image(name, spec, channels):
    drawn = drawn_from(spec, channels)
    dims = drawn.numbers().dims
    torch.manual_seed(0)
    part = head(f"{name},conditioned=views", in_dim=DIM, view_dims=dims).double().eval()
    h = torch.randn(2 * COUNT, DIM, dtype=torch.float64)
    on = [each for each in oracle.COLOURS if each in drawn.names]
    nothing = [number for each in dims for number in oracle.neutral_numbers(each, on)]
    untouched = torch.tensor(nothing, dtype=torch.float64).expand(2 * COUNT, -1)
    assert torch.equal(part(h), part(h, views=untouched))
    apart = (part(h) - part(h, views=drawn.numbers().joined())).norm(dim=1)
    touched = (drawn.numbers().joined() != untouched.float()).any(1)
    assert touched.any() and torch.equal(apart > 0, touched)


def test_parameters_go_to_the_rows_of_their_own_views():
    drawn = drawn_from("directclr", 3)
    spans = dict(zip(oracle.COLOURS, (0.8, 0.8, 0.4, 0.2), strict=True))
    first, second = ({k: v.numpy() for k, v in view.items()} for view in (drawn.first, drawn.second))
    rows = [
        np.concatenate(list(oracle.view_numbers(mine, other, COUNT, (12, 16), spans).values()), axis=1)
        for mine, other in ((first, second), (second, first))
    ]
    names = list(oracle.view_numbers(first, second, COUNT, (12, 16), spans))
    numbers = drawn.numbers()
    columns = np.cumsum([0, *numbers.dims.values()])
    where = {name: slice(columns[at], columns[at + 1]) for at, name in enumerate(numbers.dims)}
    joined = torch.cat([numbers.joined()[:, where[name]] for name in names], 1)
    np.testing.assert_allclose(joined.numpy(), np.concatenate(rows), atol=1e-6)
