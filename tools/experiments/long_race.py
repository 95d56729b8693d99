"""The race of chapter 06 goes on: longer than 90 seconds, one seed.

The same trainings as in `side_by_side`, with the settings that raced there: 50,000 digits without labels,
one thread, the processor's time for training alone, rates that rise over 30 steps and then stay, an average
of the weights that draws. No schedule knew its end there, so that none had to be changed here, and nothing was
tuned again for the longer time. Snapshots of one run at 90, 300 and 600 s (the GAN's and the GPT's end at 300 s);
the same drawing noise, judge and n = 2,000. "copies" at the end: as there. The machine was shared with other work:
a second bought a tenth to a quarter fewer steps than in `side_by_side`, and the steps say how many. The averaged
weights are kept for `samplers`. (The seconds on file are those of the scoring; the trainings were kept from
earlier runs.)
"""

from __future__ import annotations

import torch

from aigc_helpers.metrics import DigitJudge

from . import side_by_side
from .side_by_side import NO_LABEL, NUM, kept_part, measure, near_training

SEEDS = (0,)
MARKS = (90.0, 300.0, 600.0)
LAST = {"diffusion": 600.0, "GAN": 300.0, "GPT over codes": 300.0}  # where each family's run ends
# What raced in `side_by_side`: the best of its short tries; for the GAN its page's rate
SETTINGS = {
    "diffusion": {"rate": 3e-3, "c": 32},
    "GAN": {"rate": 2e-3},
    "GPT over codes": {"rate": 6e-3},
}


def run(progress):
    torch.set_num_threads(1)
    data = side_by_side.load_data()
    judge = DigitJudge.standard(NUM, data["all test digits"])
    rows = {}
    for seed in SEEDS:
        for name, last in LAST.items():
            part = train_or_load(name, seed, data)
            for mark in marks_of(name):
                found = part["marks"][mark]
                row = measure(judge, found, part, side_by_side.class_of(name).evaluations)
                if mark == last:
                    row |= near_training(found["pictures"], data)
                rows[f"{name}, {mark:g} s, seed {seed}"] = row
                progress(f"{name}, {mark:g} s, seed {seed}: {row}")
    rows["real data (floor)"] = side_by_side.floors_of(judge, found["pictures"])
    return rows


def marks_of(name):
    return [mark for mark in MARKS if mark <= LAST[name]]


def train_or_load(name, seed, data):
    return kept_part(f"long, {name}, seed {seed}", lambda: train(name, seed, data))


def train(name, seed, data):
    """What one run leaves: for each mark its steps, its pictures and the weights that drew them."""
    family = make_family(name, seed)
    labels = torch.full_like(data["labels"], NO_LABEL)
    part = {"marks": {}}
    clock = side_by_side.train(family, data["images"], labels, seed, marks_of(name))
    for mark, prepared in clock:
        found = side_by_side.snapshot(family, prepared, seed, NUM)
        found["averages"] = [copied_state(net) for net in family.averages]
        part["marks"][mark] = found
    return part | side_by_side.count_parts(family)


def make_family(name, seed):
    return side_by_side.class_of(name)(seed, **SETTINGS[name])


def copied_state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def load_family(name, seed, mark, part):
    """A family with the averaged weights of a snapshot."""
    family = make_family(name, seed)
    for net, state in zip(family.averages, part["marks"][mark]["averages"], strict=True):
        net.load_state_dict(state)
    return family
