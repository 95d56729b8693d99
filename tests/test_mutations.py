"""Seeded faults: each one, put into a copy of the project, must turn the suite red.

`python -m pytest tests/test_mutations.py -n 0 -s` also prints the table: fault | where | caught by.

A fault is a textual change of a helper or of one of a notebook's code cells. For a notebook the exported module is
made anew from the changed cell, so that a mere comparison of bytes cannot be what catches it. The copy is then tested
by one catcher: a test of the suite, or "page" (the notebook's own checks, but for what trains many steps), or
"exercises" (its solutions and their marks). A server process imports PyTorch once and forks for each copy; a copy
imports its own files.
"""

import ast
import builtins
import contextlib
import importlib
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from typing import NamedTuple

import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK, VAE = "notebooks/01_gan.ipynb", "notebooks/02_vae.ipynb"
GPT, BEYOND = "notebooks/03_gpt.ipynb", "notebooks/03b_gpt_beyond.ipynb"
DIFFUSION, INTRO = "notebooks/04_diffusion.ipynb", "notebooks/00_intro.ipynb"
COPIED = ("aigc_helpers", "tests", "notebooks", "pyproject.toml", "conftest.py")
TIME_LIMIT, WORKERS = 120, 2
PRELOADED = ("torch", "matplotlib.figure", "matplotlib.backends.backend_agg", "ipywidgets", "IPython.display",
             "sklearn.datasets", "torchmetrics.image.fid", "safetensors.torch", "nbclient", "tqdm", "tokenizers",
             "transformers.models.gpt2.modeling_gpt2")  # fmt: skip

pytestmark = [
    pytest.mark.mutation,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the copies are tested in forked processes"),
]


class Fault(NamedTuple):
    name: str
    where: str  # a file of the project; for a notebook, one of its code cells
    old: str
    new: str
    catcher: str  # a pytest node, "page" or "exercises"


def in_notebook(where, page, name, old, new, catcher=None):
    """A fault in a notebook, to be caught by its own page, or by `catcher`."""
    return Fault(name, where, old, new, catcher or page)


intro = partial(in_notebook, INTRO, "intro page")
page = partial(in_notebook, NOTEBOOK, "page")
vae = partial(in_notebook, VAE, "vae page")
gpt = partial(in_notebook, GPT, "gpt page")
beyond = partial(in_notebook, BEYOND, "beyond page")
diffusion = partial(in_notebook, DIFFUSION, "diffusion page")


def helper(module, name, old, new, test=None):
    """A fault in a helper, to be caught by its own tests: any, or `test` where they take long."""
    catcher = f"tests/test_{module}.py" + (f"::{test}" if test else "")
    return Fault(name, f"aigc_helpers/{module}.py", old, new, catcher)


FAULTS_PY, PANELS = "tests/test_notebook_faults.py", "tests/test_panels.py"

