"""04_diffusion: schedules, samplers, losses and networks, their panels, exercises, seeded faults."""

import copy
import math
import re
from functools import partial

import ipywidgets
import numpy as np
import pytest
import torch

from aigc_helpers import panels
from aigc_helpers.data import load_digits, to_signed, toy_2d, toy_modes
from aigc_helpers.metrics import load_features
from aigc_helpers.models import diffusion
from aigc_helpers.models.vae import ConvVAE
from aigc_helpers.panels import pad
from aigc_helpers.weights import read_experiment
from tests.marking import assert_marked
from tests.panel_checks import (
    answers_within,
    check_drawing,
    moved_together,
    picture,
    use_every_control,
)
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


SCHEDULES = {name: diffusion.make_schedule(name) for name in diffusion.SCHEDULES}
FLOW = SCHEDULES["rectified flow"]
IMAGES = torch.rand(4, 1, 28, 28, generator=seeded()) * 2 - 1
LABELS = torch.tensor([0, 3, 9, diffusion.NO_LABEL])
each_schedule = pytest.mark.parametrize("name", diffusion.SCHEDULES)


# ---------------------------------------------------------------- schedules


@each_schedule
def test_a_schedule_goes_from_data_to_noise(name):
    t = torch.linspace(0, 1, 301, dtype=torch.float64)
    alpha = SCHEDULES[name].alpha(t)
    sigma = SCHEDULES[name].sigma(t)
    assert (alpha[0], sigma[0]) == (1, 0) and alpha[-1] < 0.01 and sigma[-1] > 0.9999
    assert (alpha.diff() < 0).all() and (sigma.diff() >= 0).all()
    if name != "rectified flow":
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))


@each_schedule
def test_numbers_and_tensors_give_the_same(name):
    schedule = SCHEDULES[name]
    for t in (0, 0.25, 1):
        for function in (schedule.alpha, schedule.sigma):
            torch.testing.assert_close(function(t), function(torch.tensor([float(t)]))[0])


def test_the_linear_schedule_is_that_of_the_paper():
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    found = SCHEDULES["linear"].alpha(t)
    torch.testing.assert_close(found, (1 - beta).cumprod(0).sqrt(), rtol=0, atol=2e-3)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'cosin'.*cosine"):
        diffusion.make_schedule("cosin")
    with pytest.raises(ValueError, match="'noise'.*eps"):
        diffusion.make_target("noise", 0, 0, 1, 1)
    with pytest.raises(ValueError, match="'noise'.*eps"):
        diffusion.x0_from("noise", 0, 0, 1, 1)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 50])
def test_times_are_even_and_end_at_0(num_steps):
    times = FLOW.times(num_steps, 0.8)
    assert len(times) == num_steps + 1 and times[-1] == 0 and abs(times[0] - 0.8) < 1e-6
    gaps = np.diff(times)
    assert (gaps < 0).all() and np.ptp(gaps) < 1e-6


@pytest.mark.parametrize(
    ("num_steps", "start"),
    [(0, 1.0), (2.5, 1.0), (True, 1.0), (5, -0.1), (5, 1.1), (5, NAN), (5, None)],
)
def test_times_that_make_no_sense_get_one_message(num_steps, start):
    with pytest.raises(ValueError, match="times: (num_steps|start) must be"):
        FLOW.times(num_steps, start)


# ---------------------------------------------------------------- eq. (1) to (4)


def test_time_0_is_the_data_and_time_1_the_noise():
    x0 = torch.randn(3, 2, generator=seeded())
    eps = torch.randn(3, 2, generator=seeded(1))
    assert torch.equal(diffusion.diffuse(x0, 0, eps, FLOW), x0)
    assert torch.equal(diffusion.diffuse(x0, 1, eps, FLOW), eps)
    together = diffusion.diffuse(x0, torch.tensor([0, 0.5, 1]), eps, FLOW)
    wanted = torch.stack([x0[0], 0.5 * x0[1] + 0.5 * eps[1], eps[2]])
    torch.testing.assert_close(together, wanted)


@pytest.mark.parametrize("t", [-0.1, 1.1, NAN, torch.tensor([0.1, 0.2, -0.3])])
def test_times_that_are_none_are_refused(t):
    x0 = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="diffuse: times t run from 0"):
        diffusion.diffuse(x0, t, x0, FLOW)


def test_as_many_times_as_items():
    x0 = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="like: needs one number, or 3 of them"):
        diffusion.diffuse(x0, torch.tensor([0.1, 0.2]), x0, FLOW)


def test_data_and_noise_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"same shape, got \(3, 2\) and \(1, 2\)"):
        diffusion.diffuse(torch.zeros(3, 2), 0.5, torch.zeros(1, 2), FLOW)


@each_schedule
def test_the_exact_estimate_is_the_mean_of_what_is_behind(name):
    """By brute force: the mean of the data, weighted by how well each explains x."""
    centres, width = toy_modes("ring")
    schedule = SCHEDULES[name]
    data = toy_2d("ring", 200_000, seeded())
    x = torch.tensor([[1.3, 0.4]])
    t = 0.6 if name != "linear" else 0.4
    distance = (x - schedule.alpha(t) * data).square().sum(dim=1)
    weights = (-distance / (2 * schedule.sigma(t) ** 2)).softmax(dim=0)
    found = diffusion.mixture_denoise(x, t, schedule, centres, width)
    torch.testing.assert_close(found[0], weights @ data, rtol=0, atol=0.03)


def test_shares_add_up_to_one_and_times_may_differ():
    centres, width = toy_modes("ring")
    x = torch.randn(5, 2, generator=seeded())
    t = torch.tensor([0.1, 0.3, 0.5, 0.7, 1.0])
    shares = diffusion.mixture_shares(x, t, FLOW, centres, width)
    assert shares.shape == (5, 8)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(5))
    torch.testing.assert_close(shares[4], torch.full((8,), 0.125))
    together = diffusion.mixture_denoise(x, t, FLOW, centres, width)
    for k in range(5):
        alone = diffusion.mixture_denoise(x[k : k + 1], t[k].item(), FLOW, centres, width)
        torch.testing.assert_close(together[k : k + 1], alone)


