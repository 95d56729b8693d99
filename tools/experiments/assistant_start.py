"""What reading plays is worth to a network that is to answer: chapter 03d's fine-tuning, over seeds.

The network of chapter 03d (0.84 million weights) is tuned on its three tasks from `assistant_base`, which
has read plays, and from random weights; 200 steps of 32 chats with the chapter's optimisers and rates,
which were tuned for neither. Three seeds, of the first weights (or none), the chats and their order. Held
equal: steps, chats of a seed, optimisers. Scored as in the chapter: 120 held-out questions of each task,
answered at temperature 0, and nats per character of 20,000 characters of the last tenth of the text.
"""

from __future__ import annotations

import torch

from aigc_helpers import tasks
from aigc_helpers.data import load_text
from aigc_helpers.models.assistant import ask, make_gpt, share_right, tune
from aigc_helpers.models.gpt import losses_by_position
from aigc_helpers.weights import load_model

from ..experimenting import summarize

SEEDS = (0, 1, 2)
NUM_STEPS = 200
NUM_CHATS = 6000
NUM_ASKED = 120
WORKING = 0.35
DECIMALS = {"sums right, %": 1, "texts right, %": 1, "scenes right, %": 1, "loss of the plays": 2}


def run(progress):
    return run_ways(progress, {"from random weights": {"base": None}, "from plays": {}})


def run_ways(progress, ways):
    """Rows of a table: way -> what `tune` is told beside the usual, and "base" for other first weights."""
    train, valid = split_text()
    rows = {}
    for name, settings in ways.items():
        scores = []
        for seed in SEEDS:
            chats, held_out = draw_chats(train, valid, seed)
            model = first_weights(seed, **{k: v for k, v in settings.items() if k == "base"})
            told = {k: v for k, v in settings.items() if k != "base"}
            if told.get("plays"):
                told["plays"] = torch.tensor(tasks.encode(train)).unfold(0, tasks.CONTEXT + 1, 1)
            tune(model, chats, NUM_STEPS, seed, **told)
            scores.append(score_of(model, held_out, valid))
            progress(f"{name}, seed {seed}: {scores[-1]}")
        rows[name] = summarize(scores, DECIMALS)
    return rows


def split_text():
    """The text without unknown characters: for training, and its last tenth."""
    corpus = load_text()
    if "Shakespeare" not in corpus.source:
        raise RuntimeError("assistant_start: needs tiny Shakespeare: set AIGC_DATA_DIR")
    text = tasks.known_text(corpus.text)
    cut = int(0.9 * len(text))
    return text[:cut], text[cut:]


def first_weights(seed, base="assistant_base"):
    torch.manual_seed(seed)
    model = make_gpt()
    if base is not None:
        model.load_state_dict(load_model(base).state_dict())
    return model.train()


def draw_chats(train, valid, seed):
    """Chats of a seed, task -> (tokens, is_answer), and the held-out questions, the same for all seeds."""
    random = torch.Generator().manual_seed(100 + seed)
    sums = tasks.draw_sums(NUM_CHATS, random)
    texts = tasks.draw_readings(NUM_CHATS, random)
    scenes = tasks.draw_scenes(NUM_CHATS, train, random)
    chats = {
        "sums": tasks.encode_chats(sums, tasks.answer_sums(sums, random, WORKING)),
        "texts": tasks.encode_chats(texts, map(tasks.right_answer, texts)),
        "scenes": tasks.encode_chats(scenes, map(tasks.right_answer, scenes)),
    }
    random = torch.Generator().manual_seed(2)
    held_out = {
        "sums": tasks.draw_sums(NUM_ASKED, random, held_out=True),
        "texts": tasks.draw_readings(NUM_ASKED, random, held_out=True),
        "scenes": tasks.draw_scenes(NUM_ASKED, valid, random, lengths=(12,)),
    }
    return chats, held_out


def score_of(model, held_out, valid):
    """The columns of the chapter's table: right answers in per cent, and the loss of the plays."""
    model.eval()
    found = {
        f"{name} right, %": 100 * share_right(questions, ask(model, questions))
        for name, questions in held_out.items()
    }
    valid_tokens = torch.tensor(tasks.encode(valid[:20_000]))
    return found | {"loss of the plays": losses_by_position(model, valid_tokens).mean().item()}
