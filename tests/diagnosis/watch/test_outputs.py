"""What is looked at in an output that is no single tensor, and what of it is padding."""

import numpy as np
import pytest
import torch
from refusals import refuses
from torch import nn

from fullrank.diagnosis.watch.measurements import rows_of
from fullrank.diagnosis.watch.outputs import mask_in, mean_token, tensor_in
from fullrank.diagnosis.watch.watched import WatchedModules
from fullrank.errors import DataError

ROWS, TOKENS = torch.randn(4, 3), torch.randn(4, 6, 3)
MASK = torch.tensor([[1] * length + [0] * (6 - length) for length in (6, 1, 3, 5)])


@pytest.mark.parametrize(
    "output, tensor",
    [
        (ROWS, ROWS),
        ((TOKENS, None, ROWS), TOKENS),
        ([None, ROWS], ROWS),
        ({"token_embeddings": TOKENS, "sentence_embedding": ROWS, "attention_mask": MASK}, ROWS),
        ({"token_embeddings": TOKENS, "attention_mask": MASK}, TOKENS),
        ({"pooler_output": ROWS, "last_hidden_state": TOKENS}, TOKENS),
        ({"loss": torch.tensor(1.0), "logits": ROWS, "h": TOKENS}, ROWS),
        ({"mine": ROWS, "past": None}, ROWS),
    ],
)
def test_tensor_in_takes_the_tensor_that_stands_for_an_output(output, tensor):
    assert tensor_in(output) is tensor


@pytest.mark.parametrize(
    "output, parts",
    [
        ({"a": ROWS, "b": ROWS}, ["dict", "a, b"]),
        ({}, ["dict", "nothing"]),
        ((None, 3), ["tuple", "NoneType, int"]),
        ((torch.ones(3),), ["tuple", "Tensor"]),
        (None, ["NoneType"]),
    ],
)
def test_an_output_without_a_plain_tensor_is_refused_with_what_it_holds(output, parts):
    with refuses(DataError, "'net.1'", "(N, T, D)", *parts):
        rows_of(output, "net.1")


def test_the_mean_of_tokens_leaves_padding_out():
    spoiled = TOKENS.clone()
    spoiled[MASK == 0] = torch.nan
    expected = [sample[mask > 0].mean(0) for sample, mask in zip(TOKENS.numpy(), MASK.numpy(), strict=True)]
    for mask in (MASK, MASK.bool(), MASK.float()):
        np.testing.assert_allclose(rows_of((spoiled,), "a", mask=mask), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mean_token(TOKENS, None), TOKENS.mean(1))
    torch.testing.assert_close(mean_token(TOKENS, MASK[:, :5]), TOKENS.mean(1))  # of something else
    assert mean_token(TOKENS, 0 * MASK).eq(0).all()


def test_mask_in_reads_the_mask_of_a_call():
    assert mask_in((TOKENS,), {"attention_mask": MASK}) is MASK
    assert mask_in(({"input_ids": ROWS, "attention_mask": MASK},), {}) is MASK
    assert mask_in((TOKENS, MASK), {}) is None
    assert mask_in((), {"attention_mask": MASK[:, None, None].float()}) is None


class Model(nn.Module):
    """A layer that never gets the mask which its model is called with."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 5))

    def forward(self, tokens, attention_mask=None):
        return self.inner(tokens)


def test_a_layer_inside_a_model_is_looked_at_without_the_models_padding():
    model, watched = Model(), WatchedModules(["inner.0"], every=1)
    other = torch.randn(4, 6, 3)
    watched.begin(model)
    model(TOKENS, attention_mask=MASK)
    model(other, attention_mask=MASK.flip(0))
    look = watched.end(step=1)["inner.0"]
    kept = [mean_token(model.inner(x), m) for x, m in ((TOKENS, MASK), (other, MASK.flip(0)))]
    values = torch.linalg.eigvalsh(torch.cov(torch.cat(kept).detach().double().T, correction=0))
    torch.testing.assert_close(look.singular_values, values.flip(0).float(), rtol=1e-4, atol=1e-6)
    assert not model._forward_pre_hooks and not model.inner[0]._forward_hooks
    watched.begin(model)
    model(TOKENS)  # a mask of an earlier step does not count
    look = watched.end(step=2)["inner.0"]
    plain = model.inner(TOKENS).mean(1)
    values = torch.linalg.eigvalsh(torch.cov(torch.cat([*kept, plain]).detach().double().T, correction=0))
    torch.testing.assert_close(look.singular_values, values.flip(0).float(), rtol=1e-4, atol=1e-6)