FAULTS = [
    # ---- 00_intro
    intro("Bayes' rule without the prior", "return self.share.log() + self.density", "return self.density"),
    intro("covariance divided by one less", "T.cov(correction=0)", "T.cov(correction=1)"),
    intro("means divided by all points", "is_class.T @ x / counts[:, None]", "is_class.T @ x / len(x)"),
    intro("the evidence without the sum over classes", "return self.log_joint(x).logsumexp(dim=1)",
          "return self.log_joint(x)[:, 0]", "tests/test_intro.py::test_evidence_and_posterior_make_up_the_joint"),
    intro("logistic loss: sign", "F.softplus(-(2 * y - 1) * (x @ w + b))", "F.softplus((2 * y - 1) * (x @ w + b))"),
    intro("logistic loss: the offset forgotten", "(2 * y - 1) * (x @ w + b)).mean()", "(2 * y - 1) * (x @ w)).mean()"),
    intro("weight decay without the half", "+ 0.5 * decay * w", "+ decay * w"),
    intro("the square root of a covariance on the wrong side", "x[y == k] @ factor.T", "x[y == k] @ factor"),
    intro("a sampler that ignores the shares", "torch.multinomial(self.share, n", "torch.multinomial(torch.ones_like(self.share), n"),
    intro("entropy: sign", "return -torch.special.xlogy(p, p)", "return torch.special.xlogy(p, p)"),
    intro("KL the other way round", "(torch.special.xlogy(p, p) - torch.special.xlogy(p, q))",
          "(torch.special.xlogy(q, q) - torch.special.xlogy(q, p))"),
    intro("eq. (7): a variance taken for a width", "model.cov[:, 0, 0].sqrt()", "model.cov[:, 0, 0]"),
    intro("eq. (6): the shares turned over", "(model.share[1] / model.share[0]).log()", "(model.share[0] / model.share[1]).log()"),
    intro("the best bell by the other divergence", 'values = kl(p, q) if way == "KL(p ‖ q)" else kl(q, p)',
          'values = kl(q, p) if way == "KL(p ‖ q)" else kl(p, q)'),
    intro("eq. (10) turned over", "torch.where(d2 > 0, d1 / d2, 0.0)", "torch.where(d1 > 0, d2 / d1, 0.0)",
          "intro exercises"),
    intro("one covariance pooled without the shares", "(self.share[:, None, None] * cov).sum(dim=0)", "cov.mean(dim=0)"),
    intro("naive Bayes that is not naive", "        if diagonal:\n", "        if not diagonal:\n"),
    intro("the rank of a secret counted from the wrong end", "if value > secret", "if value < secret"),
    # ---- the notebook: theory
    page("D* = q/(p+q)", "D_star = p / (p + q) ", "D_star = q / (p + q) "),
    page("JSD without the factor 2", "-math.log(4) + 2 * jsd", "-math.log(4) + jsd"),
    page("JSD without the half", "jsd = (kl(p, m) + kl(q, m)) / 2", "jsd = kl(p, m) + kl(q, m)"),
    page("-log 2 for -log 4", "value(D_perfect, q=p), -math.log(4)", "value(D_perfect, q=p), -math.log(2)"),
    page("eq. (5b): plus for minus", "kl(q_theta, p) - (kl(p, mid)", "kl(q_theta, p) + (kl(p, mid)"),
    page("Wasserstein distance: the grid's step forgotten", "cumsum(0) * (x[1] - x[0])", "cumsum(0)"),
    page("V with the wrong sign of log(1 - D)", "D.clamp_min(1e-300).log() + q *", "D.clamp_min(1e-300).log() - q *"),
    page("eq. (4): sign", "grad(-F.softplus(logits).sum(), logits)", "grad(F.softplus(logits).sum(), logits)"),
    page("eq. (5): softplus sign", "grad(F.softplus(-logits).sum(), logits)",
         "grad(F.softplus(logits).sum(), logits)"),
    page("race: the fakes called real", "F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()",
         "F.softplus(critic(real)).mean() + F.softplus(-critic(fake.detach())).mean()"),
    page('"at once" reads the new value', "            x, y = x - eta * y, y + eta * x\n",
         "            x = x - eta * y; y = y + eta * x\n"),
    page('"in turn" reads the old value', "            x = x - eta * y\n            y = y + eta * x\n",
         "            x, y = x - eta * y, y + eta * x\n"),
    page("look ahead with only one eye", "y + eta * x_ahead", "y + eta * x"),
    # ---- the notebook: losses, penalties, moves, loops
    page("D loss: softplus sign", "F.softplus(-real_logits).mean() + F.softplus(fake_logits)",
         "F.softplus(-real_logits).mean() + F.softplus(-fake_logits)"),
    page("D loss: real and fake swapped", "F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()",
         "F.softplus(-fake_logits).mean() + F.softplus(real_logits).mean()"),
    page("minimax G loss: sign", "return -F.softplus(fake_logits).mean()", "return F.softplus(fake_logits).mean()"),
    page("non-saturating G loss: softplus sign", "return F.softplus(-fake_logits).mean()",
         "return F.softplus(fake_logits).mean()"),
    page("hinge: sign of the margin", "F.relu(1 + fake_logits)", "F.relu(1 - fake_logits)"),
    page("least squares D: target 0 for 1", "0.5 * (real_logits - 1).square()", "0.5 * real_logits.square()"),
    page("least squares G: target 0 for 1", "return 0.5 * (fake_logits - 1).square()",
         "return 0.5 * fake_logits.square()"),
    page("Wasserstein D: sign", "fake_logits.mean() - real_logits.mean()", "real_logits.mean() - fake_logits.mean()"),
    page("gradient penalty without the -1", "fake.detach()) - 1).square().mean()", "fake.detach())).square().mean()"),
    page("slope without the square root", "grad.flatten(1).norm(dim=1)", "grad.flatten(1).square().sum(dim=1)"),
    page("R1 without the half", "0.5 * slope(D, real)", "slope(D, real)"),
    page("slope that is no function of D's parameters", "create_graph=True", "create_graph=False",
         FAULTS_PY + "::test_penalties_reach_the_parameters"),
    page("penalty left out of the Wasserstein objective",
         "total = total + penalty * gradient_penalty(D, real, fake, generator)", "total = total",
         FAULTS_PY + "::test_penalties_reach_the_parameters"),
    page("missing detach in the objective", "    fake = fake.detach()  ", "    fake = fake  ",
         FAULTS_PY + "::test_each_move_applies_its_own_gradient_only"),
    page("Duel: D's zero_grad missing", "self.d_opt.zero_grad(); d_loss", "d_loss",
         FAULTS_PY + "::test_each_move_applies_its_own_gradient_only"),
    page("Duel: G's zero_grad missing", "self.g_opt.zero_grad(); g_loss", "g_loss",
         FAULTS_PY + "::test_each_move_applies_its_own_gradient_only"),
    page("Duel: D's move steps G", "d_loss.backward(); self.d_opt.step()", "d_loss.backward(); self.g_opt.step()"),
    page("d_gradients never detaches", "D(fake.detach() if detach else fake)).backward()", "D(fake)).backward()"),
    page("rewind off by one", "self.tape = self.tape[: moment + 1]", "self.tape = self.tape[: moment + 2]",
         PANELS + "::test_arena_steps_runs_and_rewinds_to_the_same_numbers"),
    page("the listing's labels swapped",
         "criterion(real_scores, torch.ones_like(real_scores))\n                  + criterion(fake_scores, "
         "torch.zeros_like(fake_scores))",
         "criterion(real_scores, torch.zeros_like(real_scores))\n                  + criterion(fake_scores, "
         "torch.ones_like(fake_scores))", FAULTS_PY + "::test_digit_loops_train_the_right_way"),
    page("digit GAN: G trained to be found out", "g_loss = generator_loss(D(fake), LOSS)",
         "g_loss = -generator_loss(D(fake), LOSS)", FAULTS_PY + "::test_digit_loops_train_the_right_way"),
    # ---- the notebook: exercises
    page("mark 1 mixes up the densities", '    check(f"k = {k}: the maximiser',
         '    p, q = q, p\n        check(f"k = {k}: the maximiser', "exercises"),
    page("mark 1 knows only k = 1", "for k in (1, 2, 5):", "for k in (1,):",
         FAULTS_PY + "::test_marks_refuse_the_published_bugs"),
    page("mark 2 forgets the hopeless fake", '    check("a hopeless fake still',
         '    0 and check("a hopeless fake still', FAULTS_PY + "::test_marks_refuse_the_published_bugs"),
    page("mark 3 lets negative labels pass", "fake, torch.zeros(1000))", "fake.clamp_min(0), torch.zeros(1000))",
         FAULTS_PY + "::test_marks_refuse_the_published_bugs"),
    page("mark 4 at the wrong end", "push.argmin().item()", "push.argmax().item()", "exercises"),
    page("mark 5 asks only that something moves",
         '    check("the discriminator after three rounds", got[1], want[1], rtol=1e-4, atol=1e-6)\n'
         '    check("the generator after three rounds", got[0], want[0], rtol=1e-4, atol=1e-6)\n', "",
         FAULTS_PY + "::test_mark_5_refuses_the_listing_of_the_exercise"),
    page("mark 5: its own answer lets gradients pile up",
         "opt.zero_grad(); loss.backward(); opt.step()\n\n        move", "loss.backward(); opt.step()\n\n        move",
         "exercises"),
    # ---- the second notebook
    vae("KL: sign of the log-variance", "logvar.exp() - 1 - logvar)", "logvar.exp() - 1 + logvar)"),
    vae("KL without the half", "return 0.5 * (mu.square()", "return (mu.square()"),
    vae("KL: log-variance taken for the variance", "mu.square() + logvar.exp()", "mu.square() + logvar"),
    vae("log-variance taken for the log of the width", "return mu + (0.5 * logvar).exp() * eps",
        "return mu + logvar.exp() * eps"),
    vae("no reparameterisation", "return mu + (0.5 * logvar).exp() * eps",
        "return (mu + (0.5 * logvar).exp() * eps).detach()"),
    vae("likelihood averaged over pixels", "- F.softplus(logits)).sum(dim=-1)", "- F.softplus(logits)).mean(dim=-1)"),
    vae("likelihood with the wrong sign", "return (x * logits - F.softplus(logits))",
        "return (F.softplus(logits) - x * logits)"),
    vae("evidence identity: KL added, not subtracted", "(log_joint - log_prior), z) - kl_on_grid",
        "(log_joint - log_prior), z) + kl_on_grid"),
    vae("exact posterior without the noise variance", "m = v * (w @ (x - b)) / s**2", "m = v * (w @ (x - b))"),
    vae("score function divided by the width only", "(z_drawn + 1.0) / sigma**2", "(z_drawn + 1.0) / sigma"),
    vae("normaliser upside down", "formula = (2 * lam - 1) / (lam.log() - (1 - lam).log())",
        "formula = (lam.log() - (1 - lam).log()) / (2 * lam - 1)"),
    vae("the hidden beta upside down", "784 / 32 * gaussian_kl", "32 / 784 * gaussian_kl"),
    vae("bound: log of the sum, not of the mean", "dim=0) - math.log(k)", "dim=0) - math.log(1)"),
    vae("bound: mean outside the logarithm", "torch.logsumexp(log_p - log_q, dim=0) - math.log(k)",
        "(log_p - log_q).mean(dim=0) - math.log(1)"),
    vae("bound: the prior forgotten", "bernoulli_log_likelihood(model.decode(z), x) - 0.5 * z.square().sum(dim=-1)",
        "bernoulli_log_likelihood(model.decode(z), x)"),
    vae("pixels binarised the wrong way round", "< share).float()", "> share).float()"),
    vae("a residual block that forgets its input", "return h + F.silu(", "return F.silu("),
    vae("the decoder never sees the encoder's z", "z = reparameterise(mu, logvar, generator) if sample else mu",
        "z = torch.randn_like(mu)", "tests/test_vae.py"),
    vae("warm-up the wrong way round", "beta * min(1.0, step / warmup)", "beta * max(0.0, 1 - step / warmup)",
        "tests/test_vae.py"),
    vae("straight-through: the gradient is cut", "return z + (codebook[index] - z).detach(), index",
        "return codebook[index].detach() + 0 * z, index"),
    vae("the farthest code word", "codebook).argmin(dim=1)", "codebook).argmax(dim=1)"),
    vae("mark 2 accepts the variance for the width", 'check("the variance is exp(logvar)", z.var(), 4.0, rtol=0.02)',
        'check("the variance is exp(logvar)", z.var(), 16.0, rtol=0.02)', "vae exercises"),
    vae("mark 3 wants the wrong sign", "gaussian_kl(mu, logvar).sum(dim=1))\n    check_above", "-gaussian_kl(mu, logvar).sum(dim=1))\n    check_above",
        "vae exercises"),
    # ---- the third notebook
    gpt("bigram: columns made to add up to 1", "bigram = pairs / pairs.sum(dim=1, keepdim=True)",
        "bigram = pairs / pairs.sum(dim=0, keepdim=True)"),
    gpt("counts: a context speaks with one vote for each token, not for each different one",
        "(counts[token] + len(counts) * p) / (counts.total() + len(counts))",
        "(counts[token] + counts.total() * p) / (counts.total() + counts.total())",
        "tests/test_gpt.py::test_a_counted_model_mixes_its_contexts_as_witten_and_bell_do"),
    gpt("causal factor: divided by the wrong prefix", "/ joint[x[:t]].sum()", "/ joint[x[: t + 1]].sum()"),
    gpt("mask off by one: the next place may be looked at", ".tril(S - T)", ".tril(S - T + 1)"),
    gpt("mask off by one: nobody may look at itself", ".tril(S - T)", ".tril(S - T - 1)"),
    gpt("attention: the scale is missing", "scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])",
        "scores = q @ k.transpose(-2, -1)"),
    gpt("attention: softmax over the queries", "weights = scores.softmax(dim=-1)   ", "weights = scores.softmax(dim=-2)   "),
    gpt("attention: the mask turned over", "scores.masked_fill(~mask, float", "scores.masked_fill(mask, float"),
    gpt("heads: keys and values swapped", "q, k, v = self.split(h)\n        if cache", "q, v, k = self.split(h)\n        if cache"),
    gpt("the layer forgets that it is causal", "is_causal=self.causal)", "is_causal=False)"),
    gpt("block: the stream is not passed on", "h = h + self.attention(self.norm1(h), cache)", "h = self.attention(self.norm1(h), cache)"),
    gpt("block: the perceptron reads without its norm", "self.up(self.norm2(h))", "self.up(h)"),
    gpt("block: the exact GELU", 'self.down(F.gelu(self.up(self.norm2(h)), approximate="tanh"))', "self.down(F.gelu(self.up(self.norm2(h))))"),
    gpt("positions forgotten", "return self.token(tokens) + self.position.weight[start : start + tokens.shape[1]]",
        "return self.token(tokens) + 0 * self.position.weight[start : start + tokens.shape[1]]"),
    gpt("the last norm forgotten", "F.linear(self.norm(h), self.token.weight)", "F.linear(h, self.token.weight)"),
    gpt("targets not shifted", "tokens[:, 1:].flatten())", "tokens[:, :-1].flatten())"),
    gpt("temperature multiplies", "(logits / temperature)", "(logits * temperature)"),
    gpt("top-k keeps one more", "p[..., top_k:] = 0", "p[..., top_k + 1 :] = 0"),
    gpt("top-p keeps the wrong side", "(p.cumsum(dim=-1) - p < top_p)", "(p.cumsum(dim=-1) - p >= top_p)"),
    gpt("top-p drops the token that crosses the line", "(p.cumsum(dim=-1) - p < top_p)", "(p.cumsum(dim=-1) < top_p)"),
    gpt("sampled in sorted order", "torch.zeros_like(p).scatter(-1, order, p)", "p"),
    gpt("cache: position off by one", "len(cache) if cache is not None else 0)", "len(cache) + 1 if cache is not None and len(cache) else 0)",
        "tests/test_gpt.py::test_in_pieces_with_a_cache_the_logits_are_those_of_the_whole"),
    gpt("cache: the new place in front", "torch.cat([old, new], dim=2)", "torch.cat([new, old], dim=2)",
        "tests/test_gpt.py::test_in_pieces_with_a_cache_the_logits_are_those_of_the_whole"),
    gpt("the next token drawn from the first place", "next_probabilities(logits[:, -1], **settings)",
        "next_probabilities(logits[:, 0], **settings)", "tests/test_gpt.py::test_the_next_token_is_drawn_from_the_last_place"),
    gpt("losses judged one place early", "logits.flatten(0, 1), batch[:, 1:].flatten(), reduction",
        "logits.flatten(0, 1), batch[:, :-1].flatten(), reduction", "tests/test_gpt.py::test_losses_by_place_judge_every_token_once"),
    gpt("the lens forgets the scale", "scale = score / math.sqrt(q.shape[-1])", "scale = score / q.shape[-1]",
        "tests/test_gpt.py::test_the_stages_of_attention_end_in_what_the_layer_mixes"),
    gpt("weights of GPT-2 not turned", "weight.T if weight.ndim == 2 else weight", "weight"),
    gpt("future_share looks at the past", "felt.triu(1).sum()", "felt.tril(-1).sum()"),
    gpt("mark 3 accepts the cut on the wrong side", "(0.6, [1, 1, 0, 0])", "(0.6, [1, 0, 0, 0])", "gpt exercises"),
    gpt("mark 4 forgets the mask", "scores.masked_fill(~causal_mask(5), float", "scores.masked_fill(causal_mask(5), float", "gpt exercises"),
    # ---- its companion
    beyond("merges: the rarest pair first", "pair = max(counts, key", "pair = min(counts, key"),
    beyond("merges: the counts are not kept up", "count(word, -1)\n", "count(word, 0)\n"),
    beyond("encode: the latest merge first", "first = min(pairs, key=rank.get)", "first = max(pairs, key=rank.get)"),
    beyond("glue: overlapping pairs twice", "k += 2 if together else 1", "k += 1"),
    beyond("rotation that is none: a sign", "torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)",
           "torch.cat([a * cos + b * sin, a * sin + b * cos], dim=-1)"),
    beyond("rotary: a cache that starts at place 0 again", "q, k = rotate(q, start), rotate(k, start)",
           "q, k = rotate(q, 0 * start), rotate(k, 0 * start)"),
    beyond("chunks that see the next token", "before = F.pad(before, (1, 0))[:, :-1]  ", "before = F.pad(before, (0, 1))[:, 1:]  "),
    beyond("chunks forget what was read before", "max(0, tokens.shape[1] - self.reach) :]", "tokens.shape[1] :]"),
    beyond("the perceptron's ReLU is not squared", "F.relu(inner).square()", "F.relu(inner)",
           "tests/test_gpt.py::test_a_modern_block_is_its_formula"),
    beyond("QK-norm forgets the keys", "F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])", "F.rms_norm(q, q.shape[-1:]), k",
           "tests/test_gpt.py::test_a_modern_block_is_its_formula"),
    beyond("the modern block is not causal", "is_causal=self.causal and S == T)", "is_causal=False)"),
    beyond("masked goal: judged on all places", "F.cross_entropy(logits[hide], x[hide])\n    return",
           "F.cross_entropy(logits.flatten(0, 1), x.flatten())\n    return", "tests/test_gpt.py::test_the_masked_goal_asks_only_for_what_is_hidden"),
    beyond("sentence goal: labels swapped", "torch.where(true, x[:, half:], other[:, half:])",
           "torch.where(true, other[:, half:], x[:, half:])", "tests/test_gpt.py::test_a_sentence_that_is_torn_apart_is_labelled_so"),
    beyond("replaced goal: a letter swapped for itself counts", "swap = swap & (letters != x)", "swap = swap",
           "tests/test_gpt.py::test_the_replaced_goal_labels_what_was_swapped"),
    beyond("LoRA: both matrices start at something", "torch.zeros(layer.out_features, rank))", "torch.ones(layer.out_features, rank))"),
    beyond("LoRA: merged without its scale", "self.layer.weight + self.scale * self.up", "self.layer.weight + self.up"),
    beyond("Muon: momentum without Nesterov's look ahead", 'orthogonal(W.grad.lerp(mean, group["momentum"]).flatten(1))',
           "orthogonal(mean.flatten(1))"),
    beyond("Muon: tall matrices get no larger step", 'max(1.0, update.shape[0] / update.shape[1]) ** 0.5', "1.0"),
    beyond("Muon gets the embeddings", "for weight in block.parameters() if weight.ndim == 2]",
           "for weight in block.parameters() if weight.ndim == 2] + [model.token.weight]",
           "tests/test_gpt.py::test_each_weight_has_exactly_one_optimiser_and_all_of_them_move"),
    beyond("the question is marked too", "is_answer[:, 1:]], tokens[:, 1:][is_answer[:, 1:]])", "is_answer[:, :-1]], tokens[:, 1:][is_answer[:, :-1]])",
           "tests/test_gpt.py::test_the_answers_loss_leaves_the_question_out"),
    beyond("mark 3 lets two zeros pass", "check_above(\"some gradient arrives\", B.grad.abs().sum() + A.grad.abs().sum(), 1e-6)",
           "check_above(\"some gradient arrives\", B.grad.abs().sum() + A.grad.abs().sum(), -1)",
           "tests/test_gpt.py::test_marks_refuse_the_bugs_of_the_exercises"),
    # ---- the fourth notebook
    diffusion("alpha_bar off by one: level 0 has noise", "torch.cat([torch.ones(1).double(), (1 - beta).cumprod(0)])",
              "torch.cat([(1 - beta).cumprod(0), torch.zeros(1).double()])"),
    diffusion("noise scaled by its variance", "return Path(alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float())",
              "return Path(alpha_bar.sqrt().float(), (1 - alpha_bar).float())"),
    diffusion("the jump takes the noise of the level before", "level(path.noise, t, x0) * eps", "level(path.noise, torch.as_tensor(t) - 1, x0) * eps"),
    diffusion("linear schedule not scaled to the number of levels", "dtype=torch.float64) * 1000 / num_levels", "dtype=torch.float64)",
              "tests/test_diffusion.py::test_a_schedule_is_the_same_curve_for_any_number_of_levels"),
    diffusion("a mixture's offers weighted by the wrong width", "(a * sigma).square() + n.square()", "(a * sigma).square() + n"),
    diffusion("Tweedie without the pull of the centre", "centres + (a * sigma**2 / variance)", "centres + (sigma**2 / variance)"),
    diffusion("width of a step: noise of the wrong level", "left = path.signal[t] / path.signal[s] * path.noise[s]",
              "left = path.signal[t] / path.signal[s] * path.noise[t]"),
    diffusion("noise on the last step", "    if s == 0 or eta == 0:\n        return x  ", "    std = std + 0.1 * (s == 0)\n    if eta == 0:\n        return x  "),
    diffusion("DDIM: wrong sign of the direction", "clamp_min(0).sqrt() * eps\n    if s == 0", "clamp_min(0).sqrt() * -eps\n    if s == 0"),
    diffusion("fresh noise on top of the old", "(path.noise[s].square() - std.square())", "path.noise[s].square()"),
    diffusion("Heun: walks from the wrong end", "new = x + (path.signal[s] - path.signal[t]) * x0 + (path",
              "new = new + (path.signal[s] - path.signal[t]) * x0 + (path"),
    diffusion("Heun: the second look at the old level", "guess(new, s)", "guess(new, t)"),
    diffusion("time embedding constant", "angle = t[:, None].float() * frequency", "angle = 0 * t[:, None].float() * frequency"),
    diffusion("v with its sign turned", '"v": a * eps - n * x0', '"v": a * eps + n * x0'),
    diffusion("v read as if it were turned", "(n * x + a * out) / (a * a + n * n)", "(n * x - a * out) / (a * a + n * n)"),
    diffusion("velocity: towards the data instead of away", '"velocity": eps - x0}', '"velocity": x0 - eps}'),
    diffusion("loss: level 0 is drawn, level T is not", "torch.randint(1, num_levels + 1, (n,)", "torch.randint(0, num_levels, (n,)",
              "tests/test_diffusion.py::test_the_loss_draws_every_level_but_the_data"),
    diffusion("levels in the middle are not preferred", "torch.sigmoid(torch.randn(n, generator=generator))", "torch.rand(n, generator=generator)",
              "tests/test_diffusion.py::test_the_levels_in_the_middle_come_more_often_if_asked"),
    diffusion("weights of the bound: shifted by a level", "0.5 * (snr[1:-1] - snr[2:]) / snr[2:]", "0.5 * (snr[1:-1] - snr[2:]) / snr[1:-1]"),
    diffusion("bound: the end is forgotten", "    return end, middle, last", "    return 0 * end, middle, 0 * last",
              "tests/test_diffusion.py::test_the_bound_of_one_gaussian_is_just_above_its_entropy"),
    diffusion("block: no zero at the start", "        nn.init.zeros_(self.conv2.weight)                          # at the start a block passes on what it is given\n", ""),
    diffusion("U-Net deaf to its label", "self.time(time_embedding(t)) + self.label(label)", "self.time(time_embedding(t)) + 0 * self.label(label)"),
    diffusion("U-Net deaf to its level", "self.time(time_embedding(t)) + self.label(label)", "self.time(0 * time_embedding(t)) + self.label(label)"),
    diffusion("guidance swapped", "return with_label + w * (with_label - without)", "return without + w * (with_label - without)"),
    diffusion("guidance: the halves swapped", "with_label, without = both.chunk(2)", "without, with_label = both.chunk(2)"),
    diffusion("labels are never dropped", "< share, NO_LABEL, label)", "< 0 * share, NO_LABEL, label)",
              "tests/test_diffusion.py::test_a_tenth_of_the_labels_is_dropped"),
    diffusion("finish starts from the clean picture's level", "x=x, start=start, eta=1.0", "x=x, start=None, eta=1.0",
              "tests/test_diffusion.py::test_finish_from_a_low_level_stays_near"),
    diffusion("mark 2 takes the square root away", "0.6 * x0 + 0.8 * eps)", "0.6 * x0 + 0.64 * eps)", "diffusion exercises"),
    diffusion("mark 5 forgets the direction", "eps * math.exp(-2)", "eps * math.exp(2)", "diffusion exercises"),
    # ---- the helpers
    helper("checks", "check() passes where it should fail", "if not (excess > 0).any():",
           "if not (excess <= 0).any():"),
    helper("checks", "check() lets NaN pass", "np.where(np.isnan(excess), np.inf, excess)",
           "np.where(np.isnan(excess), -1.0, excess)"),
    helper("checks", "check_below inverted", "lambda g, b: g < b", "lambda g, b: g > b"),
    helper("checks", "check_above not strict", "lambda g, b: g > b", "lambda g, b: g >= b"),
    helper("checks", "exercise() ignores a mark that says no", "passed = result is None or bool(result)",
           "passed = True"),
    helper("metrics", "FID of the real set with itself", "metric.update(fake.double(), real=False)",
           "metric.update(real.double(), real=False)"),
    helper("metrics", "recall and precision swapped", "return precision.item(), recall.item()",
           "return recall.item(), precision.item()"),
    helper("metrics", "radius to the (k-1)-th neighbour", "kthvalue(k + 1, dim=1)", "kthvalue(k, dim=1)"),
    helper("metrics", "class_entropy not normalised", " / math.log(len(p))", ""),
    helper("metrics", "coverage of the fakes, not of the reals", ".any(dim=1).float().mean().item()",
           ".any(dim=0).float().mean().item()"),
    helper("metrics", "floor measured on the reference itself", "self._measure(held_out[:n])",
           "self._measure(reference[:n])"),
    helper("metrics", "energy distance without the 2", "(2 * between -", "(between -"),
    helper("metrics", "mode covered by its whole share only", "hits >= 0.1 * len(x)", "hits >= 1.0 * len(x)"),
    helper("data", "to_signed divides by 255", "x.float() / 127.5 - 1", "x.float() / 255 - 1"),
    helper("data", "ring of 8 closed after 7", "torch.arange(8) * (2 * math.pi / 8)",
           "torch.arange(8) * (2 * math.pi / 7)"),
    helper("data", "test split inside the training split", "else order[NUM_EMBEDDED_TRAIN:]", "else order[:500]"),
    helper("data", "damaged data accepted", "if digest != SHA256[split]:", "if not digest:"),
    helper("training", "steps stops one short", "range(start + 1, num_steps + 1)", "range(start + 1, num_steps)",
           "test_an_epoch_visits_every_item_once_and_the_next_in_another_order"),
    helper("training", "steps skips an epoch's last batch", "len(tensors[0]) // batch_size",
           "max(1, len(tensors[0]) // batch_size - 1)",
           "test_an_epoch_visits_every_item_once_and_the_next_in_another_order"),
    helper("training", "an interrupted run repeats a batch", "yield step, batches[step]",
           "yield step, batches[max(1, step - (start > 0))]",
           "test_interrupted_at_random_and_continued_equals_uninterrupted"),
    helper("training", "EMA: decay swapped", "get_ema_multi_avg_fn(decay)(", "get_ema_multi_avg_fn(1 - decay)(",
           "test_ema_follows_the_formula_by_hand"),
    helper("training", "History does not notice NaN", "if not abs(value) < HOPELESS:", "if abs(value) >= HOPELESS:",
           "test_history_stops_at_a_loss_that_is_not_finite"),
    helper("training", "budget divides", "round(n * factor)", "round(n / factor)", "test_budget"),
    helper("plotting", "signed images drawn too dark", "(images.float() + 1) / 2", "images.float() / 2",
           "test_tile_puts_each_image_in_its_place"),
    helper("plotting", "the plane turned by 90 degrees", "torch.stack([x, y], dim=-1)", "torch.stack([y, x], dim=-1)",
           "test_plane_and_field_agree_on_where_low_y_is"),
    helper("panels", "a panel hides an exception", 'state = "error" if self.error else "ok"', 'state = "ok"',
           "test_an_exception_is_shown_in_the_status_line_and_is_gone_after_the_next_good_draw"),
    helper("panels", "the storyboard leaves the controls moved", "        self.put(**start)\n", "",
           "test_storyboard_leaves_the_controls_as_they_were_and_holds_a_picture_a_frame"),
]  # fmt: skip


