"""Two gentler ways to tune on answers, one training each, for chapter 03d.

Section 2's loop from the kept model that has read plays: 480 steps of 32 chats. *A tenth of the rates*: both
optimisers' peak rates divided by 10. *LoRA*: all weights frozen but LoRAs of rank 8 beside every linear layer,
AdamW at the peak rate 5e-3. A seed sets the chats' order and the LoRAs' start. Scored on 120 held-out questions of
each kind at temperature 0 (*drawn*: sums at temperature 1, four answers each), and on 20,000 characters of plays
that no network has trained on.
"""

from __future__ import annotations

import copy

import torch

from aigc_helpers import tasks
from aigc_helpers.data import load_text
from aigc_helpers.models.assistant import adapt, ask, share_right, tune
from aigc_helpers.models.gpt import losses_by_position
from aigc_helpers.models.gpt_beyond import make_optimizers
from aigc_helpers.training import seed_everything
from aigc_helpers.weights import load_model

SEEDS = (0,)
NUM_STEPS = 480
NUM_CHATS = 6000
NUM_ASKED = 120
KINDS = ("sums", "texts", "scenes", "returning")
DECIMALS = {f"{name} right, %": 1 for name in KINDS}
DECIMALS |= {"sums right, drawn, %": 1, "loss of the plays": 2}


def run(progress):
    text = tasks.known_text(load_text().text)
    cut = int(0.9 * len(text))
    chats = draw_chats(text[:cut])
    held_out = draw_held_out(text[cut:])
    valid_tokens = torch.tensor(tasks.encode(text[cut:][:20_000]))
    base = load_model("assistant_base")
    rows = {}
    (seed,) = SEEDS
    for name in ("a tenth of the rates", "LoRA"):
        seed_everything(seed)
        model = copy.deepcopy(base).requires_grad_(True)
        if name == "LoRA":
            adapt(model)
            weights = [weight for weight in model.parameters() if weight.requires_grad]
            opts = [torch.optim.AdamW(weights, lr=5e-3, betas=(0.9, 0.95), weight_decay=0.0)]
        else:
            opts = make_optimizers(model, matrix_rate=0.02 / 10, rate=5e-3 / 10)
        tune(model.train(), chats, NUM_STEPS, seed, opts=opts)
        found = {
            f"{kind} right, %": 100 * share_right(asked, ask(model, asked))
            for kind, asked in held_out.items()
        }
        sums = 4 * held_out["sums"]
        drawn = ask(model, sums, torch.Generator().manual_seed(5), temperature=1.0)
        found["sums right, drawn, %"] = 100 * share_right(sums, drawn)
        found["loss of the plays"] = losses_by_position(model, valid_tokens).mean().item()
        progress(f"{name}, seed {seed}: {found}")
        rows[name] = {column: f"{found[column]:.{shown}f}" for column, shown in DECIMALS.items()}
    return rows


def draw_chats(train_text):
    """The chapter's chats: name of the task -> tokens (N, T), is_answer (N, T)."""
    random = torch.Generator().manual_seed(1)
    questions = {
        "sums": tasks.draw_sums(NUM_CHATS, random),
        "texts": tasks.draw_readings(NUM_CHATS, random),
        "scenes": tasks.draw_scenes(NUM_CHATS, train_text, random),
    }
    answers = {name: [tasks.right_answer(asked) for asked in questions[name]] for name in questions}
    answers["sums"] = tasks.answer_sums(questions["sums"], random, working=0.35)
    return {name: tasks.encode_chats(questions[name], answers[name]) for name in questions}


def draw_held_out(valid_text):
    """The chapter's held-out questions of each kind."""
    random = torch.Generator().manual_seed(2)
    held_out = {
        "sums": tasks.draw_sums(NUM_ASKED, random, held_out=True),
        "texts": tasks.draw_readings(NUM_ASKED, random, held_out=True),
    }
    scenes = tasks.draw_scenes(40 * NUM_ASKED, valid_text, random, lengths=(12,))
    held_out["scenes"] = [scene for scene in scenes if not comes_back(scene)][:NUM_ASKED]
    held_out["returning"] = [scene for scene in scenes if comes_back(scene)][:NUM_ASKED]
    return held_out


def comes_back(scene):
    """Whether a speaker of a scene speaks twice."""
    return tasks.right_answer(scene).count(",") + 1 < scene.count("\n")
