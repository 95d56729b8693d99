"""What 04_diffusion's own checks do not reach: which levels and labels are drawn, and where a walk begins and ends."""

import math

import pytest
import torch

from aigc_helpers.models import diffusion


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("schedule", diffusion.SCHEDULES)
def test_a_schedule_is_the_same_curve_for_any_number_of_levels(schedule):
    long, short = diffusion.make_path(schedule), diffusion.make_path(schedule, 100)
    assert len(long.signal) == 1001 and len(short.noise) == 101
    assert (long.signal[0], long.noise[0]) == (1, 0) and long.signal[-1] < 0.1 and long.noise[-1] > 0.99
    torch.testing.assert_close(short.signal, long.signal[::10], rtol=0, atol=0.03)
    assert (long.signal.diff() < 0).all() and (long.noise.diff() > 0)[:-1].all()


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'cosin'.*cosine"):
        diffusion.make_path("cosin")
    with pytest.raises(ValueError, match="'epsilon'.*noise"):
        diffusion.target_of("epsilon", 0, 0, 1, 1)


def test_the_loss_draws_every_level_but_the_data():
    seen = []

    def net(x, t):
        seen.append(t)
        return 0 * x

    diffusion.denoising_loss(net, torch.zeros(50_000, 1), diffusion.make_path("linear", 20), "noise", seeded())
    assert sorted(set(seen[0].tolist())) == list(range(1, 21))


def test_the_levels_in_the_middle_come_more_often_if_asked():
    for middle, share in ((False, 0.5), (True, 0.728)):                       # of a logistic-normal: 2 Phi(log 3) - 1
        t = diffusion.draw_levels(100_000, 1000, middle, seeded())
        assert t.min() >= 1 and t.max() <= 1000 and t.dtype == torch.int64
        assert abs(((t > 250) & (t <= 750)).float().mean() - share) < 0.01


def test_the_loss_takes_the_same_level_for_picture_and_target():
    path, x0 = diffusion.make_path("cosine"), torch.full((400, 2), 0.7)
    right = lambda x, t: diffusion.target_of("v", x0, (x - diffusion.level(path.signal, t, x) * x0) / diffusion.level(path.noise, t, x),  # noqa: E731
                                             diffusion.level(path.signal, t, x), diffusion.level(path.noise, t, x))  # fmt: skip
    assert diffusion.denoising_loss(right, x0, path, "v", seeded()) < 1e-6


def test_the_bound_of_one_gaussian_is_just_above_its_entropy():
    path, alpha_bar, centre = diffusion.make_path("cosine", 200), diffusion.alpha_bars("cosine", 200), torch.zeros(1, 3)
    x0 = torch.randn(4000, 3, generator=seeded())
    found = diffusion.bound_terms(lambda x, t: diffusion.mixture_guess(x, t, path, centre, 1.0), x0, path, alpha_bar, seeded(1))
    entropy = 1.5 * math.log(2 * math.pi * math.e)
    ratio = (1 - alpha_bar[2:]) / (1 - alpha_bar[1:-1])         # the true step back has this much more variance than eq. (5)
    gap = 3 * 0.5 * (ratio - 1 - ratio.log()).sum().item()
    assert found[0] < 1e-3 and abs(sum(found) - entropy - gap) < 0.1


def test_a_tenth_of_the_labels_is_dropped():
    torch.manual_seed(0)
    label = torch.arange(100_000) % 10
    dropped = diffusion.drop_labels(label)
    gone = dropped == diffusion.NO_LABEL
    assert abs(gone.float().mean() - 0.1) < 0.01 and torch.equal(dropped[~gone], label[~gone])


@pytest.mark.parametrize("settings", [{}, {"eta": 1.0}, {"heun": True}])
def test_a_walk_with_the_right_answer_ends_on_it(settings):
    path, x0 = diffusion.make_path("straight"), torch.randn(6, 2, generator=seeded())
    guess = lambda x, t: (x0, (x - path.signal[t] * x0) / path.noise[t])  # noqa: E731
    walk = diffusion.sample(guess, torch.randn(6, 2, generator=seeded(1)), path, 7, generator=seeded(2), keep=True, **settings)
    assert len(walk) == 8
    torch.testing.assert_close(walk[-1], x0, rtol=0, atol=1e-5)


def test_finish_from_a_low_level_stays_near():
    torch.manual_seed(0)
    net, path = diffusion.UNet(8).eval(), diffusion.make_path("straight")
    x0, label = torch.rand(4, 1, 28, 28, generator=seeded()) * 2 - 1, torch.zeros(4).long()
    near, far = ((diffusion.finish(net, x0, label, path, t, 5, seeded()) - x0).square().mean() for t in (50, 900))
    assert near < 0.02 < 0.2 < far


def test_digits_are_pictures_and_repeatable():
    torch.manual_seed(0)
    net, path, label = diffusion.UNet(8).eval(), diffusion.make_path("straight"), torch.arange(5)
    once, again = (diffusion.draw_digits(net, label, path, 3, generator=seeded()) for _ in range(2))
    assert once.shape == (5, 1, 28, 28) and once.abs().max() <= 1 and torch.equal(once, again)


def test_the_optimisers_share_all_weights_and_the_rates_rise_and_fall():
    from aigc_helpers.models.gpt_beyond import Muon

    net = diffusion.UNet(8)
    opts = diffusion.optimizers(net, Muon)
    held = [id(weight) for opt in opts for group in opt.param_groups for weight in group["params"]]
    assert sorted(held) == sorted(id(weight) for weight in net.parameters())
    rates = []
    for step in range(1, 101):
        diffusion.set_rates(opts, step, 100)
        rates.append(opts[1].param_groups[0]["lr"])
    assert rates[0] < rates[9] == max(rates) == rates[49] and rates[-1] < 0.05 * max(rates)
