"""What the code of a small VQ-VAE costs (chapter 02b), by two priors, three seeds.

VQVAE(K=32) trained for 600 steps of 128 binarised MNIST images with Adam at 3e-3. The indices are
priced by their frequencies, or by a table of the left and the upper neighbour; both are counted on
10,000 training digits. Bits of 1,000 binarised test digits.
"""

from __future__ import annotations

import math

import torch

from aigc_helpers.models.vae import bernoulli_log_likelihood, binarise
from aigc_helpers.models.vae_beyond import code_bits, count_codes, train_vqvae

from ..experimenting import load_real_digits, summarize

SEEDS = (0, 1, 2)
NUM_STEPS = 600
K = 32
COLUMNS = ("entries in use", "code, by frequency", "code, by neighbours", "picture, given the code")


def run(progress):
    images = load_real_digits("train").images
    random = torch.Generator().manual_seed(0)
    x = binarise(load_real_digits("test").images[:1000], random).reshape(-1, 1, 28, 28)
    x_train = binarise(images[:10_000], random).reshape(-1, 1, 28, 28)
    found = []
    for seed in SEEDS:
        model = train_vqvae(images, NUM_STEPS, K, seed)
        seen = torch.cat([model(part)[1] for part in x_train.split(500)])
        logits, index, _ = model(x)
        share = (torch.bincount(seen.flatten(), minlength=K) + 0.1) / (seen.numel() + 0.1 * K)
        log_p = bernoulli_log_likelihood(logits.flatten(1), x.flatten(1))
        values = (
            index.unique().numel(),
            -share.log2()[index].sum(dim=(1, 2)).mean().item(),
            code_bits(index, count_codes(seen, K)).mean().item(),
            -log_p.mean().item() / math.log(2),
        )
        found.append(dict(zip(COLUMNS, values, strict=True)))
        progress(f"seed {seed}: {found[-1]}")
    return {"VQ-VAE, three seeds": summarize(found, dict.fromkeys(COLUMNS, 0))}