def test_there_is_no_score_without_noise():
    with pytest.raises(ValueError, match="at t = 0 there is no noise"):
        diffusion.score_from(torch.zeros(2, 2), torch.zeros(2, 2), 0, FLOW)


# ---------------------------------------------------------------- the sampler


@each_schedule
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_trajectory_with_the_right_answer_ends_on_it(name, eta):
    x0 = torch.randn(6, 2, generator=seeded())
    noise = torch.randn(6, 2, generator=seeded(1))
    found = diffusion.sample(lambda x, t: x0, noise, SCHEDULES[name], 7, eta, seeded(2), keep=True)
    assert len(found) == 8 and found[0] is noise
    torch.testing.assert_close(found[-1], x0, rtol=0, atol=1e-5)


@each_schedule
def test_steps_of_ddpm_end_on_the_ring(name):
    centres, width = toy_modes("ring")
    schedule = SCHEDULES[name]

    def exact(x, t):
        return diffusion.mixture_denoise(x, t, schedule, centres, width)

    noise = torch.randn(1000, 2, generator=seeded())
    found = diffusion.sample(exact, noise, schedule, 60, 1.0, seeded(1), start=0.999)
    nearest = torch.cdist(found, centres).min(dim=1)
    assert (nearest.values < 4 * width).float().mean() > 0.97
    assert (nearest.indices.bincount(minlength=8) / 1000 - 0.125).abs().max() < 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "num_steps must be"),
        ({"num_steps": 2.5}, "num_steps must be"),
        ({"start": -1}, "start must be"),
        ({"start": 1.5}, "start must be"),
        ({"eta": -0.1}, "eta must be a finite number from 0 to 1, got -0.1"),
        ({"eta": 1.1}, "eta must be a finite number from 0 to 1, got 1.1"),
        ({"eta": NAN}, "eta must be a finite number from 0 to 1, got nan"),
    ],
)
def test_settings_of_the_sampler_beyond_their_bounds_get_one_message(settings, message):
    settings = {"num_steps": 5} | settings
    with pytest.raises(ValueError, match=message):
        diffusion.sample(lambda x, t: 0 * x, torch.zeros(3, 2), FLOW, **settings)


@pytest.mark.parametrize(("t", "s"), [(0.5, 0.5), (0.5, 0.6), (1.1, 0.3), (0.5, -0.1)])
def test_a_step_goes_down(t, s):
    with pytest.raises(ValueError, match="posterior_std: (needs s < t|times t run)"):
        diffusion.ddim_step(torch.zeros(2), torch.zeros(2), t, s, FLOW)


def test_the_fresh_noise_comes_from_the_generator_and_not_in_the_last_step():
    x = torch.zeros(100, 2)
    one, two = (diffusion.ddim_step(x, x, 0.5, 0.4, FLOW, 1.0, seeded(k)) for k in (0, 1))
    assert not torch.equal(one, two) and one.std() > 0.2
    assert torch.equal(diffusion.ddim_step(x, x, 0.5, 0.0, FLOW, 1.0, seeded()), x)


# ---------------------------------------------------------------- targets and losses


@each_schedule
@pytest.mark.parametrize("target", diffusion.TARGETS)
def test_every_target_leads_back_to_the_data(name, target):
    x0 = torch.randn(5, 3, generator=seeded())
    eps = torch.randn(5, 3, generator=seeded(1))
    alpha = SCHEDULES[name].alpha(0.37)
    sigma = SCHEDULES[name].sigma(0.37)
    y = diffusion.make_target(target, x0, eps, alpha, sigma)
    found = diffusion.x0_from(target, y, alpha * x0 + sigma * eps, alpha, sigma)
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-5)


def test_a_prediction_of_noise_is_refused_where_no_data_are_left():
    with pytest.raises(ValueError, match="where no data are left"):
        diffusion.x0_from("eps", torch.ones(2), torch.ones(2), torch.tensor(0.0), 1.0)
    denoise = diffusion.denoiser(lambda x, t: x, FLOW, "eps")
    with pytest.raises(ValueError, match="where no data are left"):
        denoise(torch.ones(2, 2), 1.0)


def test_times_cover_the_interval_and_come_from_the_middle_if_asked():
    for middle, share in ((False, 0.5), (True, 0.728)):  # logistic-normal: 2 Phi(log 3) - 1
        t = diffusion.draw_times(100_000, middle, seeded())
        assert t.min() >= 0 and t.max() <= 1
        assert abs(((t > 0.25) & (t < 0.75)).float().mean() - share) < 0.01


@each_schedule
@pytest.mark.parametrize("target", diffusion.TARGETS)
def test_the_loss_takes_the_same_time_for_image_and_target(name, target):
    x0 = torch.full((400, 2), 0.7)
    schedule = SCHEDULES[name]

    def right(x, t):
        alpha = diffusion.like(schedule.alpha(t), x)
        sigma = diffusion.like(schedule.sigma(t), x)
        return diffusion.make_target(target, x0, (x - alpha * x0) / sigma, alpha, sigma)

    assert diffusion.denoising_loss(right, x0, schedule, target, seeded()) < 1e-4


def test_the_fifteen_lines_learn_and_draw():
    torch.manual_seed(0)
    net = diffusion.VelocityNet()
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    ring = toy_2d("ring", 4096, seeded())
    random = seeded(1)
    losses = []
    for _ in range(400):
        batch = ring[torch.randint(4096, (256,), generator=random)]
        losses.append(diffusion.flow_step(net, opt, batch, random).item())
    assert np.mean(losses[-50:]) < 0.8 * np.mean(losses[:20])
    noise = torch.randn(1000, 2, generator=seeded(2))
    drawn = diffusion.flow_sample(net, noise, 30)
    assert (drawn.norm(dim=1) - 1.6).abs().mean() < 0.3 and not drawn.requires_grad
    denoise = diffusion.denoiser(net, FLOW)
    with torch.no_grad():
        same = diffusion.sample(denoise, noise, FLOW, 30)
    torch.testing.assert_close(drawn, same, rtol=0, atol=1e-3)