# ---------------------------------------------------------------- a copy with a fault


def copy_project(target):
    skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".pytest_cache", "benchmarks")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, target / name, **({"ignore": skip} if (ROOT / name).is_dir() else {}))


def put_fault(fault, root):
    """Change the one place where the old text stands. Fails if it stands nowhere, or in several places."""
    path = root / fault.where
    if path.suffix != ".ipynb":
        text = path.read_text(encoding="utf-8")
        assert text.count(fault.old) == 1, f"{fault.old!r} stands {text.count(fault.old)} times in {fault.where}"
        path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
        return
    nb = nbformat.read(path, as_version=4)
    found = [cell for cell in nb.cells if cell.cell_type == "code" and fault.old in cell.source]
    count = sum(cell.source.count(fault.old) for cell in found)
    assert count == 1, f"{fault.old!r} stands {count} times in the code of {fault.where}"
    found[0].source = found[0].source.replace(fault.old, fault.new)
    nbformat.write(nb, path)


# ---------------------------------------------------------------- the catcher "page": the notebook's own checks


class NotAsStored(AssertionError):
    pass


def run_page(path):
    """Run, without a kernel, the cells that need no training on digits; compare what they print as strict nbval does.

    Returns the number of ticks seen.
    """
    from aigc_helpers.notebooks import read

    nb, space, ticks = read(path), {"__name__": "__main__"}, 0
    for index, cell in enumerate(nb.cells):
        if cell.cell_type != "code" or not is_cheap(nb, index, space):
            continue
        printed, displayed = run_cell(cell.source, space, f"{path.name}, cell {index}")
        stored = "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")
        if sanitized(printed) != sanitized(stored):
            raise NotAsStored(f"cell {index} printed {printed!r}, stored {stored!r}")
        texts = [o.data.get("text/plain") for o in cell.outputs if o.output_type == "display_data"]
        if displayed != texts:
            raise NotAsStored(f"cell {index} displayed {displayed}, stored {texts}")
        ticks += printed.count("✓")
    return ticks


