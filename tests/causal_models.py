"""What holds for every causal language model of the series: used by the chapters' tests.

A model maps tokens (batch, time) to logits (batch, time, vocabulary), takes a cache, and has a context of 16 tokens
and a vocabulary of 11.
"""

import torch

from aigc_helpers.models import gpt


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def stirred(model):
    """The model in evaluation mode, with no weight left at zero: a test should have something to see."""
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=seeded())
    return model.eval()


CUTS = [(5, 6), (1, 2), (2, 13), (15, 16)]  # where the tokens are cut into three pieces


@torch.no_grad()
def assert_pieces_make_the_whole(model, cuts):
    """In pieces, with a cache, the logits are those of the whole."""
    tokens, cache = torch.randint(11, (3, 16), generator=seeded(1)), gpt.Cache()
    pieces = [
        model(part, cache) for part in torch.tensor_split(tokens, cuts, dim=1) if part.shape[1]
    ]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), rtol=1e-3, atol=1e-4)
    assert len(cache) == 16


@torch.no_grad()
def assert_causal(model):
    """No logit feels a later token."""
    tokens = torch.randint(11, (1, 16), generator=seeded(2))
    whole = model(tokens)
    for position in (1, 7, 15):
        changed = tokens.clone()
        changed[0, position] = (changed[0, position] + 1) % 11
        moved = (model(changed) - whole)[0].abs().amax(dim=1)
        assert (moved[:position] == 0).all()
        assert moved[position] > 1e-4


def assert_cache_changes_no_text(model):
    """The same text is written with and without the cache, and beyond the context."""
    start = torch.tensor([[1, 2, 3], [4, 5, 6]])
    slow = gpt.generate(model, start, 13, seeded(), False)
    fast = gpt.generate(model, start, 13, seeded(), True)
    assert torch.equal(slow, fast)
    long = gpt.generate(model, start, 40, seeded(), temperature=0.7, top_k=5)
    assert long.shape == (2, 43)
    assert torch.equal(long[:, :3], start)