def test_an_estimate_is_clipped_if_asked():
    def net(x, t):
        return 0 * x - 5  # a velocity: x0 = x - t u

    x = torch.zeros(2, 2)
    assert diffusion.denoiser(net, FLOW)(x, 0.5).min() == 2.5
    assert diffusion.denoiser(net, FLOW, clip=True)(x, 0.5).max() == 1


# ---------------------------------------------------------------- the U-Net, and what it draws


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_networks_of_another_precision_can_be_called_directly(dtype):
    t = torch.tensor([0.001, 0.25, 0.6, 1.0])
    for given in (IMAGES, IMAGES.to(dtype)):
        found = small_unet(dtype)(given, t, LABELS)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), small_unet()(IMAGES, t, LABELS), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("x", "t", "label"),
    [
        (IMAGES.flatten(1), torch.ones(4), LABELS),
        (IMAGES, torch.ones(3), LABELS),
        (IMAGES, torch.ones(4), LABELS[:1]),
        (IMAGES, torch.tensor(0.5), LABELS),
        (IMAGES[..., :27], torch.ones(4), LABELS),
    ],
)
def test_the_unet_refuses_shapes_that_disagree(x, t, label):
    with pytest.raises(ValueError, match="UNet: needs images .* got"):
        small_unet()(x, t, label)


def test_a_unet_treats_every_image_alone_and_every_label():
    net = small_unet()
    t = torch.full((4,), 0.5)
    with torch.no_grad():
        found = net(IMAGES, t, LABELS)
        alone = torch.cat([net(IMAGES[k : k + 1], t[:1], LABELS[k : k + 1]) for k in range(4)])
        other = net(IMAGES, t, (LABELS + 1) % 11)
    torch.testing.assert_close(found, alone, rtol=1e-3, atol=1e-4)
    assert (found - other).abs().amax(dim=(1, 2, 3)).min() > 0


def test_a_unet_hears_the_time():
    e = diffusion.time_embedding(torch.tensor([0.5, 0.501, 0.51]))
    assert (e[0] - e[1]).norm() > 0.5 and (e[0] - e[2]).norm() > 1
    with torch.no_grad():
        early, late = (small_unet()(IMAGES, torch.full((4,), t), LABELS) for t in (0.2, 0.8))
    assert (early - late).abs().max() > 1e-3


def test_attention_is_pytorchs_own():
    torch.manual_seed(0)
    attention = diffusion.Attention(16, 4)
    torch.nn.init.normal_(attention.out.weight)
    h = torch.randn(3, 16, 7, 7)
    x = attention.norm(h).flatten(2).transpose(1, 2)
    q, k, v = attention.qkv(x).reshape(3, 49, 3, 4, 4).permute(2, 0, 3, 1, 4)
    x = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    wanted = attention.out(x.transpose(1, 2).reshape(3, 49, 16))
    found = attention(h) - h
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), wanted, rtol=1e-4, atol=1e-4)


def test_digits_are_images_and_repeatable():
    net = small_unet()
    for settings in ({}, {"eta": 0.0}, {"clip": False}):
        one, two = (diffusion.draw_digits(net, LABELS, 3, generator=seeded(), **settings) for _ in range(2))
        assert torch.equal(one, two) and one.shape == (4, 1, 28, 28) and one.abs().max() <= 1
    kept = diffusion.draw_digits(net, LABELS, 3, generator=seeded(), keep=True)
    assert len(kept) == 4


@pytest.mark.parametrize("wrong", [-1, 11])
def test_labels_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="labels are 0 to 9, or 10 for none"):
        diffusion.draw_digits(small_unet(), torch.tensor([3, wrong]), 2)


def test_many_digits_are_those_that_one_batch_would_be():
    net = small_unet()
    label = torch.arange(7)
    x = torch.randn(7, 1, 28, 28, generator=seeded())
    wanted = diffusion.draw_digits(net, label, 3, eta=0.0, x=x)
    found = diffusion.draw_many(net, label, x, 3, batch_size=3, eta=0.0)
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="shorter|argument"):
        diffusion.draw_many(net, label, x[:3], 3, batch_size=3)