def run_exercises(path):
    """Every mark must call the blank answer unattempted and the folded solution correct; returns their number."""
    from aigc_helpers.notebooks import code_cells, exercises, read

    nb, space = read(path), {"__name__": "__main__"}
    for cell in code_cells(nb, "setup", "export"):
        run_cell(cell.source, space, path.name)
    for number, (answer, mark, solution) in enumerate(exercises(nb), start=1):
        for source, verdict in ((answer.source, "not attempted yet"), (solution, "correct")):
            run_cell(source, space, f"answer {number}")
            printed, _ = run_cell(mark.source, space, f"mark {number}")
            if not printed.endswith(f": {verdict}\n"):
                raise NotAsStored(f"{printed!r} instead of {verdict!r}")
    return len(exercises(nb))


def tags(cell):
    return cell.metadata.get("tags", [])


LAST_SECTION = {"intro": 5, "gan": 5, "vae": 9, "gpt": 6, "gpt_beyond": 5, "diffusion": 10}  # of those whose cells may be cheap


def is_cheap(nb, index, space):
    """Whether a code cell is run: it is part of the set-up, or of the sections with theory, but for what trains many steps."""
    cell = nb.cells[index]
    if {"setup", "export"} & set(tags(cell)):
        return True
    text = "\n".join(c.source for c in nb.cells[:index] if c.cell_type == "markdown")
    headings = re.findall(r"(?m)^## (\d+)", text)
    if tags(cell) or "_STEPS" in cell.source or "perf_counter" in cell.source or not headings or int(headings[-1]) > LAST_SECTION[nb.metadata.aigc.module]:
        return False
    return all(name in space or hasattr(builtins, name) for name in names_needed(cell.source))


