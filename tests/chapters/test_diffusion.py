"""04_diffusion: schedules, samplers, losses and networks, their panels, exercises, seeded faults."""

import copy
import math
import re
from functools import partial

import numpy as np
import pytest
import torch

import tools
from aigc_helpers import panels
from aigc_helpers.data import load_digits, to_signed, toy_modes
from aigc_helpers.models import diffusion
from aigc_helpers.models.gpt_beyond import Muon
from tests.notebook_cells import NOTEBOOKS, run_cell
from tests.panel_checks import answers_within, moved_together, picture, use_every_control
from tests.seeded_faults import in_notebook, in_panels

NAME = "04_diffusion.ipynb"
NAN = math.nan


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small_unet(dtype=None):
    """A U-Net with few channels, and no zeros where a new one has them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = diffusion.UNet(8).eval()
        for weight in net.parameters():
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.05)
    return net if dtype is None else net.to(dtype)


STRAIGHT = diffusion.make_path("straight")
PICTURES = torch.rand(4, 1, 28, 28, generator=seeded()) * 2 - 1
LABELS = torch.tensor([0, 3, 9, diffusion.NO_LABEL])


# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize("schedule", diffusion.SCHEDULES)
def test_a_schedule_is_the_same_curve_for_any_number_of_levels(schedule):
    long = diffusion.make_path(schedule)
    short = diffusion.make_path(schedule, 100)
    assert len(long.signal) == 1001 and len(short.noise) == 101
    assert (long.signal[0], long.noise[0]) == (1, 0)
    assert long.signal[-1] < 0.1 and long.noise[-1] > 0.99
    torch.testing.assert_close(short.signal, long.signal[::10], rtol=0, atol=0.03)
    assert (long.signal.diff() < 0).all() and (long.noise.diff() > 0)[:-1].all()
    if schedule != "straight":  # no step takes more than 0.999 of the variance, the last one neither
        kept = (long.signal[1:].double() / long.signal[:-1].double()).square()
        assert kept.min() > 0.0009


@pytest.mark.parametrize("num_levels", [1, 2, 3, 5, 10, 19, 20, 21, 999, 1001, 2000])
@pytest.mark.parametrize("schedule", diffusion.SCHEDULES)
def test_any_number_of_levels_goes_from_data_to_noise(schedule, num_levels):
    path = diffusion.make_path(schedule, num_levels)
    assert path.signal.shape == path.noise.shape == (num_levels + 1,)
    assert path.signal.isfinite().all() and path.noise.isfinite().all()
    assert path.signal[0] == 1 and path.noise[0] == 0
    assert (path.signal.diff() < 0).all() and path.signal[-1] < 0.1 and path.noise[-1] > 0.99


def test_the_linear_schedule_is_that_of_the_paper():
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    found = diffusion.alpha_bars("linear")
    assert found[0] == 1
    torch.testing.assert_close(found[1:], (1 - beta).cumprod(0), rtol=1e-10, atol=0)


@pytest.mark.parametrize("num_levels", [0, -1, 2.5, NAN, True, None, "10"])
@pytest.mark.parametrize("schedule", diffusion.SCHEDULES)
def test_no_levels_get_one_message(schedule, num_levels):
    with pytest.raises(ValueError, match="num_levels must be a whole number of at least 1"):
        diffusion.make_path(schedule, num_levels)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'cosin'.*cosine"):
        diffusion.make_path("cosin")
    with pytest.raises(ValueError, match="'epsilon'.*noise"):
        diffusion.target_of("epsilon", 0, 0, 1, 1)
    with pytest.raises(ValueError, match="'epsilon'.*noise"):
        diffusion.read("epsilon", 0, 0, 1, 1)


# ---------------------------------------------------------------- one jump


def test_level_0_is_the_data_and_level_T_the_end():
    x0 = torch.randn(3, 2, generator=seeded())
    eps = torch.randn(3, 2, generator=seeded(1))
    assert torch.equal(diffusion.diffuse(x0, 0, eps, STRAIGHT), x0)
    assert torch.equal(diffusion.diffuse(x0, 1000, eps, STRAIGHT), eps)
    together = diffusion.diffuse(x0, torch.tensor([0, 500, 1000]), eps, STRAIGHT)
    wanted = torch.stack([x0[0], 0.5 * x0[1] + 0.5 * eps[1], eps[2]])
    torch.testing.assert_close(together, wanted)


@pytest.mark.parametrize("t", [-1, 1001, 0.5, torch.tensor([1, 2]), torch.tensor([1, 2, -3])])
def test_levels_that_are_none_are_refused(t):
    x0 = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="level: t must be a whole number from 0 to 1000"):
        diffusion.diffuse(x0, t, x0, STRAIGHT)


def test_data_and_noise_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"same shape, got \(3, 2\) and \(1, 2\)"):
        diffusion.diffuse(torch.zeros(3, 2), 5, torch.zeros(1, 2), STRAIGHT)
    with pytest.raises(ValueError, match=r"same shape, got \(3, 2\) and \(2,\)"):
        diffusion.step_back(torch.zeros(3, 2), torch.zeros(2), STRAIGHT, 5, 4)


def test_the_exact_guess_is_refused_where_there_is_no_noise():
    centres, sigma = toy_modes("ring")
    with pytest.raises(ValueError, match="t must be at least 1"):
        diffusion.mixture_guess(torch.zeros(3, 2), 0, STRAIGHT, centres, sigma)


# ---------------------------------------------------------------- targets and losses


@pytest.mark.parametrize(("target", "a", "n"), [("noise", 0.0, 1.0), ("data", 1.0, 0.0)])
def test_a_prediction_that_cannot_be_read_is_refused(target, a, n):
    """Divided by 0 it would be NaN: noise at the end of the straight path, data at level 0."""
    with pytest.raises(ValueError, match=f"predicts {target} is of no use"):
        diffusion.read(target, torch.ones(2), torch.ones(2), torch.tensor(a), torch.tensor(n))
    denoise = diffusion.guesser(lambda x, t: x, STRAIGHT, target)
    with pytest.raises(ValueError, match=f"predicts {target} is of no use"):
        denoise(torch.ones(2, 2), 1000 if target == "noise" else 0)


def test_the_loss_draws_every_level_but_the_data():
    seen = []

    def net(x, t):
        seen.append(t)
        return 0 * x

    path = diffusion.make_path("linear", 20)
    diffusion.denoising_loss(net, torch.zeros(50_000, 1), path, "noise", seeded())
    assert sorted(set(seen[0].tolist())) == list(range(1, 21))


def test_the_levels_in_the_middle_come_more_often_if_asked():
    for middle, share in ((False, 0.5), (True, 0.728)):  # logistic-normal: 2 Phi(log 3) - 1
        t = diffusion.draw_levels(100_000, 1000, middle, seeded())
        assert t.min() >= 1 and t.max() <= 1000 and t.dtype == torch.int64
        assert abs(((t > 250) & (t <= 750)).float().mean() - share) < 0.01


def test_the_loss_takes_the_same_level_for_picture_and_target():
    path = diffusion.make_path("cosine")
    x0 = torch.full((400, 2), 0.7)

    def right(x, t):
        a = diffusion.level(path.signal, t, x)
        n = diffusion.level(path.noise, t, x)
        return diffusion.target_of("v", x0, (x - a * x0) / n, a, n)

    assert diffusion.denoising_loss(right, x0, path, "v", seeded()) < 1e-6


def test_the_bound_of_one_gaussian_is_just_above_its_entropy():
    path = diffusion.make_path("cosine", 200)
    alpha_bar = diffusion.alpha_bars("cosine", 200)
    centre = torch.zeros(1, 3)
    x0 = torch.randn(4000, 3, generator=seeded())

    def exact(x, t):
        return diffusion.mixture_guess(x, t, path, centre, 1.0)

    found = diffusion.bound_terms(exact, x0, path, alpha_bar, seeded(1))
    entropy = 1.5 * math.log(2 * math.pi * math.e)
    # The true step back has this much more variance than eq. (5).
    ratio = (1 - alpha_bar[2:]) / (1 - alpha_bar[1:-1])
    gap = 3 * 0.5 * (ratio - 1 - ratio.log()).sum().item()
    assert found[0] < 1e-3 and abs(sum(found) - entropy - gap) < 0.1


def test_a_tenth_of_the_labels_is_dropped():
    label = torch.arange(100_000) % 10
    dropped = diffusion.drop_labels(label, generator=seeded())
    gone = dropped == diffusion.NO_LABEL
    assert abs(gone.float().mean() - 0.1) < 0.01 and torch.equal(dropped[~gone], label[~gone])
    assert torch.equal(dropped, diffusion.drop_labels(label, generator=seeded()))
    assert torch.equal(diffusion.drop_labels(label, 0.0), label)
    assert (diffusion.drop_labels(label, 1.0) == diffusion.NO_LABEL).all()


def test_a_toy_run_learns_repeats_itself_and_leaves_other_random_numbers_alone():
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    one, two = diffusion.ToyRun(), diffusion.ToyRun()
    assert torch.equal(torch.rand(2), wanted)
    one.train(400)
    for _ in range(4):
        two.train(100)
    assert one.losses == two.losses and len(one.losses) == 400
    assert np.mean(one.losses[-50:]) < 0.95 * np.mean(one.losses[:20])
    with pytest.raises(ValueError, match="total must be"):
        diffusion.ToyRun(total=0)


# ---------------------------------------------------------------- samplers


@pytest.mark.parametrize("settings", [{}, {"eta": 1.0}, {"heun": True}])
def test_a_walk_with_the_right_answer_ends_on_it(settings):
    x0 = torch.randn(6, 2, generator=seeded())

    def guess(x, t):
        return x0, (x - STRAIGHT.signal[t] * x0) / STRAIGHT.noise[t]

    noise = torch.randn(6, 2, generator=seeded(1))
    walk = diffusion.sample(guess, noise, STRAIGHT, 7, generator=seeded(2), keep=True, **settings)
    assert len(walk) == 8
    torch.testing.assert_close(walk[-1], x0, rtol=0, atol=1e-5)


def test_a_walk_goes_down_by_at_least_one_level_a_step():
    for start in (*range(1, 40), 999, 1000, 2000):
        for num_steps in {1, 2, 3, start // 3, start // 2, start - 1, start} & {
            *range(1, start + 1)
        }:
            levels = diffusion.sampling_levels(start, num_steps)
            assert levels[0] == start and levels[-1] == 0 and len(levels) == num_steps + 1
            assert all(s < t for t, s in zip(levels, levels[1:], strict=False))


def never(x, t):
    raise AssertionError("nothing is to be denoised")


def zero_guess(x, t):
    return 0 * x, x / STRAIGHT.noise[t]


@pytest.mark.parametrize("num_steps", [1, 20, 1000])
@pytest.mark.parametrize("settings", [{}, {"eta": 1.0}, {"heun": True}])
def test_from_level_0_there_is_nowhere_to_go(num_steps, settings):
    """0 is a level, and not "no level was given"."""
    x = torch.randn(3, 2, generator=seeded())
    assert diffusion.sample(never, x, STRAIGHT, num_steps, start=0, **settings) is x
    kept = diffusion.sample(never, x, STRAIGHT, num_steps, start=0, keep=True, **settings)
    assert len(kept) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "num_steps.* from 1 to 1000, got 0"),
        ({"num_steps": -1}, "num_steps.* got -1"),
        ({"num_steps": 1001}, "num_steps, at most one a level, .* got 1001"),
        ({"num_steps": 2.5}, "num_steps.* got 2.5"),
        ({"num_steps": NAN}, "num_steps.* got nan"),
        ({"num_steps": 11, "start": 10}, "num_steps.* from 1 to 10, got 11"),
        ({"start": -1}, "start must be a whole number from 0 to 1000, got -1"),
        ({"start": 1001}, "start must be .* got 1001"),
        ({"start": 0.5}, "start must be .* got 0.5"),
        ({"eta": -0.1}, "eta must be a finite number from 0 to 1, got -0.1"),
        ({"eta": 1.1}, "eta must be a finite number from 0 to 1, got 1.1"),
        ({"eta": NAN}, "eta must be a finite number from 0 to 1, got nan"),
        ({"eta": 0.5, "heun": True}, "eta must be 0, got 0.5"),
    ],
)
def test_settings_of_the_sampler_beyond_their_bounds_get_one_message(settings, message):
    settings = {"num_steps": 5} | settings
    with pytest.raises(ValueError, match=message):
        diffusion.sample(zero_guess, torch.zeros(3, 2), STRAIGHT, **settings)


@pytest.mark.parametrize(
    "settings", [{"num_steps": 1}, {"num_steps": 1000}, {"start": 1, "num_steps": 1}]
)
@pytest.mark.parametrize("eta", [0, 1])
def test_settings_at_their_bounds_are_fine(settings, eta):
    settings = {"num_steps": 5, "eta": eta, "generator": seeded()} | settings
    found = diffusion.sample(zero_guess, torch.ones(3, 2), STRAIGHT, **settings)
    torch.testing.assert_close(found, torch.zeros(3, 2))


@pytest.mark.parametrize(("t", "s"), [(5, 5), (5, 6), (0, 0), (1001, 3), (5, -1)])
def test_a_step_back_goes_down(t, s):
    with pytest.raises(ValueError, match="posterior_std: [ts].* must be a whole number"):
        diffusion.step_back(torch.zeros(2), torch.zeros(2), STRAIGHT, t, s)


@pytest.mark.parametrize(("num_evals", "heun_steps"), [(1, 1), (2, 1), (5, 3), (10, 5), (19, 10)])
def test_a_sampler_never_takes_more_evaluations_than_it_may(num_evals, heun_steps):
    for settings in diffusion.SAMPLERS.values():
        num_steps = diffusion.steps_for(num_evals, **settings)
        assert num_steps == (heun_steps if settings.get("heun") else num_evals)
        seen = []

        def guess(x, t, seen=seen):
            seen.append(t)
            return zero_guess(x, t)

        x = torch.ones(1, 2)
        diffusion.sample(guess, x, STRAIGHT, num_steps, generator=seeded(), **settings)
        assert num_evals - 1 <= len(seen) <= num_evals
    with pytest.raises(ValueError, match="num_evals"):
        diffusion.steps_for(0)


# ---------------------------------------------------------------- the U-Net, and what it draws


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_networks_of_another_precision_can_be_called_directly(dtype):
    t = torch.tensor([1, 250, 600, 1000])
    for given in (PICTURES, PICTURES.to(dtype)):
        found = small_unet(dtype)(given, t, LABELS)
        assert found.dtype == dtype
        torch.testing.assert_close(
            found.float(), small_unet()(PICTURES, t, LABELS), rtol=0.1, atol=0.1
        )
    toy = diffusion.ToyDenoiser()
    points = torch.randn(4, 2, generator=seeded())
    wanted = toy(points, t)
    found = copy.deepcopy(toy).to(dtype)(points.to(dtype), t)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, rtol=0.1, atol=0.05)


@pytest.mark.parametrize(
    ("x", "t", "label"),
    [
        (PICTURES.flatten(1), torch.ones(4).long(), LABELS),
        (PICTURES, torch.ones(3).long(), LABELS),
        (PICTURES, torch.ones(4).long(), LABELS[:1]),
        (PICTURES, torch.tensor(5), LABELS),
        (PICTURES[..., :27], torch.ones(4).long(), LABELS),
    ],
)
def test_the_unet_refuses_shapes_that_disagree(x, t, label):
    with pytest.raises(ValueError, match="UNet: needs pictures .* got"):
        small_unet()(x, t, label)


def test_a_unet_reads_every_picture_alone_and_every_label():
    net = small_unet()
    t = torch.full((4,), 500)
    with torch.no_grad():
        found = net(PICTURES, t, LABELS)
        alone = torch.cat([net(PICTURES[k : k + 1], t[:1], LABELS[k : k + 1]) for k in range(4)])
        other = net(PICTURES, t, (LABELS + 1) % 11)
    torch.testing.assert_close(found, alone, rtol=1e-3, atol=1e-4)
    assert (found - other).abs().amax(dim=(1, 2, 3)).min() > 0


def test_digits_are_pictures_and_repeatable():
    net = small_unet()
    label = torch.arange(5)
    once = diffusion.draw_digits(net, label, STRAIGHT, 3, generator=seeded())
    again = diffusion.draw_digits(net, label, STRAIGHT, 3, generator=seeded())
    assert once.shape == (5, 1, 28, 28) and once.abs().max() <= 1 and torch.equal(once, again)
    walk = diffusion.draw_digits(net, label, STRAIGHT, 3, generator=seeded(), keep=True)
    assert len(walk) == 4 and torch.equal(walk[-1].clamp(-1, 1), once)


def test_label_0_is_a_label():
    net = small_unet()
    x = torch.randn(2, 1, 28, 28, generator=seeded())
    drawn = {}
    for label in (0, 5, diffusion.NO_LABEL):
        drawn[label] = diffusion.draw_digits(net, torch.full((2,), label), STRAIGHT, 2, x=x)
    assert not torch.equal(drawn[0], drawn[5])
    assert not torch.equal(drawn[0], drawn[diffusion.NO_LABEL])


@pytest.mark.parametrize("wrong", [-1, 11])
def test_labels_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="labels are 0 to 9, or 10 for none"):
        diffusion.draw_digits(small_unet(), torch.tensor([3, wrong]), STRAIGHT, 2)


def test_noise_and_labels_of_two_numbers_are_refused():
    with pytest.raises(ValueError, match="UNet: needs pictures"):
        diffusion.draw_digits(small_unet(), LABELS, STRAIGHT, 2, x=PICTURES[:3])


def test_many_digits_are_those_that_one_batch_would_be():
    net = small_unet()
    label = torch.arange(7)
    x = torch.randn(7, 1, 28, 28, generator=seeded())
    wanted = diffusion.draw_digits(net, label, STRAIGHT, 3, x=x)
    found = diffusion.draw_many(net, label, STRAIGHT, 3, "velocity", x, batch_size=3)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_no_guidance_is_the_network_itself_and_a_negative_one_leads_back():
    net = small_unet()
    t = torch.full((4,), 500)
    with torch.no_grad():
        plain = net(PICTURES, t, LABELS)
        without = net(PICTURES, t, torch.full((4,), diffusion.NO_LABEL))
        for w in (0, 0.0):
            found = diffusion.guided(net, w)(PICTURES, t, LABELS)
            torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
        found = diffusion.guided(net, -1.0)(PICTURES, t, LABELS)
        torch.testing.assert_close(found, without, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("w", [NAN, math.inf, None, "3"])
def test_a_guidance_scale_that_is_no_number_is_refused(w):
    with pytest.raises(ValueError, match="guided: w must be a finite number"):
        diffusion.guided(small_unet(), w)


def test_finish_from_a_low_level_stays_near():
    net = small_unet()
    label = torch.zeros(4).long()

    def distance(t):
        found = diffusion.finish(net, PICTURES, label, STRAIGHT, t, 5, seeded())
        return (found - PICTURES).square().mean()

    assert distance(50) < 0.02 < 0.2 < distance(900)


def test_finish_from_level_0_gives_the_picture_itself():
    for num_steps in (1, 20):
        found = diffusion.finish(small_unet(), PICTURES, LABELS, STRAIGHT, 0, num_steps)
        assert torch.equal(found, PICTURES)


@pytest.mark.parametrize("start", [1, 5, 19, 20, 1000])
def test_finish_from_a_level_below_its_steps_takes_a_step_a_level(start):
    found = diffusion.finish(small_unet(), PICTURES, LABELS, STRAIGHT, start, generator=seeded())
    assert found.isfinite().all() and found.abs().max() <= 1


@pytest.mark.parametrize(
    ("start", "num_steps"), [(-1, 20), (1001, 20), (0.5, 20), (None, 20), (500, 0), (500, -2)]
)
def test_finish_refuses_levels_and_steps_that_are_none(start, num_steps):
    with pytest.raises(ValueError, match="(start|num_steps).* must be a whole number"):
        diffusion.finish(small_unet(), PICTURES, LABELS, STRAIGHT, start, num_steps)


# ---------------------------------------------------------------- training


def test_the_optimisers_share_all_weights_and_the_rates_rise_and_fall():
    net = diffusion.UNet(8)
    opts = diffusion.optimizers(net, Muon)
    held = [id(weight) for opt in opts for group in opt.param_groups for weight in group["params"]]
    assert sorted(held) == sorted(id(weight) for weight in net.parameters())
    rates = []
    for step in range(1, 101):
        diffusion.set_rates(opts, step, 100)
        rates.append(opts[1].param_groups[0]["lr"])
    assert rates[0] < rates[9] == max(rates) == rates[49] and rates[-1] < 0.05 * max(rates)


def test_a_training_step_changes_the_weights_and_can_be_repeated():
    nets = [small_unet(), small_unet()]
    losses = []
    for net in nets:
        opts = diffusion.optimizers(net, Muon)
        random = seeded(1)
        losses.append(
            [
                diffusion.train_step(
                    net, opts, PICTURES, LABELS, STRAIGHT, "velocity", "cpu", random
                ).item()
                for _ in range(3)
            ]
        )
    assert losses[0] == losses[1] and all(map(math.isfinite, losses[0]))
    before = small_unet().state_dict()
    after = nets[0].state_dict()
    assert not torch.equal(before["enter.weight"], after["enter.weight"])
    assert not torch.equal(before["coarse1.conv1.weight"], after["coarse1.conv1.weight"])


# ---------------------------------------------------------------- exercises


IN_PLACE = {  # (exercise, right): an answer that changes what it is given
    (1, True): """def alpha_bar_from(beta):
    beta.neg_().add_(1)
    return torch.cat([torch.ones(1, dtype=beta.dtype), beta.cumprod(0)])""",
    (1, False): """def alpha_bar_from(beta):
    beta.neg_().add_(1)
    return beta.cumprod(0)""",
    (2, True): """def in_fog(x0, eps, alpha_bar):
    x0 *= alpha_bar**0.5
    eps *= (1 - alpha_bar) ** 0.5
    x0 += eps
    return x0""",
    (2, False): """def in_fog(x0, eps, alpha_bar):
    x0 *= alpha_bar**0.5
    eps *= 1 - alpha_bar
    x0 += eps
    return x0""",
    (3, True): """def adds_noise(t):
    t -= 1
    return t > 0""",
    (3, False): """def adds_noise(t):
    t -= 1
    return t >= 0""",
    (4, True): """def lead(with_label, without, w):
    with_label *= 1 + w
    without *= w
    with_label -= without
    return with_label""",
    (4, False): """def lead(with_label, without, w):
    with_label -= without
    with_label *= w
    with_label += without
    return with_label""",
    (5, True): """def drive(u, x, num_steps):
    for k in range(num_steps):
        x -= u(x, 1 - k / num_steps) / num_steps
    return x""",
    (5, False): """def drive(u, x, num_steps):
    for k in range(num_steps):
        x += u(x, 1 - k / num_steps) / num_steps
    return x""",
}


@pytest.fixture(scope="module")
def marking_space():
    """What the marks need: the set-up and the exported cells."""
    space = {"__name__": "__main__"}
    for cell in tools.code_cells(tools.read(NOTEBOOKS / NAME), "setup", "export"):
        run_cell(cell.source, space, NAME)
    return space


@pytest.mark.parametrize(("number", "right"), IN_PLACE)
def test_an_answer_that_works_in_place_is_marked_as_any_other(marking_space, number, right):
    _, mark, _ = tools.exercises(tools.read(NOTEBOOKS / NAME))[number - 1]
    run_cell(IN_PLACE[number, right], marking_space, f"answer {number}")
    printed, _ = run_cell(mark.source, marking_space, f"mark {number}")
    verdict = "correct" if right else "not yet"
    assert printed.startswith(f"Exercise {number}: {verdict}"), printed


# ---------------------------------------------------------------- panels


@pytest.fixture(scope="module")
def digits():
    return load_digits("test", n=120, verbose=False)


@pytest.fixture(scope="module")
def toy_run():
    run = diffusion.ToyRun(total=60)
    run.train(60)
    return run


@pytest.fixture
def makers(digits, toy_run):
    """What makes each panel of the page, with models that are hardly trained."""
    net = small_unet()
    scales = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
    album = {w: torch.rand(100, 1, 28, 28, generator=seeded(int(2 * w))) for w in scales}
    accuracy = [0.5, 0.6, 0.7, 0.8, 0.9, 0.8]
    variety = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    return {
        "forward_process": panels.diffusion.forward_process,
        "trajectories": lambda: panels.diffusion.trajectories(toy_run),
        "denoised_estimate": lambda: panels.diffusion.denoised_estimate(net, digits),
        "sampling_steps": lambda: panels.diffusion.sampling_steps(net),
        "guidance_scale": lambda: panels.diffusion.guidance_scale(album, accuracy, variety),
        "draw_and_finish": lambda: panels.diffusion.draw_and_finish(net, digits),
    }


each_panel = pytest.mark.parametrize(
    "name",
    (
        "forward_process",
        "trajectories",
        "denoised_estimate",
        "sampling_steps",
        "guidance_scale",
        "draw_and_finish",
    ),
)


def status(panel):
    """The status line as text."""
    return re.sub("<[^>]*>", "", panel.status.value)


@each_panel
def test_every_control_and_button_draws_once_and_all_can_be_read(makers, name):
    use_every_control(makers[name]())


@each_panel
@pytest.mark.exhaustive
def test_two_panels_of_a_kind_moved_at_once_draw_what_each_would_alone(makers, name):
    assert moved_together(makers[name]) == 0


@each_panel
def test_a_storyboard_is_the_same_each_time_and_the_page_is_left_alone(makers, name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = makers[name]()
    again = makers[name]()
    assert torch.equal(torch.get_rng_state(), before)
    assert first._storyboard == again._storyboard
    assert first.picture.value == again.picture.value and first.values == again.values


@each_panel
def test_a_panel_answers_within_150_ms(makers, name):
    panel = makers[name]()
    for key, control in panel.controls.items():
        start = panel.values[key]
        other = control.options[-1][1] if hasattr(control, "options") else control.max
        for value in (other, start):
            assert answers_within(panel, 150, **{key: value}), f"{key}: {value}"


def test_the_dearest_trajectories_answer_within_150_ms(makers):
    panel = makers["trajectories"]()
    panel.set(num_steps=49)
    assert any(
        answers_within(panel, 150, tries=1, sampler="ODE by Heun", num_steps=50, eta=eta)  # each asks for new trajectories
        for eta in (0.1, 0.2, 0.3)
    )


def test_a_panel_owns_its_model(digits):
    net = small_unet().train()
    panel = panels.diffusion.denoised_estimate(net, digits)
    shown = panel.picture.value
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
    panel.redraw()
    assert panel.picture.value == shown and net.training


def test_the_forward_process_says_how_much_is_data():
    panel = panels.diffusion.forward_process()
    panel.set(t=0)
    assert "x = 1.000 digit + 0.000 noise" in status(panel)
    panel.set(t=500, schedule="straight")
    assert "x = 0.500 digit + 0.500 noise" in status(panel)
    panel.set(t=1000)
    assert "x = 0.000 digit + 1.000 noise" in status(panel)


def test_trajectories_train_a_network_of_their_own(makers, toy_run):
    panel = makers["trajectories"]()
    assert "Training step 60." in status(panel)
    panel.play.value += 1
    assert "Training step 80." in status(panel) and len(toy_run.losses) == 60
    panel.set(denoiser="exact score")
    panel.buttons["New network"].click()
    assert panel.values["denoiser"] == "network" and "Training step 0." in status(panel)
    before = picture(panel)
    panel.play.value += 1
    assert "Training step 20." in status(panel) and panel.error is None
    assert not np.array_equal(before, picture(panel))


def test_trajectories_end_on_the_ring_with_the_exact_score(makers):
    panel = makers["trajectories"]()
    panel.set(denoiser="exact score", num_steps=50, eta=1.0)
    assert int(re.search(r"at the end (\d+) %", status(panel))[1]) > 90
    panel.set(num_steps=2)
    assert int(re.search(r"at the end (\d+) %", status(panel))[1]) < 90
    panel.set(sampler="ODE by Heun", num_steps=10)
    assert "19 network evaluations" in status(panel)
    panel.set(sampler="DDPM / DDIM (eta)")
    assert "10 network evaluations" in status(panel)


def test_guidance_goes_from_no_label_through_the_label_and_on():
    """Eq. (16) by hand: a network that answers its label, and 100 without one."""

    def net(x, t, label):
        answer = torch.where(label == diffusion.NO_LABEL, 100.0, label.float())
        return answer.view(-1, 1, 1, 1) + 0 * x

    x = torch.zeros(3, 1, 2, 2)
    label = torch.tensor([0, 4, 9])
    for w, wanted in ((0.0, [0, 4, 9]), (1.0, [-100, -92, -82]), (-1.0, [100, 100, 100])):
        got = diffusion.guided(net, w)(x, torch.tensor([5, 5, 5]), label)
        torch.testing.assert_close(got[:, 0, 0, 0], torch.tensor(wanted).float())


def test_the_error_of_the_estimate_is_that_of_the_network(digits):
    """A network whose velocity is 1 everywhere takes the digit to be x_t - n_t: eq. (8)."""
    net = small_unet()
    torch.nn.init.zeros_(net.leave.weight)
    torch.nn.init.ones_(net.leave.bias)
    panel = panels.diffusion.denoised_estimate(net, digits)
    panel.set(t=500, number=3)
    x0 = to_signed(digits.images[3:4])
    noise = torch.randn(x0.shape, generator=seeded())
    wanted = (0.5 * x0 + 0.5 * noise - 0.5 - x0).square().mean()
    assert f"Squared error of the estimated digit: {wanted:.3f}." in status(panel)


def test_with_a_known_answer_all_samplers_draw_it_at_any_number_of_steps():
    """The network always means the same picture, so nothing is left to chance at the end."""

    class Known(torch.nn.Module):
        def forward(self, x, t, label):
            tau = (t / 1000).view(-1, 1, 1, 1)
            return (x - 0.5) / tau

    panel = panels.diffusion.sampling_steps(Known())
    for sampler in ("DDIM", "Heun", "DDPM"):
        panel.set(sampler=sampler)
        assert "0.00 (5 NFE), 0.00 (10 NFE), 0.00 (20 NFE)" in status(panel)


def test_new_noise_draws_other_digits(makers):
    panel = makers["sampling_steps"]()
    before = picture(panel)
    panel.buttons["New noise (about 3 s)"].click()
    assert panel.error is None and not np.array_equal(before, picture(panel))


def test_the_guidance_scale_shows_the_digit_and_the_share_of_its_scale(makers):
    panel = makers["guidance_scale"]()
    panel.set(w=0.0)
    assert "Read as ordered: 50 %; variety 100 %" in status(panel)
    panel.set(w=8.0)
    assert "Read as ordered: 80 %; variety 50 %" in status(panel)


def test_what_was_finished_is_shown_only_for_the_controls_it_was_made_for(makers):
    panel = makers["draw_and_finish"]()
    assert "Six results as a 7" in status(panel)
    shown = picture(panel)
    panel.buttons["Finish"].click()
    assert "Six results" in status(panel) and not np.array_equal(shown, picture(panel))
    panel.set(t=500)
    assert "Press Finish" in status(panel)
    panel.set(t=700)
    assert "Six results" in status(panel)
    panel.set(label=None)
    panel.buttons["Finish"].click()
    assert "Six results without a label" in status(panel)


def test_finished_from_level_0_the_digit_comes_back(digits, monkeypatch):
    seen = []
    draw = panels.diffusion.plotting.draw_images

    def watch(ax, images, ncols, title):
        seen.append(images)
        draw(ax, images, ncols, title)

    panel = panels.diffusion.draw_and_finish(small_unet(), digits)
    monkeypatch.setattr(panels.diffusion.plotting, "draw_images", watch)
    panel.set(t=0, number=5, label=0)
    panel.buttons["Finish"].click()
    given, results = seen[-2:]
    assert torch.equal(given[0], given[1]) and torch.equal(results, given[:1].expand_as(results))


def test_label_0_is_not_the_lack_of_a_label(digits, monkeypatch):
    wanted = []

    def watch(net, x0, label, *rest, **settings):
        wanted.append(label.tolist())
        return x0

    panel = panels.diffusion.draw_and_finish(small_unet(), digits)
    monkeypatch.setattr(diffusion, "finish", watch)
    for label in (0, None, 9):
        panel.set(label=label)
        panel.buttons["Finish"].click()
    assert wanted == [[0] * 6, [diffusion.NO_LABEL] * 6, [9] * 6]


def test_the_digit_to_start_with_is_a_one(digits):
    panel = panels.diffusion.draw_and_finish(small_unet(), digits)
    assert digits.labels[panel.values["number"]] == 1


# ---------------------------------------------------------------- seeded faults

page = partial(in_notebook, NAME)
panel_fault = partial(in_panels, "diffusion")

FAULTS = [
    page(
        "alpha_bar off by one: level 0 has noise",
        "F.pad((1 - beta).cumprod(0), (1, 0), value=1.0)",
        "F.pad((1 - beta).cumprod(0), (0, 1), value=0.0)",
    ),
    page(
        "noise scaled by its variance",
        "return Path(alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float())",
        "return Path(alpha_bar.sqrt().float(), (1 - alpha_bar).float())",
    ),
    page(
        "the jump takes the noise of the level before",
        "level(path.noise, t, x0) * eps",
        "level(path.noise, (torch.as_tensor(t) - 1).clamp(min=0), x0) * eps",
    ),
    page(
        "linear schedule not scaled to the number of levels",
        "position = 1000 * t",
        "position = ((len(t) - 1) * t).clamp(max=1000)",
        "test_a_schedule_is_the_same_curve_for_any_number_of_levels",
    ),
    page(
        "the last step of a schedule takes all that is left",
        ".clamp(max=0.999)",
        "",
        "test_a_schedule_is_the_same_curve_for_any_number_of_levels",
    ),
    page(
        "a level below 0 counts from the end",
        "if not fits or ((t < 0) | (t > top)).any():",
        "if not fits or (t > top).any():",
        "test_levels_that_are_none_are_refused",
    ),
    page(
        "a mixture's offers weighted by the wrong width",
        "(a * sigma).square() + n.square()",
        "(a * sigma).square() + n",
    ),
    page(
        "Tweedie without the pull of the centre",
        "centres + (a * sigma**2 / variance)",
        "centres + (sigma**2 / variance)",
    ),
    page(
        "width of a step: noise of the wrong level",
        "left = path.signal[t] / path.signal[s] * path.noise[s]",
        "left = path.signal[t] / path.signal[s] * path.noise[t]",
    ),
    page(
        "noise on the last step",
        "    if s == 0 or eta == 0:\n        return x  ",
        "    std = std + 0.1 * (s == 0)\n    if eta == 0:\n        return x  ",
    ),
    page(
        "DDIM: wrong sign of the direction",
        "clamp_min(0).sqrt() * eps\n    if s == 0",
        "clamp_min(0).sqrt() * -eps\n    if s == 0",
    ),
    page(
        "fresh noise on top of the old",
        "(path.noise[s].square() - std.square())",
        "path.noise[s].square()",
    ),
    page(
        "more fresh noise than there is",
        'require_number("step_back", "eta", eta, 0, 1)',
        'require_number("step_back", "eta", eta, 0)',
        "test_settings_of_the_sampler_beyond_their_bounds_get_one_message",
    ),
    page(
        "Heun: walks from the wrong end",
        "new = x + (path.signal[s] - path.signal[t]) * x0 + (path",
        "new = new + (path.signal[s] - path.signal[t]) * x0 + (path",
    ),
    page("Heun: the second look at the old level", "guess(new, s)", "guess(new, t)"),
    page(
        "a start at level 0 is taken for none",
        "start = top if start is None else start",
        "start = start or top",
        "test_from_level_0_there_is_nowhere_to_go",
    ),
    page(
        "more steps than levels",
        'at most one a level,", num_steps, 1, start)',
        'at most one a level,", num_steps, 1)',
        "test_settings_of_the_sampler_beyond_their_bounds_get_one_message",
    ),
    page(
        "time embedding constant",
        "angle = t[:, None].float() * frequency",
        "angle = 0 * t[:, None].float() * frequency",
    ),
    page("v with its sign turned", '"v": a * eps - n * x0', '"v": a * eps + n * x0'),
    page(
        "v read as if it were turned",
        "(n * x + a * out) / (a * a + n * n)",
        "(n * x - a * out) / (a * a + n * n)",
    ),
    page(
        "velocity: towards the data instead of away",
        '"velocity": eps - x0}',
        '"velocity": x0 - eps}',
    ),
    page(
        "noise is read where no data are left",
        'target == "noise" and not a.all()',
        'target == "noise" and not n.all()',
        "test_a_prediction_that_cannot_be_read_is_refused",
    ),
    page(
        "loss: level 0 is drawn, level T is not",
        "torch.randint(1, num_levels + 1, (n,)",
        "torch.randint(0, num_levels, (n,)",
        "test_the_loss_draws_every_level_but_the_data",
    ),
    page(
        "levels in the middle are not preferred",
        "torch.sigmoid(torch.randn(n, generator=generator))",
        "torch.rand(n, generator=generator)",
        "test_the_levels_in_the_middle_come_more_often_if_asked",
    ),
    page(
        "weights of the bound: shifted by a level",
        "0.5 * (snr[1:-1] - snr[2:]) / snr[2:]",
        "0.5 * (snr[1:-1] - snr[2:]) / snr[1:-1]",
    ),
    page(
        "bound: the end is forgotten",
        "    return end, middle, last",
        "    return 0 * end, middle, 0 * last",
        "test_the_bound_of_one_gaussian_is_just_above_its_entropy",
    ),
    page(
        "block: no zero at the start",
        "        nn.init.zeros_(self.conv2.weight)  # at the start a block passes on what it is given\n",
        "",
    ),
    page(
        "U-Net deaf to its label",
        "self.time(time_embedding(t).to(dtype)) + self.label(label)",
        "self.time(time_embedding(t).to(dtype)) + 0 * self.label(label)",
    ),
    page(
        "U-Net deaf to its level",
        "self.time(time_embedding(t).to(dtype)) + self.label(label)",
        "self.time(0 * time_embedding(t).to(dtype)) + self.label(label)",
    ),
    page(
        "U-Net in float32 only",
        "self.time(time_embedding(t).to(dtype)) + self.label(label)",
        "self.time(time_embedding(t)) + self.label(label)",
        "test_networks_of_another_precision_can_be_called_directly",
    ),
    page(
        "guidance swapped",
        "return with_label + w * (with_label - without)",
        "return without + w * (with_label - without)",
        "test_guidance_goes_from_no_label_through_the_label_and_on",
    ),
    page(
        "guidance: the halves swapped",
        "with_label, without = both.chunk(2)",
        "without, with_label = both.chunk(2)",
        "test_guidance_goes_from_no_label_through_the_label_and_on",
    ),
    page(
        "guidance by NaN",
        'require_number("guided", "w", w)',
        "pass",
        "test_a_guidance_scale_that_is_no_number_is_refused",
    ),
    page(
        "labels are never dropped",
        ".to(label.device) < share",
        ".to(label.device) < 0 * share",
        "test_a_tenth_of_the_labels_is_dropped",
    ),
    page(
        "finish starts from the clean picture's level",
        "x=x, start=start, eta=1.0",
        "x=x, start=None, eta=1.0",
        "test_finish_from_a_low_level_stays_near",
    ),
    page(
        "mark 2 takes the square root away",
        "0.6 * x0 + 0.8 * eps)",
        "0.6 * x0 + 0.64 * eps)",
        "exercises",
    ),
    page("mark 5 forgets the direction", "eps * math.exp(-2)", "eps * math.exp(2)", "exercises"),
    panel_fault(
        "forward process: the noise's seed is not used",
        "_draw_noise_like(x0, seed), paths[schedule]",
        "_draw_noise_like(x0), paths[schedule]",
        "test_every_control_and_button_draws_once_and_all_can_be_read",
    ),
    panel_fault(
        "forward process: the noise of another level",
        "noise = paths[schedule].noise[t]",
        "noise = paths[schedule].noise[t - 1]",
        "test_the_forward_process_says_how_much_is_data",
    ),
    panel_fault(
        "trajectories: the page's network is trained",
        "self.run = copy.deepcopy(run)",
        "self.run = run",
        "test_trajectories_train_a_network_of_their_own",
    ),
    panel_fault(
        "trajectories: those of another eta are kept",
        "asked = (heun, eta, num_steps",
        "asked = (heun, num_steps",
        "test_every_control_and_button_draws_once_and_all_can_be_read",
    ),
    panel_fault(
        "trajectories: Heun's last step counts double",
        "2 * num_steps - 1 if sampler == HEUN",
        "2 * num_steps if sampler == HEUN",
        "test_trajectories_end_on_the_ring_with_the_exact_score",
    ),
    panel_fault(
        "denoised estimate: the error of the noise",
        "error = _mean_square(estimate - x0)",
        "error = _mean_square(noise - x0)",
        "test_the_error_of_the_estimate_is_that_of_the_network",
    ),
    panel_fault(
        "sampling steps: new noise is the old one",
        "noise = torch.randn(10, 1, 28, 28, generator=generator)",
        "noise = torch.randn(10, 1, 28, 28, generator=_seeded(7))",
        "test_new_noise_draws_other_digits",
    ),
    panel_fault(
        "guidance scale: variety against the wrong scale",
        "value / variety[0]",
        "value / variety[-1]",
        "test_the_guidance_scale_shows_the_digit_and_the_share_of_its_scale",
    ),
    panel_fault(
        "draw and finish: label 0 is taken for none",
        "NO_LABEL if label is None else label)",
        "label or NO_LABEL)",
        "test_label_0_is_not_the_lack_of_a_label",
    ),
    panel_fault(
        "draw and finish: results of other settings are shown",
        'if state["made_for"] != (number, t, label):',
        'if state["results"] is None:',
        "test_what_was_finished_is_shown_only_for_the_controls_it_was_made_for",
    ),
]