def test_no_guidance_is_the_network_itself_and_a_negative_one_leads_back():
    net = small_unet()
    t = torch.full((4,), 0.5)
    with torch.no_grad():
        plain = net(IMAGES, t, LABELS)
        without = net(IMAGES, t, torch.full((4,), diffusion.NO_LABEL))
        for w in (0, 0.0):
            found = diffusion.guided(net, w)(IMAGES, t, LABELS)
            torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
        found = diffusion.guided(net, -1.0)(IMAGES, t, LABELS)
        torch.testing.assert_close(found, without, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("w", [NAN, math.inf, None, "3"])
def test_a_guidance_scale_that_is_no_number_is_refused(w):
    with pytest.raises(ValueError, match="guided: w must be a finite number"):
        diffusion.guided(small_unet(), w)


def test_finish_from_a_small_time_stays_near_and_from_0_gives_the_image_itself():
    net = small_unet()
    label = torch.zeros(4).long()

    def distance(t):
        found = diffusion.finish(net, IMAGES, label, t, 5, seeded())
        return (found - IMAGES).square().mean()

    assert distance(0.05) < 0.02 < 0.2 < distance(0.9)
    assert torch.equal(diffusion.finish(net, IMAGES, label, 0), IMAGES)


@pytest.mark.parametrize("start", [-0.1, 1.5, NAN, None, "1"])
def test_finish_refuses_times_that_are_none(start):
    with pytest.raises(ValueError, match="finish: start must be"):
        diffusion.finish(small_unet(), IMAGES, LABELS, start)


# ---------------------------------------------------------------- training


def test_a_tenth_of_the_labels_is_dropped():
    label = torch.arange(100_000) % 10
    dropped = diffusion.drop_labels(label, generator=seeded())
    gone = dropped == diffusion.NO_LABEL
    assert abs(gone.float().mean() - 0.1) < 0.01 and torch.equal(dropped[~gone], label[~gone])
    assert torch.equal(dropped, diffusion.drop_labels(label, generator=seeded()))
    assert torch.equal(diffusion.drop_labels(label, 0.0), label)
    assert (diffusion.drop_labels(label, 1.0) == diffusion.NO_LABEL).all()


def test_the_average_is_pytorchs_own():
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    torch.manual_seed(0)
    net = small_unet()
    ours = copy.deepcopy(net)
    theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(net)  # its first update copies
    for _ in range(3):
        with torch.no_grad():
            for weight in net.parameters():
                weight.add_(torch.randn(weight.shape))
        diffusion.update_ema(ours, net, 0.9)
        theirs.update_parameters(net)
    for a, b in zip(ours.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("num_steps", [1, 9, 100, 1000])
def test_rates_rise_and_fall(num_steps):
    rates = [diffusion.learning_rate(k, num_steps, 2.0) for k in range(1, num_steps + 1)]
    assert min(rates) >= 0 and max(rates) <= 2 and rates[-1] < 1e-6
    if num_steps >= 100:
        assert max(rates) > 1.9 and rates[0] < 0.5


def test_a_short_training_can_be_repeated_and_leaves_other_random_numbers_alone():
    digits = load_digits("train", n=128, verbose=False)
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    nets = [diffusion.train_denoiser(digits, "v", SCHEDULES["cosine"], 3, c=8) for _ in range(2)]
    assert torch.equal(torch.rand(2), wanted)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b) and not a.requires_grad and a.isfinite().all()
    new = diffusion.UNet(8)
    assert nets[0].leave.weight.any() and not new.leave.weight.any()


# ---------------------------------------------------------------- the drawing pad


def test_a_drawing_becomes_an_image_like_those_of_mnist():
    for strokes in pad.SKETCHES.values():
        image = pad.rasterize(strokes)
        assert image.shape == (1, 1, 28, 28) and image.min() == -1 and image.max() > 0.9
        ink = (image[0, 0] + 1) / 2
        places = torch.arange(28.0)
        down = (ink.sum(dim=1) @ places) / ink.sum()
        right = (ink.sum(dim=0) @ places) / ink.sum()
        assert abs(down - 13.5) < 0.6 and abs(right - 13.5) < 0.6
        box = (ink > 0.2).nonzero()
        assert 18 <= (box.max(dim=0).values - box.min(dim=0).values).max() + 1 <= 22


def test_size_and_place_on_the_pad_do_not_matter():
    strokes = pad.SKETCHES["a seven"]
    small = [[[0.1 + x / 2, 0.4 + y / 2] for x, y in line] for line in strokes]
    difference = pad.rasterize(strokes) - pad.rasterize(small)
    assert difference.abs().mean() < 0.05


def test_the_classifier_reads_the_seven():
    assert load_features()(pad.rasterize(pad.SKETCHES["a seven"])).argmax() == 7


def test_an_empty_pad_is_black_and_a_dot_is_a_dot():
    assert (pad.rasterize([]) == -1).all() and (pad.rasterize([[]]) == -1).all()
    dot = pad.rasterize([[[0.2, 0.9]]])
    assert 2 < ((dot + 1) / 2).sum() < 12


@pytest.mark.parametrize(
    "drawing",
    [
        "abc",
        [[1, 2]],
        [[[0.1, 0.2, 0.3]]],
        [[[NAN, 0.2]]],
        [[["a", "b"]]],
        5,
        [[[0.1, 0.2]]] * 101,
        [[[0.1, 0.2]] * 5001],
    ],
)
def test_what_is_no_drawing_gets_one_message(drawing):
    with pytest.raises(ValueError, match="^rasterize: "):
        pad.rasterize(drawing)


def test_points_outside_of_the_pad_are_drawn_at_its_edge():
    assert torch.equal(pad.rasterize([[[-5, 2], [9, 0.5]]]), pad.rasterize([[[0, 1], [1, 0.5]]]))


def test_the_script_needs_no_network():
    assert "http" not in pad.SCRIPT and "import" not in pad.SCRIPT
    assert len(pad.SCRIPT.splitlines()) <= 62


# ---------------------------------------------------------------- exercises


def classify_by(draws, t, pick="argmin"):
    """An answer to exercise 7: so many draws of noise at time t."""
    return f"""def classify(error_of, x0):
    random = torch.Generator().manual_seed(0)
    total = torch.zeros(len(x0), 10)
    for _ in range({draws}):
        eps = torch.randn(x0.shape, generator=random)
        for label in range(10):
            total[:, label] += error_of({t}, label, eps)
    return total.{pick}(dim=1)
"""


def train_towards(target):
    """An answer to exercise 5: the step of section 5 with this target."""
    return f"""def data_step(net, opt, x0, generator=None):
    t = torch.rand(len(x0), 1, generator=generator)
    eps = torch.randn(x0.shape, generator=generator)
    loss = (net((1 - t) * x0 + t * eps, t) - ({target})).square().mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    return loss
"""


def guided_where(condition):
    """An answer to exercise 6: guided where this holds."""
    return f"""def guided_between(net, w, low, high):
    led = guided(net, w)

    def predict(x, t, label):
        return led(x, t, label) if {condition} else net(x, t, label)

    return predict
"""


SOLUTIONS = {
    1: (
        "def alpha_sigma(r):\n    return (r / (1 + r)) ** 0.5, (1 / (1 + r)) ** 0.5",
        "def alpha_sigma(r):\n    return r / (1 + r), 1 / (1 + r)",
        "def alpha_sigma(r):\n    return (1 / (1 + r)) ** 0.5, (r / (1 + r)) ** 0.5",
        "def alpha_sigma(r):\n    return -((r / (1 + r)) ** 0.5), (1 / (1 + r)) ** 0.5",
    ),
    2: (
        "def score_from_noise(eps_hat, sigma):\n    return -eps_hat / sigma",
        "def score_from_noise(eps_hat, sigma):\n    return eps_hat / sigma",
        "def score_from_noise(eps_hat, sigma):\n    return -eps_hat / sigma**2",
        "def score_from_noise(eps_hat, sigma):\n    return -eps_hat",
    ),
    3: (
        "def healthy_step(x, x0_hat, t, s):\n"
        "    return (1 - s) * x0_hat + s * (x - (1 - t) * x0_hat) / t",
        "def healthy_step(x, x0_hat, t, s):\n    return x0_hat + s * (x - (1 - t) * x0_hat) / t",
        "def healthy_step(x, x0_hat, t, s):\n    return (1 - s) * x0_hat + s * (x - x0_hat) / t",
    ),
    4: (
        "def their_pair(x0, eps, t):\n    return t * x0 + (1 - t) * eps, x0 - eps",
        "def their_pair(x0, eps, t):\n    return t * x0 + (1 - t) * eps, eps - x0",
        "def their_pair(x0, eps, t):\n    return (1 - t) * x0 + t * eps, eps - x0",
        "def their_pair(x0, eps, t):\n    return (1 - t) * x0 + t * eps, x0 - eps",
    ),
    5: (
        train_towards("x0"),
        train_towards("eps - x0"),
        train_towards("eps"),
        train_towards("x0").replace("    opt.step()\n", ""),
    ),
    6: (
        guided_where("low <= t[0] <= high"),
        guided_where("low < t[0] < high"),
        guided_where("t[0] >= low"),
        guided_where("not low <= t[0] <= high"),
        "def guided_between(net, w, low, high):\n    return guided(net, w)",
        """def guided_between(net, w, low, high):
    def predict(x, t, label):
        return guided(net, w if low <= t[0] <= high else 0.0)(x, t, label)

    return predict
""",  # right, but it pays for guidance where there is none
    ),
    7: (
        classify_by(3, 0.7),
        classify_by(4, 0.7),  # more than 30 calls
        classify_by(1, 0.05),
        classify_by(3, 0.7, pick="argmax"),
        "def classify(error_of, x0):\n    return torch.zeros(len(x0)).long()",
    ),
}


def test_marks_refuse_wrong_answers():
    assert_marked(NAME, SOLUTIONS)


@pytest.mark.exhaustive
def test_the_open_mark_refuses_wrong_answers():
    assert_marked(NAME, SOLUTIONS, only_open=True)


# ---------------------------------------------------------------- panels


@pytest.fixture(scope="module")
def digits():
    return load_digits("test", n=120, verbose=False)


@pytest.fixture(scope="module")
def velocity_net():
    torch.manual_seed(0)
    net = diffusion.VelocityNet()
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    ring = toy_2d("ring", 2048, seeded())
    for _ in range(60):
        diffusion.flow_step(net, opt, ring[torch.randint(2048, (256,), generator=seeded(1))])
    return net


def make_finisher(digits, use_pad):
    torch.manual_seed(0)
    vae = ConvVAE()
    return panels.diffusion.draw_and_finish(small_unet(), load_features(), vae, digits, use_pad=use_pad)


SCALES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)


