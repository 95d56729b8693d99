"""A GPT and a masked diffusion model of text: the same network, the same seconds, three seeds.

Both are chapter 03c's Backbone(V, 64, 64, 2, 2), causal and not, with equally many weights. Each is
trained for 30 processor seconds of one thread on 16 random windows of 64 characters of tiny
Shakespeare a step, by AdamW at 2e-3 after 40 steps of warm-up, without a schedule that knows the
end: next letters, or eq. (8) of 03c. Nats a letter on 600 validation windows, exact or a bound of
four draws. Gaps: the letters 31 to 34 of each of those windows are hidden; both take the likeliest
letter, one after another. Writing: 64 windows a seed, judged by chapter 03's kept GPT. Neither got
any tuning of its own.
"""

from __future__ import annotations

import time

import torch

from aigc_helpers.data import load_text
from aigc_helpers.models.objectives import (
    Backbone,
    diffusion_loss,
    estimate_bound,
    judge_samples,
    next_loss,
    next_nll,
    unmask,
    words_of,
)
from aigc_helpers.models.side_by_side import write_on
from aigc_helpers.weights import load_model

from ..book import NotebookError
from ..experimenting import count_weights, summarize

SEEDS = (0, 1, 2)
SECONDS = 30.0
LENGTH = 64
LR = 2e-3
NUM_SCORED = 600  # windows of the validation text
NUM_WRITTEN = 64  # windows, for each entry and seed
GAP = slice(31, 35)
WRITING = (63, 16, 4)  # evaluations of the masked model
DECIMALS = {
    "steps": 0,
    "nats a letter": 3,
    "gap, letters right": 3,
    "judge's nats": 2,
    "real words": 3,
    "letters' entropy": 2,
    "seconds per 1,000": 1,
}


def run(progress):
    corpus = load_text()
    if corpus.source != "tiny Shakespeare":
        raise NotebookError("text_families needs tiny Shakespeare: connect, or set AIGC_DATA_DIR")
    judge, characters = load_model("gpt")
    tokens = characters.encode(corpus.text)
    cut = int(0.9 * len(tokens))
    unseen = tokens[cut:].unfold(0, LENGTH, LENGTH)
    order = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(0))
    unseen = unseen[order[:NUM_SCORED]]
    known = set(words_of(corpus.text[:cut]))
    found = {}

    def note(name, row):
        found.setdefault(name, []).append(row)
        progress(f"{name}: {row}")

    def judged(samples):
        return judge_samples(samples, judge, characters.alphabet, known)

    for seed in SEEDS:
        torch.set_num_threads(1)
        for name, loss_of, causal in (("GPT", next_loss, True), ("masked", diffusion_loss, False)):
            torch.manual_seed(seed)
            model = Backbone(len(characters), LENGTH, 64, 2, 2, causal)
            num_steps = train(model, loss_of, tokens[:cut], seed)
            row = {"weights": f"{count_weights(model):,}"}
            row |= {"steps": num_steps} | score(model, causal, unseen, seed)
            note(name, row)
            for num_steps in WRITING[:1] if causal else WRITING:
                began = time.process_time()
                written = write(model, causal, num_steps, seed, unseen)
                seconds = 1000 * (time.process_time() - began) / NUM_WRITTEN
                row = judged(written) | {"seconds per 1,000": seconds}
                note(f"writes: {name}, {num_steps} evaluations", row)
        note("writes: unseen text", judged(unseen[seed * NUM_WRITTEN :][:NUM_WRITTEN]))
    return {name: summarize_row(rows) for name, rows in sorted(found.items())}


def summarize_row(rows):
    """`summarize` of the columns that a row has; what is a word stays as it is."""
    words = {column: value for column, value in rows[0].items() if isinstance(value, str)}
    decimals = {column: shown for column, shown in DECIMALS.items() if column in rows[0]}
    return words | summarize(rows, decimals)


def train(model, loss_of, text, seed):
    """Train for SECONDS of processor time; returns the number of steps."""
    opt = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), fused=True)
    generator = torch.Generator().manual_seed(seed)
    began = time.process_time()
    step = 0
    while time.process_time() - began < SECONDS:
        for group in opt.param_groups:
            group["lr"] = LR * min(1.0, (step + 1) / 40)
        starts = torch.randint(len(text) - LENGTH, (16, 1), generator=generator)
        loss = loss_of(model, text[starts + torch.arange(LENGTH)], generator)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        step += 1
    model.eval()
    return step


@torch.no_grad()
def score(model, causal, unseen, seed):
    """Nats a letter, exact or a bound, and the share of letters that come back in a gap of four."""
    generator = torch.Generator().manual_seed(100 + seed)
    if causal:
        nats = next_nll(model, unseen).mean().item()
        filled = write_on(model, unseen[:, : GAP.start], GAP.stop - GAP.start, None)
    else:
        nats = estimate_bound(model, unseen, 4, generator)[0]
        gaps = unseen.clone()
        gaps[:, GAP] = model.mask
        filled, _ = unmask(model, gaps, GAP.stop - GAP.start, generator, "surest first", 0)
    right = (filled[:, GAP] == unseen[:, GAP]).float().mean().item()
    return {"nats a letter": nats, "gap, letters right": right}


def write(model, causal, num_steps, seed, unseen):
    """NUM_WRITTEN windows from nothing; both begin with the first letter of unseen text."""
    generator = torch.Generator().manual_seed(seed)
    first = unseen[:NUM_WRITTEN, :1]
    if causal:
        return write_on(model, first, LENGTH - 1, generator)
    gaps = torch.full((NUM_WRITTEN, LENGTH), model.mask)
    gaps[:, :1] = first
    ordering = "from the left" if num_steps == WRITING[0] else "random"
    return unmask(model, gaps, num_steps, generator, ordering)[0]
