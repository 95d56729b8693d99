"""06_side_by_side: its exported functions beyond the page's own checks, its panels, its exercises, its seeded faults."""

import copy
import time
from functools import partial

import pytest
import torch

import tools
from aigc_helpers import panels
from aigc_helpers.models import side_by_side
from aigc_helpers.weights import read_asset, read_experiment
from tests.marking import run_exercises
from tests.panel_checks import moved_together, use_every_control
from tests.seeded_faults import in_notebook, in_panels

NAME = "06_side_by_side.ipynb"
page = partial(in_notebook, NAME)
panel = partial(in_panels, "side_by_side")


# ---------------------------------------------------------------- the game, morph, text, clinic


# ---------------------------------------------------------------- where the truth is known

TRUTH_FAULTS = []


# ---------------------------------------------------------------- digits, likelihood, copies

RACERS = ("GAN", "VAE", "GPT over codes", "diffusion")


def made_up_runs():
    """Runs in which the GAN is best by FID, the VAE draws quickest, and the GPT is worst in all."""
    rows = {"real data (floor)": {"FID": 0.2, "precision": 0.9, "recall": 0.9, "coverage": 0.9}}
    for k, name in enumerate(RACERS):
        for seconds in (15, 30, 60, 90):
            for seed in range(3):
                place = (0, 1, 3, 2)[k] + 0.1 * seed
                rows[f"{name}, {seconds} s, seed {seed}"] = {
                    "FID": (1 + place) * 90 / seconds,
                    "precision": 0.8 - 0.1 * place,
                    "recall": 0.5 + 0.001 * seed * (-1) ** k,
                    "coverage": 0.7 - 0.1 * place,
                    "s per 1,000": (0.3, 0.1, 20.0, 10.0)[k],
                    "weights that draw": 1000 * (4, 3, 5, 2)[k],
                }
    return panels.side_by_side._Runs(rows)


def made_up_pictures():
    random = torch.Generator().manual_seed(0)
    shape = (4, 24, 28, 28)
    return {name: torch.randint(256, shape, dtype=torch.uint8, generator=random) for name in RACERS}


def test_the_best_family_and_whether_all_its_seeds_are_better():
    runs = made_up_runs()
    assert runs.families == list(RACERS)
    assert runs.seeds == [0, 1, 2]
    assert runs.best(90, "FID") == ("GAN", True)
    assert runs.best(90, "coverage") == ("GAN", True)
    assert runs.best(15, "s per 1,000") == ("VAE", True)
    assert runs.best(90, "recall")[1] is False
    assert runs.mean("VAE", 90, "FID") == pytest.approx(2.1)
    assert runs.floor("recall") == 0.9
    assert runs.floor("s per 1,000") is None


def test_beaten_in_both_measures():
    runs = made_up_runs()
    pair = ("s per 1,000", "FID")
    assert runs.dominated("GPT over codes", 90, pair) == ["GAN", "VAE", "diffusion"]
    assert runs.dominated("diffusion", 90, pair) == ["GAN", "VAE"]
    assert runs.dominated("VAE", 90, pair) == []
    assert runs.dominated("GAN", 90, ("FID", "precision")) == []
    assert runs.dominated("VAE", 90, ("precision", "coverage")) == ["GAN"]


def test_equal_seconds_names_the_leader_for_each_setting():
    panel = panels.side_by_side.equal_seconds(made_up_runs(), made_up_pictures())
    assert panel.error is None
    assert "FID after 15 s: GAN 6.60 (6.00 to 7.20)" in panel.status.value
    assert "First: GAN, for all seeds" in panel.status.value
    panel.controls["measure"].value = "recall"
    assert "the seeds overlap" in panel.status.value
    assert "Real data: 0.900" in panel.status.value
    use_every_control(panel)


def test_trade_off_says_who_is_beaten_and_refuses_one_measure_twice():
    panel = panels.side_by_side.trade_off(made_up_runs())
    told = "Beaten in both: GPT over codes by GAN and VAE and diffusion; diffusion by GAN and VAE."
    assert told in panel.status.value
    assert "Between GAN and VAE the choice is yours" in panel.status.value
    panel.controls["x"].value = "precision"
    assert "GAN is best in both" in panel.status.value
    panel.controls["x"].value = "FID"
    assert "two different measures" in panel.status.value
    use_every_control(panels.side_by_side.trade_off(made_up_runs()), quiet=("seconds",))


def test_two_trade_off_panels_do_not_disturb_each_other():
    assert moved_together(lambda: panels.side_by_side.trade_off(made_up_runs())) == 0


def test_the_stored_runs_are_whole():
    rows = read_experiment("side_by_side").rows
    for name in RACERS:
        for seconds in (15, 30, 60, 90):
            for seed in range(3):
                row = rows[f"{name}, {seconds} s, seed {seed}"]
                assert {"FID", "precision", "recall", "coverage", "s per 1,000"} <= row.keys()
                assert ("copies" in row) == (seconds == 90)
        steps = [rows[f"{name}, {seconds} s, seed 0"]["steps"] for seconds in (15, 30, 60, 90)]
        assert steps == sorted(steps)
    pictures, _ = read_asset("side_by_side.safetensors")
    assert all(kept.dtype == torch.uint8 for kept in pictures.values())
    for key in ("gan", "vae", "gpt", "diffusion"):
        assert pictures[key].shape == (128, 28, 28)
        assert pictures[f"{key}_grow"].shape == (4, 24, 28, 28)
        assert torch.equal(pictures[f"{key}_grow"][3], pictures[key][:24])