@pytest.fixture
def makers(digits, velocity_net):
    """What makes each panel of the page, with models that are hardly trained."""
    net = small_unet()
    album = {w: torch.rand(100, 1, 28, 28, generator=seeded(int(2 * w))) for w in SCALES}
    accuracy = [0.5, 0.6, 0.7, 0.8, 0.9, 0.8]
    variety = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    return {
        "forward_process": panels.diffusion.forward_process,
        "way_back": panels.diffusion.way_back,
        "where_from": panels.diffusion.where_from,
        "trajectories": panels.diffusion.trajectories,
        "trajectories of a network": lambda: panels.diffusion.trajectories(velocity_net),
        "denoised_estimate": lambda: panels.diffusion.denoised_estimate(net, digits),
        "sampling_steps": lambda: panels.diffusion.sampling_steps(net),
        "guidance_scale": lambda: panels.diffusion.guidance_scale(album, accuracy, variety),
        "draw_and_finish": lambda: make_finisher(digits, use_pad=True),
        "draw_and_finish without a pad": lambda: make_finisher(digits, use_pad=False),
    }


each_panel = pytest.mark.parametrize(
    "name",
    (
        "forward_process",
        "way_back",
        "where_from",
        "trajectories",
        "trajectories of a network",
        "denoised_estimate",
        "sampling_steps",
        "guidance_scale",
        "draw_and_finish",
        "draw_and_finish without a pad",
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
    makers[name]()  # networks of the makers draw their weights from the page's generator
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = makers[name]()
    if not name.startswith("draw_and"):
        assert torch.equal(torch.get_rng_state(), before)
    again = makers[name]()
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
    panel.set(t=0.0)
    assert "x = 1.000 digit + 0.000 noise" in status(panel)
    panel.set(t=0.5, schedule="rectified flow")
    assert "x = 0.500 digit + 0.500 noise" in status(panel)
    panel.set(t=0.5, schedule="cosine")
    assert "x = 0.707 digit + 0.707 noise" in status(panel)


def test_the_way_back_ends_where_the_sampler_ends():
    panel = panels.diffusion.way_back()
    assert "8 steps to go" in status(panel)
    panel.set(step=8)
    assert "Nothing is left" in status(panel) and panel.error is None
    shown = picture(panel)
    panel.set(digit=7)
    assert not np.array_equal(shown, picture(panel))


def test_guidance_is_used_by_finish_and_no_guidance_is_the_network_itself(digits):
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x, t, label):
            seen.append(len(x))
            return 0 * x

    panel = panels.diffusion.draw_and_finish(Spy(), load_features(), ConvVAE(), digits)
    for w, evaluated in ((0, 6), (2, 12)):
        panel.set(w=w)
        assert "Press Finish" in status(panel) or w == 0
        seen.clear()
        panel.buttons["Finish"].click()
        assert set(seen) == {evaluated}


def test_the_clinic_tells_its_five_apart():
    torch.manual_seed(0)
    net = diffusion.VelocityNet()
    start = torch.randn(200, 2, generator=seeded())
    _, clouds, findings = panels.diffusion.clinic(net, net, start)
    assert set(clouds) == set(findings) and len(set(findings.values())) == 5
    for letter in clouds:
        assert letter == "C" or not torch.equal(clouds[letter], clouds["C"]) or findings[letter] == "no clock"
    assert panels.diffusion.clinic_row(toy_2d("ring", 200, seeded()))["share in a mode"] > 0.95


def test_where_from_counts_the_centres_and_points_to_the_estimate():
    panel = panels.diffusion.where_from()
    panel.set(t=0.05, first=1.52, second=0.0)
    assert "more than 5 %: 1." in status(panel) and "Estimate (1.60, 0.00)" in status(panel)
    panel.set(t=1.0)
    assert "more than 5 %: 8." in status(panel)
    assert re.search(r"Estimate \(-?0.00, -?0.00\), score \(-1.52, -?0.00\)", status(panel))


def test_trajectories_end_on_the_ring_with_the_exact_mean(makers):
    panel = makers["trajectories"]()
    assert panel.play is None
    panel.set(num_steps=50, eta=1.0)
    assert int(re.search(r"end (\d+) %", status(panel))[1]) > 90
    panel.set(num_steps=2)
    assert int(re.search(r"end (\d+) %", status(panel))[1]) < 60
    panel.set(num_steps=5, eta=0.0)
    shown = status(panel)
    panel.set(eta=1.0)
    assert status(panel) != shown


def test_trajectories_train_a_network_of_their_own(makers, velocity_net):
    before = copy.deepcopy(velocity_net.state_dict())
    panel = makers["trajectories of a network"]()
    panel.play.value += 1
    assert "Training step 20." in status(panel)
    after = velocity_net.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    panel.set(denoise_by="exact mean")
    panel.buttons["New network"].click()
    assert panel.values["denoise_by"] == "network" and "Training step 0." in status(panel)
    shown = picture(panel)
    panel.play.value += 1
    assert "Training step 20." in status(panel) and panel.error is None
    assert not np.array_equal(shown, picture(panel))


def test_the_error_of_the_estimate_is_that_of_the_network(digits):
    net = small_unet()
    panel = panels.diffusion.denoised_estimate(net, digits)
    panel.set(t=0.3, number=2)
    x0 = to_signed(digits.images[2:3])
    x = diffusion.diffuse(x0, 0.3, torch.randn(x0.shape, generator=seeded()), FLOW)
    label = torch.tensor([diffusion.NO_LABEL])
    with torch.no_grad():
        wanted = (x - 0.3 * net(x, torch.tensor([0.3]), label) - x0).square().mean()
    assert abs(float(re.search(r"digit: ([\d.]+)\.", status(panel))[1]) - wanted) < 2e-3


def test_ddim_rows_come_nearer_and_new_noise_draws_other_digits():
    panel = panels.diffusion.sampling_steps(small_unet())
    far, near = (float(re.search(rf"([\d.]+) \({k} NFE\)", status(panel))[1]) for k in (5, 20))
    assert far > near
    shown = picture(panel)
    panel.buttons["New noise (about 3 s)"].click()
    first = picture(panel)
    panel.buttons["New noise (about 3 s)"].click()
    assert not np.array_equal(shown, first) and not np.array_equal(first, picture(panel))


def test_the_guidance_scale_shows_the_digit_and_the_share_of_its_scale(makers):
    panel = makers["guidance_scale"]()
    panel.set(w=4.0)
    assert "Read as ordered: 90 %; variety 60 % of that" in status(panel)


# ---------------------------------------------------------------- draw and finish


def test_what_was_finished_is_shown_only_for_the_controls_it_was_made_for(digits):
    for use_pad in (True, False):
        panel = make_finisher(digits, use_pad)
        assert "Six results" in status(panel) and "Press" not in status(panel)
        panel.set(t=0.3)
        assert "Press Finish" in status(panel)
        panel.buttons["Finish"].click()
        assert "Press" not in status(panel)
        shown = picture(panel)
        panel.buttons["Finish"].click()  # again: other noise
        assert not np.array_equal(shown, picture(panel))


def test_label_0_is_not_the_lack_of_a_label(digits):
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x, t, label):
            seen.append(label)
            return 0 * x

    panel = panels.diffusion.draw_and_finish(Spy(), load_features(), ConvVAE(), digits)
    wanted = {0: 0, 9: 9, None: diffusion.NO_LABEL, panels.diffusion.AS_READ: 7}
    for label, number in wanted.items():
        panel.set(label=label)
        seen.clear()
        panel.buttons["Finish"].click()
        assert {int(each) for each in torch.cat(seen)} == {number}, label


