"""What 02_vae's own checks do not reach: where z comes from, and what the settings of `train_small` do."""

import torch

from aigc_helpers.models import vae

X = torch.bernoulli(torch.full((6, 784), 0.2), generator=torch.Generator().manual_seed(0))


def test_the_distortion_reaches_the_encoder_through_z():
    model = vae.VAE(3, hidden=8, blocks=1)
    for sample in (True, False):
        distortion, _ = vae.elbo_terms(model, X, sample)
        slope = torch.autograd.grad(distortion.sum(), model.encoder[-1].bias)[0]
        assert (slope[:3] != 0).all() and bool((slope[3:] != 0).any()) is sample  # mu always, the width if sampled


def test_a_picture_is_decoded_from_its_own_code():
    torch.manual_seed(0)
    model = vae.VAE(3, hidden=8, blocks=1)
    with torch.no_grad():
        distortion, _ = vae.elbo_terms(model, X, sample=False)
        want = -vae.bernoulli_log_likelihood(model.decode(model.encode(X)[0]), X)
    torch.testing.assert_close(distortion, want)


def test_train_small_is_repeatable_and_its_cures_differ_from_the_illness():
    images = (255 * X).reshape(6, 1, 28, 28).to(torch.uint8)
    settings = ({}, {}, {"warmup": 10}, {"free_bits": 0.5}, {"warmup": 10**9})
    sick, again, warm, free, never = (vae.train_small(images, 12, 4.0, **kw)[1] for kw in settings)
    assert sick.shape == (12, 2) and torch.equal(sick, again)
    assert warm[-1].sum() > sick[-1].sum() and free[-1].sum() > sick[-1].sum()
    torch.testing.assert_close(never, vae.train_small(images, 12, 0.0)[1], rtol=1e-3, atol=1e-5)