def test_the_rate_rises_and_stays():
    assert side_by_side.share_of_rate(3) == pytest.approx(0.1)
    assert side_by_side.share_of_rate(30) == 1.0
    assert side_by_side.share_of_rate(10**6) == 1.0


def test_the_average_follows_buffers_too_and_leaves_whole_numbers():
    model = torch.nn.BatchNorm1d(2)
    average = copy.deepcopy(model)
    model.running_mean.fill_(1.0)
    model.num_batches_tracked.fill_(7)
    side_by_side.follow(average, model, 50)
    assert average.running_mean.tolist() == pytest.approx([0.05, 0.05])
    assert average.num_batches_tracked.item() == 0


def test_the_clock_stops_and_the_average_learns():
    images = torch.randint(256, (200, 1, 28, 28), dtype=torch.uint8)
    began = time.process_time()
    model, num_steps = side_by_side.train_vae_for(images, 0.3)
    assert num_steps >= 1
    assert 0.3 <= time.process_time() - began < 3.0
    assert not any(weight.requires_grad for weight in model.parameters())
    assert not model.training
    with pytest.raises(ValueError, match="seconds"):
        side_by_side.train_vae_for(images, 0)


def test_copies_are_nearer_to_what_was_copied():
    random = torch.Generator().manual_seed(0)
    training = torch.randint(256, (300, 1, 28, 28), dtype=torch.uint8, generator=random)
    others = torch.randint(256, (300, 1, 28, 28), dtype=torch.uint8, generator=random)
    assert side_by_side.copied_share(training[:50], training, others) == 1.0
    assert side_by_side.copied_share(others[:50], training, others) == 0.0
    with pytest.raises(ValueError, match="equally large"):
        side_by_side.copied_share(training[:50], training, others[:200])
    distance = side_by_side.nearest_distance(training[:2] // 2, torch.zeros_like(training[:1]))
    expected = (training[:2] // 2).flatten(1).double().norm(dim=1)
    assert distance.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


BEST = "test_the_best_family_and_whether_all_its_seeds_are_better"
BEATEN = "test_beaten_in_both_measures"
DIGITS_FAULTS = [
    page("the average forgets too quickly", "share = 1 / (10 + step / 5)", "share = 1 / (10 + step / 50)"),
    page("the average leaves the run's beginning in it", "share = 1 / (10 + step / 5)", "share = 1 / (10 + step)"),
    page("the average follows the step before", "kept.lerp_(new, share)", "kept.lerp_(new, 1 - share)"),
    page("the rate rises for ever", "return min(1.0, step / 30)", "return step / 30", "test_the_rate_rises_and_stays"),
    page(
        "the clock counts steps",
        "while time.process_time() - began < seconds:",
        "while step < seconds:",
        "test_the_clock_stops_and_the_average_learns",
    ),
    page(
        "a probability for the start too",
        "logits = tiny_gpt(tokens[:, :-1])[..., :2]",
        "logits = tiny_gpt(tokens[:, :-1])",
    ),
    page("a pixel sees itself", "logits = tiny_gpt(tokens[:, :-1])", "logits = tiny_gpt(tokens[:, 1:])"),
    page("the integral without its width", ".exp() * (grid[1] - grid[0])", ".exp() * (0 * grid[1] + 0.01)"),
    page("the bound with its sign turned", "sums[K] = bound.exp()", "sums[K] = (-bound).exp()"),
    page("the mixture takes the model half the time", "mixed = 0.01 * log_p.exp()", "mixed = 0.001 * log_p.exp()"),
    page("copies counted the wrong way round", "(to_training < to_others)", "(to_training > to_others)"),
    page("copies by the farthest digit", "for some in others.split(5000)]\n    return torch.stack(parts).amin(dim=0)",
         "for some in others.split(5000)]\n    return torch.stack(parts).amin(dim=0) * 0 + parts[0].amax()"),
    page("two sets of unequal size", "if len(training) != len(kept_away):", "if len(training) < len(kept_away):",
         "test_copies_are_nearer_to_what_was_copied"),
    panel("the best is the worst", "winner = min(means, key=means.get)", "winner = max(means, key=means.get)", BEST),
    panel("clear by the best seed", "worst = max(sign * value for", "worst = min(sign * value for", BEST),
    panel("beaten in one measure is enough", "if all(better):", "if any(better):", BEATEN),
]  # fmt: skip


# ---------------------------------------------------------------- exercises and faults


def test_the_exercises_can_be_solved():
    assert run_exercises(tools.ROOT / "notebooks" / NAME) == 0


FAULTS = [] + TRUTH_FAULTS + DIGITS_FAULTS