def test_a_drawing_is_read_at_once_and_can_be_cleared(digits):
    panel = make_finisher(digits, use_pad=True)
    assert "Read as 7" in status(panel)
    panel.controls["drawing"].value = [[[0.5, 0.2], [0.5, 0.8]]]  # as the script in the page does
    assert "Read as 1" in status(panel)
    panel.buttons["Clear"].click()
    assert panel.values["drawing"] == [] and "pad is empty" in status(panel)
    panel.buttons["a zigzag"].click()
    assert panel.values["drawing"] == pad.SKETCHES["a zigzag"]
    panel.controls["drawing"].value = [[["x", 0]]]
    assert panel.error is not None and "rasterize" in status(panel)
    panel.controls["drawing"].value = [[[0.5, 0.2], [0.5, 0.8]]]
    assert panel.error is None


def test_without_anywidget_there_is_a_list_of_digits(digits, monkeypatch):
    import builtins

    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "anywidget":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    panel = make_finisher(digits, use_pad=True)
    assert set(panel.controls) == {"number", "t", "label", "w"}
    assert isinstance(panel.controls["number"], ipywidgets.IntSlider)


@pytest.mark.parametrize(
    "make",
    [
        panels.diffusion.diffusion_diagram,
        panels.diffusion.two_points_picture,
        panels.diffusion.ddim_picture,
        panels.diffusion.loss_weights,
        panels.diffusion.unet_shapes,
        panels.diffusion.block_parts,
        lambda: panels.diffusion.trade_off(read_experiment("diffusion_steps").rows),
        lambda: panels.diffusion.finished_rows({0.3: IMAGES, 0.95: IMAGES}),
        lambda: panels.diffusion.clinic(diffusion.VelocityNet(), diffusion.VelocityNet(), torch.randn(50, 2))[0],
    ],
)
def test_the_pictures_can_be_read(make):
    check_drawing(make)


def test_the_diagram_is_drawn_without_weights_too(monkeypatch):
    def none(name):
        raise ValueError("no weights")

    monkeypatch.setattr(panels.diffusion, "load_model", none)
    states, drawn = panels.diffusion.finished_digits()
    assert len(states) == 5 and (drawn == -1).all() and len(drawn) == 36