def owners(expression):
    """The names whose attributes an expression reads: `net` in `net.eval()`."""
    return {node.value.id for node in ast.walk(expression) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}


def names_needed(source):
    """The names that a cell reads and does not make itself, or makes from what they were (`net = net.eval()`)."""
    read, made = set(), set()
    first = ast.parse(source).body[:1]
    renewed = {target.id for line in first if isinstance(line, ast.Assign) for target in line.targets
               if isinstance(target, ast.Name) and target.id in owners(line.value)}  # fmt: skip
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            made |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
    return read - made | renewed


def run_cell(source, space, name):
    """Execute a cell; returns what it printed and the plain texts that it displayed."""
    import IPython.display

    displayed, before = [], IPython.display.display
    IPython.display.display = lambda data, **_: displayed.append(data["text/plain"])
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(source, name, "exec"), space)
    finally:
        IPython.display.display = before
    return out.getvalue(), displayed


def sanitized(text):
    return re.sub(r"\[data: .*\]", "[data]", text)


# ---------------------------------------------------------------- the server: imports PyTorch once, forks for each copy


def serve(jobs):
    """Run jobs (name, folder, catcher, export) in forked processes, two at a time: name -> {rc, log, seconds}."""
    for name in PRELOADED:
        importlib.import_module(name)
    assert not any(name.startswith("aigc_helpers") for name in sys.modules), "each copy imports its own"
    waiting, running, results = list(jobs), {}, {}
    while waiting or running:
        while waiting and len(running) < WORKERS:
            name, folder, catcher, export = waiting.pop(0)
            running[start(folder, catcher, export)] = name, folder, time.monotonic()
        time.sleep(0.02)
        for pid, (name, folder, began) in list(running.items()):
            seconds = time.monotonic() - began
            if seconds > TIME_LIMIT:
                os.killpg(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del running[pid]
                log = pathlib.Path(folder, "log.txt").read_text(encoding="utf-8", errors="replace")
                results[name] = {"rc": os.waitstatus_to_exitcode(status), "log": log, "seconds": seconds}
    return results


def start(folder, catcher, export):
    pid = os.fork()
    if pid:
        return pid
    code = 70  # something is wrong with this file: neither red nor green
    try:
        os.setsid()
        out = os.open(os.path.join(folder, "log.txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for descriptor in (1, 2):
            os.dup2(out, descriptor)
        os.chdir(folder)
        sys.path[:0] = [folder]
        os.environ["PYTHONPATH"] = folder
        code = examine(pathlib.Path(folder), catcher, export)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def examine(folder, catcher, export):
    """Run the catcher. 0: all is well, 1: it found something; anything else is a mistake of ours."""
    from aigc_helpers import notebooks

    assert notebooks.ROOT == folder, notebooks.ROOT
    if export:
        findings = notebooks.export()
        assert not findings, findings
    if catcher not in OWN_CATCHERS:
        return int(pytest.main(["-x", "-q", "-rfE", "-p", "no:cacheprovider", "-o", "addopts=", catcher]))
    try:
        run, notebook = OWN_CATCHERS[catcher]
        print("counted:", run(folder / notebook))
    except Exception as problem:
        print(f"CAUGHT {type(problem).__name__}: {problem}")
        return 1
    return 0


OWN_CATCHERS = {"page": (run_page, NOTEBOOK), "exercises": (run_exercises, NOTEBOOK),
                "vae page": (run_page, VAE), "vae exercises": (run_exercises, VAE),
                "gpt page": (run_page, GPT), "gpt exercises": (run_exercises, GPT),
                "beyond page": (run_page, BEYOND),
                "intro page": (run_page, INTRO), "intro exercises": (run_exercises, INTRO),
                "diffusion page": (run_page, DIFFUSION), "diffusion exercises": (run_exercises, DIFFUSION)}  # fmt: skip


# ---------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def results(request, tmp_path_factory):
    """name -> result of the selected faults and, under its own name, of each catcher on a copy without a fault."""
    mine = [item for item in request.session.items if item.path == pathlib.Path(__file__) and hasattr(item, "callspec")]
    chosen = [item.callspec.params for item in mine]
    faults = [params["fault"] for params in chosen if "fault" in params]
    catchers = {params["catcher"] for params in chosen if "catcher" in params} | {fault.catcher for fault in faults}
    base, jobs, found = tmp_path_factory.mktemp("copies"), [], {}
    for number, what in enumerate([*faults, *sorted(catchers)]):
        folder = base / f"{number:02d}"
        folder.mkdir()
        copy_project(folder)
        if isinstance(what, str):
            jobs.append((what, str(folder), what, False))
            continue
        try:
            put_fault(what, folder)
            jobs.append((what.name, str(folder), what.catcher, what.where.startswith("notebooks/")))
        except AssertionError as problem:
            found[what.name] = {"rc": None, "log": str(problem), "seconds": 0.0}
    began = time.monotonic()
    found |= ask_server(jobs, base)
    seconds = time.monotonic() - began
    yield found
    print(f"\n\n{len(jobs)} copies in {seconds:.0f} s\n\n| fault | where | caught by | s |\n|---|---|---|---|")
    for fault in faults:
        result = found[fault.name]
        print(f"| {fault.name} | {fault.where} | {caught_by(result)} | {result['seconds']:.1f} |")
    caught = sum(found[fault.name]["rc"] == 1 for fault in faults)
    print(f"\ncaught: {caught} of {len(faults)}, {100 * caught / max(1, len(faults)):.1f} %")


def ask_server(jobs, base):
    (base / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    hidden = ("AIGC_DATA_DIR", "AIGC_DEVICE", "MPLBACKEND", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env |= {"AIGC_OFFLINE": "1", "AIGC_CACHE_DIR": str(base / "cache"), "AIGC_BUDGET": "0.1", "AIGC_PROGRESS": "0"}
    env |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with open(base / "server.txt", "w", encoding="utf-8") as log:
        done = subprocess.run([sys.executable, __file__, str(base)], env=env, cwd=base, stdout=log, stderr=log)
    assert done.returncode == 0, (base / "server.txt").read_text(encoding="utf-8")
    return json.loads((base / "results.json").read_text(encoding="utf-8"))


def caught_by(result):
    if result["rc"] != 1:
        wrong = {0: "NOTHING: it survives", None: f"misplaced: {result['log']}"}
        return wrong.get(result["rc"], f"an error of the test (exit {result['rc']})")
    found = re.search(r"(?m)^(?:FAILED|ERROR|CAUGHT) (.*)", result["log"])
    return found.group(1)[:120].replace("|", "/") if found else "?"


CATCHERS = sorted({fault.catcher for fault in FAULTS})
LEAST = {"page": 30, "exercises": 3, "vae page": 25, "vae exercises": 3, "gpt page": 40, "gpt exercises": 5, "beyond page": 20,
         "diffusion page": 40, "diffusion exercises": 5, "intro page": 30, "intro exercises": 9}  # checks and exercises that must have been run for green to mean anything


@pytest.mark.parametrize("catcher", CATCHERS, ids=[catcher.split("::")[-1] for catcher in CATCHERS])
def test_the_catcher_is_green_without_a_fault(results, catcher):
    result = results[catcher]
    assert result["rc"] == 0, result["log"][-3000:]
    if catcher in LEAST:
        assert int(re.search(r"counted: (\d+)", result["log"])[1]) >= LEAST[catcher]


@pytest.mark.parametrize("fault", FAULTS, ids=[re.sub(r"\W+", "-", fault.name).strip("-") for fault in FAULTS])
def test_the_fault_is_caught(results, fault):
    result = results[fault.name]
    assert result["rc"] == 1, f"{fault.name}: {caught_by(result)}\n{result['log'][-3000:]}"
    assert results[fault.catcher]["rc"] == 0, f"{fault.catcher} is red without the fault too"


def test_there_are_enough_faults():
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names)) >= 60
    helpers = {f"aigc_helpers/{name}.py" for name in ("checks", "data", "metrics", "panels", "plotting", "training")}
    assert {fault.where for fault in FAULTS} >= {NOTEBOOK, VAE, GPT, BEYOND, DIFFUSION, INTRO, *helpers}


if __name__ == "__main__":
    base = pathlib.Path(sys.argv[1])
    found = serve(json.loads((base / "jobs.json").read_text(encoding="utf-8")))
    (base / "results.json").write_text(json.dumps(found), encoding="utf-8")