# ---------------------------------------------------------------- seeded faults


page = partial(in_notebook, NAME)
panel_fault = partial(in_panels, "diffusion")
pad_fault = partial(in_panels, "pad")

FAULTS = [
    page(
        "eq. (1): variance for width",
        "like(schedule.alpha(t), x0) * x0 + like(schedule.sigma(t), x0) * eps",
        "like(schedule.alpha(t), x0) * x0 + like(schedule.sigma(t), x0) ** 2 * eps",
    ),
    page(
        "schedule: cosine's noise is 1 - alpha",
        "lambda t: torch.sin(math.pi / 2 * t),",
        "lambda t: 1 - torch.cos(math.pi / 2 * t),",
    ),
    page(
        "schedule: linear with half its exponent",
        "torch.exp(-0.05 * t - 4.975 * t**2)",
        "torch.exp(-0.1 * t - 9.95 * t**2)",
    ),
    page(
        "eq. (3): the sign",
        "(like(schedule.alpha(t), x) * x0_hat - x) / sigma.square()",
        "(x - like(schedule.alpha(t), x) * x0_hat) / sigma.square()",
    ),
    page(
        "eq. (3): the estimate is not shrunk",
        "(like(schedule.alpha(t), x) * x0_hat - x) / sigma.square()",
        "(x0_hat - x) / sigma.square()",
    ),
    page(
        "eq. (4): shares without the bells' own width",
        """    variance = (alpha * width).square() + like(schedule.sigma(t), x).square()
    distance""",
        """    variance = like(schedule.sigma(t), x).square()
    distance""",
    ),
    page(
        "eq. (4): within a bell the centre is all",
        "estimates = centres + (alpha * width**2 / variance)[..., None] * offset ",
        "estimates = centres + 0 * (alpha * width**2 / variance)[..., None] * offset ",
    ),
    page(
        "eq. (5): the noise is estimated with the wrong alpha",
        "eps_hat = (x - schedule.alpha(t) * x0_hat) / schedule.sigma(t)",
        "eps_hat = (x - schedule.alpha(s) * x0_hat) / schedule.sigma(t)",
    ),
    page(
        "eq. (6): the old noise is kept in full",
        "kept = (schedule.sigma(s).square() - std.square()).clamp_min(0).sqrt()",
        "kept = schedule.sigma(s)",
    ),
    page(
        "eq. (7): the widths change places",
        "return sigma_s / sigma_t * added",
        "return sigma_t / sigma_s * added",
    ),
    page(
        "eq. (7): what was there is not taken off",
        "added = (sigma_t.square() - kept.square()).clamp_min(0).sqrt()",
        "added = (sigma_t.square() - 0 * kept.square()).clamp_min(0).sqrt()",
    ),
    page(
        "sample: every step starts from the noise",
        "x = ddim_step(x, denoise(x, t), t, s, schedule, eta, generator)",
        "x = ddim_step(trajectory[0], denoise(x, t), t, s, schedule, eta, generator)",
    ),
    page(
        "times: they end before the data",
        "return torch.linspace(start, 0, num_steps + 1).tolist()",
        "return torch.linspace(start, 0.1, num_steps + 1).tolist()",
    ),
    page(
        "eq. (8): the chain keeps its scale",
        "mean = math.sqrt(1 - b) * mean",
        "mean = (1 - b) * mean",
    ),
    page(
        "eq. (10): the velocity points the other way",
        "loss = (net(x, t) - (eps - x0)).square().mean()\n    opt.zero_grad()\n    loss.backward()\n"
        "    opt.step()\n    return loss\n\n\n@torch",
        "loss = (net(x, t) - (x0 - eps)).square().mean()\n    opt.zero_grad()\n    loss.backward()\n"
        "    opt.step()\n    return loss\n\n\n@torch",
        "test_the_fifteen_lines_learn_and_draw",
    ),
    page(
        "eq. (11): forwards in place of back",
        "x = x - net(x, t) / num_steps",
        "x = x + net(x, t) / num_steps",
        "test_the_fifteen_lines_learn_and_draw",
    ),
    page(
        "eq. (12): the control crowd is right",
        "wrong = wrong - 0.5 * mean_velocity(wrong, k / 200) / 200",
        "wrong = wrong - mean_velocity(wrong, k / 200) / 200",
    ),
    page(
        "eq. (12): the mean velocity is divided by the wrong time",
        "return (x - x0_hat) / t",
        "return (x - x0_hat) * t",
    ),
    page(
        "targets: v with the signs of its parts exchanged",
        "return alpha * eps - sigma * x0",
        "return sigma * x0 - alpha * eps",
    ),
    page(
        "eq. (14): noise without the division",
        "return (x - sigma * out) / alpha\n",
        "return x - sigma * out\n",
    ),
    page(
        "eq. (14): velocity as if the schedule preserved the variance",
        "return (x - sigma * out) / (alpha + sigma)",
        "return x - sigma * out",
    ),
    page(
        "eq. (13): the network sees another time than the mixture",
        "out = net(alpha * x0 + sigma * eps, t, *label)",
        "out = net(alpha * x0 + sigma * eps, 1 - t, *label)",
        "test_the_loss_takes_the_same_time_for_image_and_target",
    ),
    page(
        "denoiser: clips what should not be clipped",
        "return x0_hat.clamp(-1, 1) if clip else x0_hat",
        "return x0_hat.clamp(-1, 1)",
        "test_an_estimate_is_clipped_if_asked",
    ),
    page(
        "times: the middle is not preferred",
        "return torch.sigmoid(torch.randn(n, generator=generator))",
        "return torch.rand(n, generator=generator)",
        "test_times_cover_the_interval_and_come_from_the_middle_if_asked",
    ),
    page(
        "time embedding: a thousandth of the time",
        "angle = 1000 * t[:, None].float() * frequency",
        "angle = t[:, None].float() * frequency",
        "test_a_unet_hears_the_time",
    ),
    page(
        "block: the embedding is not used",
        "self.norm2(r) * (1 + scale) + shift",
        "self.norm2(r) * (1 + 0 * scale) + 0 * shift",
    ),
    page(
        "U-Net attention: softmax over the queries",
        "weights = logits.softmax(dim=3).to(v.dtype)",
        "weights = logits.softmax(dim=2).to(v.dtype)",
        "test_attention_is_pytorchs_own",
    ),
    page(
        "U-Net attention: each position sees itself only",
        "x = (weights @ v).transpose(1, 2).reshape(N, H * W, C)",
        "x = v.transpose(1, 2).reshape(N, H * W, C)",
        "test_attention_is_pytorchs_own",
    ),
    page(
        "mark 3: the data may be shrunk by anything",
        'for t, s in ((1.0, 0.5), (0.6, 0.2), (0.3, 0.0)):',
        'for t, s in ((1.0, 0.0),):',
        "test_marks_refuse_wrong_answers",
    ),
    page(
        "mark 4: the velocity is not asked for",
        'check("x moves at that velocity", velocity, (later - x) / 0.01, rtol=0, atol=1e-3)',
        'check("x moves at that velocity", velocity.abs(), ((later - x) / 0.01).abs(), rtol=0, atol=1e-3)',
        "test_marks_refuse_wrong_answers",
    ),
    page(
        "U-Net: the label is not used",
        "e = F.silu(self.time(time_embedding(t).to(dtype)) + self.label(label))",
        "e = F.silu(self.time(time_embedding(t).to(dtype)) + 0 * self.label(label))",
    ),
    page(
        "eq. (16): the average forgets at once",
        "kept.mul_(decay).add_(weight, alpha=1 - decay)",
        "kept.mul_(1 - decay).add_(weight, alpha=decay)",
    ),
    page(
        "labels: nine in ten are dropped",
        "torch.rand(label.shape, generator=generator).to(label.device) < share",
        "torch.rand(label.shape, generator=generator).to(label.device) > share",
        "test_a_tenth_of_the_labels_is_dropped",
    ),
    page(
        "learning rate: it never falls",
        "return highest * (1 + math.cos(math.pi * (step - warm) / (num_steps - warm))) / 2",
        "return highest",
        "test_rates_rise_and_fall",
    ),
    page(
        "eq. (17): away from the label",
        "return with_label + w * (with_label - without)\n\n    return predict",
        "return with_label + w * (without - with_label)\n\n    return predict",
    ),
    page(
        "finish: from pure noise whatever the start",
        "x = diffuse(x0, start, eps, RECTIFIED_FLOW)",
        "x = eps",
        "test_finish_from_a_small_time_stays_near_and_from_0_gives_the_image_itself",
    ),
    page(
        "mark 2: any sign will do",
        'check(f"{name}, t = {t}: the score", answer(eps_hat, sigma), wanted, rtol=1e-3, atol=1e-4)',
        'check(f"{name}, t = {t}: the score", answer(eps_hat, sigma).abs(), wanted.abs(), rtol=1e-3)',
        "test_marks_refuse_wrong_answers",
    ),
    page(
        "mark 6: the price is not asked",
        'check(f"t = {t}: images evaluated, of a batch of 3", sum(evaluated), cost)',
        'check(f"t = {t}: images evaluated, of a batch of 3", 0 * sum(evaluated), 0 * cost)',
        "test_marks_refuse_wrong_answers",
    ),
    panel_fault(
        "forward process: the noise is that of seed 0",
        "x = diffusion.diffuse(x0, t, _draw_noise_like(x0, seed), schedules[schedule])",
        "x = diffusion.diffuse(x0, t, _draw_noise_like(x0), schedules[schedule])",
        "test_every_control_and_button_draws_once_and_all_can_be_read",
    ),
    panel_fault(
        "trajectories: the page's own network is trained",
        "self.take(net if net is None else copy.deepcopy(net).cpu().requires_grad_(True))",
        "self.take(net)",
        "test_trajectories_train_a_network_of_their_own",
    ),
    panel_fault(
        "trajectories: another eta shows the same points",
        "asked = (eta, num_steps, denoise_by, self.tries, self.step)",
        "asked = (num_steps, denoise_by, self.tries, self.step)",
        "test_trajectories_end_on_the_ring_with_the_exact_mean",
    ),
    panel_fault(
        "denoised estimate: the error of another estimate",
        "error = _mean_square(x0_hat - x0)",
        "error = _mean_square(x - x0)",
        "test_the_error_of_the_estimate_is_that_of_the_network",
    ),
    panel_fault(
        "sampling steps: new noise is the old one",
        "noise = torch.randn(10, 1, 28, 28, generator=generator)",
        "noise = torch.randn(10, 1, 28, 28, generator=_seeded(7))",
        "test_ddim_rows_come_nearer_and_new_noise_draws_other_digits",
    ),
    panel_fault(
        "guidance scale: variety against the wrong scale",
        "value / variety[0]",
        "value / variety[-1]",
        "test_the_guidance_scale_shows_the_digit_and_the_share_of_its_scale",
    ),
    panel_fault(
        "draw and finish: label 0 is taken for none",
        "        if label is None:\n            return NO_LABEL",
        "        if not label:\n            return NO_LABEL",
        "test_label_0_is_not_the_lack_of_a_label",
    ),
    panel_fault(
        "draw and finish: results of other settings are shown",
        "return self.results if self.made_for == (t, label, w, given) else None",
        "return self.results",
        "test_what_was_finished_is_shown_only_for_the_controls_it_was_made_for",
    ),
    panel_fault(
        "draw and finish: Finish always draws the same",
        "model, x0, wanted, t, num_steps, self.generator",
        "model, x0, wanted, t, num_steps, _seeded()",
        "test_what_was_finished_is_shown_only_for_the_controls_it_was_made_for",
    ),
    pad_fault(
        "pad: a drawing is not scaled into the box",
        "scale = (BOX - PEN) / size",
        "scale = BOX - PEN",
        "test_a_drawing_becomes_an_image_like_those_of_mnist",
    ),
    pad_fault(
        "pad: its mass is not centred",
        "return np.roll(image, (down, right), axis=(0, 1))",
        "return np.roll(image, (0, 0), axis=(0, 1))",
        "test_a_drawing_becomes_an_image_like_those_of_mnist",
    ),
]
