"""04b_diffusion_beyond: its exported functions beyond the page's own checks, its panels, exercises, seeded faults."""

import math
from functools import partial

import pytest
import torch

from aigc_helpers import panels
from aigc_helpers.models import diffusion, diffusion_beyond
from tests.marking import assert_marked
from tests.panel_checks import answers_within, moved_together, other_value, use_every_control
from tests.seeded_faults import in_notebook, in_panels

NAME = "04b_diffusion_beyond.ipynb"
# In the browser: the panel stands at this button's values already.
NOTHING_TO_SEE = {"The ODE"}
SCHEDULES = diffusion_beyond.SCHEDULES


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def make_line():
    return diffusion_beyond.Mixture([[-1.0], [1.5]], 0.3, [0.75, 0.25])


def make_plane():
    return diffusion_beyond.Mixture([[-1.0, 0.0], [1.5, 0.5], [0.0, 2.0]], 0.4, [3.0, 1.0, 2.0])


def even(num_steps):
    return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)


# ---------------------------------------------------------------- schedules and the mixture


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_run_from_data_to_noise(schedule):
    alpha, sigma = diffusion_beyond.coefficients(double(0.0, 0.25, 0.5, 0.75, 1.0), schedule)
    assert alpha.dtype == torch.float64
    assert alpha[0] == 1 and sigma[0] == 0 and alpha[-1] < 0.01 and sigma[-1] > 0.99
    assert (alpha.diff() < 0).all() and (sigma.diff() > 0).all()


def test_the_offset_cosine_is_nichols():
    t = double(0.0, 0.2, 0.6, 1.0)
    want = ((t + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    alpha, _ = diffusion_beyond.coefficients(t, "offset cosine")
    torch.testing.assert_close(alpha.square(), want / want[0], rtol=1e-9, atol=1e-12)


def test_the_mixture_is_that_of_torch_distributions():
    mixture = make_plane()
    alpha, sigma = 0.7, 0.5
    width = math.sqrt((alpha * 0.4) ** 2 + sigma**2)
    each = torch.distributions.Independent(
        torch.distributions.Normal(alpha * mixture.centres, width), 1
    )
    share = torch.distributions.Categorical(double(3.0, 1.0, 2.0))
    known = torch.distributions.MixtureSameFamily(share, each)
    x = torch.randn(30, 2, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(mixture.log_prob(x, alpha, sigma), known.log_prob(x))
    moved = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(mixture.log_prob(moved, alpha, sigma).sum(), moved)
    torch.testing.assert_close(mixture.score(x, alpha, sigma), slope)
    torch.testing.assert_close(
        mixture.denoise(x, alpha, sigma), (x + sigma**2 * slope) / alpha, rtol=1e-8, atol=1e-8
    )


def test_the_denoised_estimate_is_chapter_04s_where_shares_are_equal():
    mixture = diffusion_beyond.Mixture([[-1.0, 0.0], [1.5, 0.5]], 0.4)
    x = torch.randn(30, 2, generator=seeded(), dtype=torch.float64)
    for name in ("cosine", "linear", "rectified flow"):
        schedule = diffusion.make_schedule(name)
        t = torch.tensor(0.4, dtype=torch.float64)
        want = diffusion.mixture_denoise(x, t, schedule, mixture.centres, 0.4)
        got = mixture.denoise(x, *diffusion_beyond.coefficients(t, name))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_samples_and_shares_of_a_mixture():
    mixture = make_line()
    x = mixture.sample(20_000, seeded())
    assert (x < 0.2).double().mean().item() == pytest.approx(0.75, abs=0.015)
    assert diffusion_beyond.ks_distance(x, mixture) < 0.015
    one = mixture.only([1])
    assert one.shares.tolist() == [1.0] and one.centres.tolist() == [[1.5]]
    line = torch.linspace(-4, 4, 4001, dtype=torch.float64)[:, None]
    density = mixture.log_prob(line, 0.8, 0.3).exp()
    area = torch.cumulative_trapezoid(density, line[:, 0])
    torch.testing.assert_close(mixture.cdf(line, 0.8, 0.3)[1:], area, rtol=0, atol=1e-5)


def test_the_ks_distance_of_a_shifted_sample_is_the_largest_gap():
    mixture = diffusion_beyond.Mixture([[0.0]], 1.0)
    grid = torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)[:, None]
    assert diffusion_beyond.ks_distance(grid, mixture) < 1e-3
    gap = diffusion_beyond.ks_distance(grid + 0.5, mixture)
    normal = torch.distributions.Normal(0.0, 1.0)
    want = normal.cdf(torch.tensor(0.25)) - normal.cdf(torch.tensor(-0.25))
    assert gap == pytest.approx(want.item(), abs=2e-3)


# ---------------------------------------------------------------- SDE, ODE, likelihood


def test_one_step_of_the_sde_has_the_drift_and_the_noise_of_eq_5():
    mixture = make_line()
    x = torch.full((200_000, 1), 0.7, dtype=torch.float64)
    times = double(0.5, 0.49)
    new = diffusion_beyond.simulate(mixture.score, x, times, "linear", 1.5, seeded())
    f, g2 = diffusion_beyond.drift_and_diffusion(times[0], "linear")
    s = mixture.score(x[:1], *diffusion_beyond.coefficients(times[0], "linear"))
    drift = f * 0.7 - 0.5 * g2 * s - 0.5 * 1.5**2 * g2 * s
    assert new.mean().item() == pytest.approx((0.7 - 0.01 * drift).item(), abs=3e-3)
    assert new.std().item() == pytest.approx(1.5 * math.sqrt(0.01 * g2.item()), rel=0.01)
    ode = diffusion_beyond.simulate(mixture.score, x[:2], times, "linear")
    assert torch.equal(ode[0], ode[1])
    kept = diffusion_beyond.simulate(mixture.score, x[:2], times, "linear", keep=True)
    assert len(kept) == 2 and torch.equal(kept[0], x[:2]) and torch.equal(kept[1], ode)


def test_the_divergence_of_a_linear_field_is_its_trace():
    matrix = torch.randn(3, 3, generator=seeded(), dtype=torch.float64)
    x = torch.randn(5, 3, generator=seeded(1), dtype=torch.float64)
    with torch.no_grad():  # as in a sampler
        u, spread = diffusion_beyond.divergence(lambda x, t: x @ matrix.T, x, 0.5)
    torch.testing.assert_close(u, x @ matrix.T)
    torch.testing.assert_close(spread, matrix.trace().expand(5))


def test_the_odes_likelihood_of_a_gaussian():
    one = diffusion_beyond.Mixture([[0.5, -0.5]], 0.5)
    x = one.sample(20, seeded())
    found = diffusion_beyond.ode_log_prob(diffusion_beyond.make_velocity(one.score), x, 200)
    torch.testing.assert_close(found, one.log_prob(x), rtol=0, atol=0.02)  # alpha(1) is not quite 0


def test_probes_estimate_the_trace_and_all_of_them_give_it_exactly():
    matrix = torch.randn(3, 3, generator=seeded(), dtype=torch.float64)
    x = torch.randn(5, 3, generator=seeded(1), dtype=torch.float64)
    probes = torch.randn(2, 5, 3, generator=seeded(2), dtype=torch.float64).sign()
    u, spread = diffusion_beyond.divergence(lambda x, t: x @ matrix.T, x, 0.5, probes)
    torch.testing.assert_close(u, x @ matrix.T)
    want = torch.einsum("kni,ij,knj->kn", probes, matrix, probes).mean(dim=0)
    torch.testing.assert_close(spread, want)
    mixture = make_plane()
    points = mixture.sample(6, seeded(3))
    velocity = diffusion_beyond.make_velocity(mixture.score)
    every = double(1.0, 1.0, 1.0, -1.0).reshape(2, 1, 2)  # the other two differ by a sign
    by_all = diffusion_beyond.ode_log_prob(velocity, points, 20, every)
    torch.testing.assert_close(by_all, diffusion_beyond.ode_log_prob(velocity, points, 20))
    torch.testing.assert_close(
        mixture.posterior(points).sum(dim=1), torch.ones(6, dtype=torch.float64)
    )


@pytest.mark.parametrize("schedule", ["linear", "rectified flow"])
def test_levels_have_the_signal_to_noise_ratio_that_is_asked_for(schedule):
    log_snr = double(-5.0, 0.0, 3.0)
    alpha, sigma = diffusion_beyond.levels_at(log_snr, schedule)
    torch.testing.assert_close(2 * (alpha / sigma).log(), log_snr)
    total = alpha + sigma if schedule == "rectified flow" else alpha.square() + sigma.square()
    torch.testing.assert_close(total, torch.ones_like(total))


def test_the_noise_error_of_a_gaussian_is_known():
    one = diffusion_beyond.Mixture([[0.0]], 0.5)
    alpha, sigma = double(0.6)[0], double(0.8)[0]
    x0 = double(0.3, -1.0)[:, None]
    variance = (0.6 * 0.5) ** 2 + 0.8**2
    # eps_hat = sigma x / variance, x = alpha x0 + sigma eps
    own = 1 - 0.8**2 / variance
    want = own**2 + (0.8 * 0.6 * x0[:, 0] / variance) ** 2
    got = diffusion_beyond.noise_error(one.score, x0, alpha, sigma)
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)


def test_the_bound_of_a_wrong_model_lies_above_the_truth_and_of_the_right_one_on_it():
    right = make_line()
    wrong = diffusion_beyond.Mixture([[-1.0], [1.5]], 0.5)
    x = right.sample(20, seeded())
    tight = diffusion_beyond.bound_of(right.score, x, num=401)
    torch.testing.assert_close(tight, -right.log_prob(x), rtol=0, atol=5e-3)
    other = diffusion_beyond.bound_of(wrong.score, x, num=401)
    torch.testing.assert_close(other, -wrong.log_prob(x), rtol=0, atol=5e-3)


def test_loss_weights_are_those_of_their_losses():
    """By the error that a small error of the noise makes in each target, and the density of the times."""
    log_snr = double(-4.0, -1.0, 0.5, 3.0)
    for loss, schedule, error_of in (
        ("noise, cosine", "cosine", lambda a, s: torch.ones_like(a)),
        ("data, cosine", "cosine", lambda a, s: s / a),
        ("velocity, uniform times", "rectified flow", lambda a, s: 1 + s / a),
    ):
        alpha, sigma = diffusion_beyond.levels_at(log_snr, schedule)
        t = sigma if schedule == "rectified flow" else 2 / math.pi * torch.atan(sigma / alpha)
        small = 1e-6
        a, s = diffusion_beyond.coefficients(t + small, schedule)
        rate = (2 * (a / s).log() - log_snr).abs() / small
        want = 2 * error_of(alpha, sigma).square() / rate
        torch.testing.assert_close(
            diffusion_beyond.loss_weight(loss, log_snr), want, rtol=1e-4, atol=1e-8
        )
    assert (diffusion_beyond.loss_weight("bound", log_snr) == 1).all()


def test_weights_of_other_times_and_of_edm_are_those_of_their_losses():
    log_snr = double(-4.0, -1.0, 0.5, 3.0)
    normal = torch.distributions.Normal(0.0, 1.0)
    t = torch.sigmoid(-log_snr / 2)
    density = torch.distributions.TransformedDistribution(
        normal, torch.distributions.transforms.SigmoidTransform()
    ).log_prob(t)
    want = density.exp() * diffusion_beyond.loss_weight("velocity, uniform times", log_snr)
    got = diffusion_beyond.loss_weight("velocity, logit-normal times", log_snr)
    torch.testing.assert_close(got, want)
    level = torch.exp(-log_snr / 2)  # sigma / alpha: Karras's sigma
    share = torch.distributions.LogNormal(-1.2, 1.2).log_prob(level).exp() * level / 2
    of_error = (level**2 + 0.25) / (level * 0.5) ** 2 * level**2
    got = diffusion_beyond.loss_weight("data, EDM", log_snr)
    torch.testing.assert_close(got, 2 * share * of_error)
    snr = log_snr.exp()
    got = diffusion_beyond.loss_weight("noise, cosine, min-SNR", log_snr)
    want = diffusion_beyond.loss_weight("noise, cosine", log_snr) * snr.clamp_max(5) / snr
    torch.testing.assert_close(got, want)


# ---------------------------------------------------------------- solvers and widths


@pytest.mark.parametrize("method", diffusion_beyond.METHODS)
@pytest.mark.parametrize("schedule", ["cosine", "rectified flow"])
def test_all_solvers_find_the_same_ends(method, schedule):
    mixture = make_plane()
    x = torch.randn(20, 2, generator=seeded(), dtype=torch.float64)
    truth = diffusion_beyond.solve(mixture.denoise, x, even(400) ** 1.5, schedule)
    found = diffusion_beyond.solve(mixture.denoise, x, even(100), schedule, method)
    bound = 0.08 if method == "Euler" else 0.015
    assert (found - truth).norm(dim=1).max() < bound


def test_heun_asks_twice_a_step_and_multistep_methods_once_and_nobody_at_time_0():
    mixture = make_plane()
    x = torch.randn(3, 2, generator=seeded(), dtype=torch.float64)
    for method, want in (("Euler", 6), ("AB2", 6), ("2M", 6), ("Heun", 11)):
        asked = []

        def denoise(x, alpha, sigma, asked=asked):
            asked.append(sigma.item())
            return mixture.denoise(x, alpha, sigma)

        diffusion_beyond.solve(denoise, x, even(6), "cosine", method)
        assert len(asked) == want and min(asked) > 0


def test_a_line_through_two_predictions_is_read_half_a_step_ahead():
    for last, step in ((0.1, 0.1), (0.2, 0.1), (0.1, 0.3)):
        new, old = 3 - 2 * 0.6, 3 - 2 * (0.6 + last)
        got = diffusion_beyond.midway(new, old, step / last)
        assert got == pytest.approx(3 - 2 * (0.6 - step / 2))


def test_2m_weighs_the_old_prediction_by_the_steps_of_log_alpha_over_sigma():
    times = double(0.7, 0.6, 0.3)
    levels = [diffusion_beyond.coefficients(t, "cosine") for t in times]
    ell = [(alpha / sigma).log() for alpha, sigma in levels]
    x, x0, old = (torch.randn(4, 2, generator=seeded(k), dtype=torch.float64) for k in range(3))
    got = diffusion_beyond._two_m_step(x, x0, (old, None), times, "cosine")
    h = ell[2] - ell[1]
    r = (ell[1] - ell[0]) / h
    middle = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * old  # Lu 2022, algorithm 2
    alpha, sigma = levels[2]
    want = sigma / levels[1][1] * x - alpha * torch.expm1(-h) * middle
    torch.testing.assert_close(got, want)


def test_spacings_run_from_one_to_zero_and_shift_the_way_they_say():
    times = diffusion_beyond.karras_times(8)
    assert len(times) == 9 and times[0] == 1 and times[-1] == 0 and (times.diff() < 0).all()
    roots = (times[1:-1] / (1 - times[1:-1])) ** (1 / 7)
    assert roots.diff().std() < 1e-9
    assert (times[-2] / (1 - times[-2])).item() == pytest.approx(0.002)
    shifted = diffusion_beyond.shift_times(double(1.0, 0.5, 0.0), 3.0)
    torch.testing.assert_close(shifted, double(1.0, 0.75, 0.0))


def test_a_velocity_network_is_read_as_a_denoised_estimate_within_the_range_of_pixels():
    seen = []

    def net(x, t, label):
        seen.append((t.tolist(), label.tolist()))
        return torch.full_like(x, 2.0)

    denoise = diffusion_beyond.flow_denoise(net, torch.tensor([3, 4]))
    got = denoise(torch.tensor([[0.75], [-0.9]]), double(0.75)[0], double(0.25)[0])
    torch.testing.assert_close(got, torch.tensor([[0.25], [-1.0]]))
    assert seen == [([0.25, 0.25], [3, 4])]
    free = diffusion_beyond.flow_denoise(net, torch.tensor([3, 4]), clip=False)
    got = free(torch.tensor([[0.75], [-0.9]]), double(0.75)[0], double(0.25)[0])
    torch.testing.assert_close(got, torch.tensor([[0.25], [-1.4]]))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_widths_are_those_of_chapter_04s_sampler(eta):
    schedule = diffusion.make_schedule("cosine")
    x = torch.randn(60_000, 1, generator=seeded())
    centres = torch.zeros(1, 1)

    def denoise(x, t):
        return diffusion.mixture_denoise(x, t, schedule, centres, 0.3)

    drawn = diffusion.sample(denoise, x, schedule, 12, eta, seeded(1))
    want = diffusion_beyond.sampled_width(0.3, even(12), "cosine", eta)
    assert drawn.std().item() == pytest.approx(want, rel=0.015)
    for num_steps in (3, 12):
        exact = diffusion_beyond.sampled_width(0.3, even(num_steps), "cosine", eta, "every")
        assert exact == pytest.approx(0.3, rel=1e-6)
    last = diffusion_beyond.sampled_width(0.3, even(12), "cosine", eta, "last")
    assert want < last < 0.3


# ---------------------------------------------------------------- guidance


def test_guidance_without_scale_is_the_labelled_score_and_langevin_keeps_its_density():
    mixture = make_line()
    one = mixture.only([0])
    x = torch.randn(9, 1, generator=seeded(), dtype=torch.float64)
    plain = diffusion_beyond.guided_score(one.score, mixture.score, 0.0)
    assert torch.equal(plain(x, 0.9, 0.4), one.score(x, 0.9, 0.4))
    start = one.sample(8000, seeded(1))
    level = double(0.8)[0], double(0.6)[0]
    noisy = 0.8 * start + 0.6 * torch.randn(8000, 1, generator=seeded(2), dtype=torch.float64)
    after = diffusion_beyond.langevin(one.score, noisy, *level, 20, seeded(3), size=0.1)
    assert not torch.equal(after, noisy)
    assert diffusion_beyond.ks_distance(after, one, *level) < 0.03
    away = diffusion_beyond.langevin(one.score, noisy + 2, *level, 150, seeded(3), size=0.1)
    assert diffusion_beyond.ks_distance(away, one, *level) < 0.03


def test_the_tilted_density_has_the_power_that_its_scale_says():
    mixture = make_line()
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    p, labelled = mixture.log_prob(x), mixture.only([1]).log_prob(x)
    posterior = labelled + math.log(0.25) - p
    for w in (0.0, 2.0):
        got = diffusion_beyond.tilted_log_prob(x, mixture, [1], w)
        want = p + (1 + w) * posterior
        torch.testing.assert_close(got - got[0], want - want[0])


def test_a_corrected_step_is_a_step_of_the_sde_and_then_langevin_steps_at_its_level():
    score = make_line().score
    x = torch.randn(6, 1, generator=seeded(), dtype=torch.float64)
    times = double(0.8, 0.5, 0.0)
    got = diffusion_beyond.predict_correct(score, x, times, "linear", 2, 0.5, seeded(1))
    random = seeded(1)
    want = diffusion_beyond.simulate(score, x, times[:2], "linear", 0.5, random)
    level = diffusion_beyond.coefficients(0.5, "linear")
    want = diffusion_beyond.langevin(score, want, *level, 2, random)
    torch.testing.assert_close(got, want)
    half = diffusion_beyond.annealed_langevin(score, x, times[:1], "linear", 1, seeded(2), size=0.1)
    level = diffusion_beyond.coefficients(0.8, "linear")
    torch.testing.assert_close(half, diffusion_beyond.langevin(score, x, *level, 1, seeded(2), 0.1))


# ---------------------------------------------------------------- DiT, students


def test_the_loss_of_the_average_velocity_moves_time_and_point_and_holds_its_target():
    a = torch.tensor(0.7, requires_grad=True)
    x0 = torch.randn(5, 2, generator=seeded())
    loss = diffusion_beyond.average_velocity_loss(lambda x, t: a * x + 0.3 * t, x0, seeded(1))
    loss.backward()
    random = seeded(1)
    t = torch.rand(5, 1, generator=random)
    eps = torch.randn(5, 2, generator=random)
    x = (1 - t) * x0 + t * eps
    target = (eps - x0) - t * (0.7 * (eps - x0) + 0.3)
    error = 0.7 * x + 0.3 * t - target
    torch.testing.assert_close(loss.detach(), error.square().mean())
    torch.testing.assert_close(a.grad, (2 * error * x).mean())


def make_unet():
    torch.manual_seed(0)
    net = diffusion.UNet(c=8)
    for weight in net.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.05)
    return net.eval().requires_grad_(False)


def test_a_dit_starts_at_zero_and_each_picture_is_judged_alone():
    torch.manual_seed(0)
    net = diffusion_beyond.DiT(d=16, num_blocks=2)
    x = torch.randn(4, 1, 28, 28, generator=seeded())
    t, label = torch.rand(4, generator=seeded(1)), torch.tensor([0, 3, 9, diffusion.NO_LABEL])
    assert not net(x, t, label).any()
    for weight in net.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    with torch.no_grad():
        out = net(x, t, label)
        torch.testing.assert_close(net(x[1:2], t[1:2], label[1:2]), out[1:2], rtol=1e-4, atol=1e-5)
        other = net(x, t, (label + 1) % 11)
    assert ((out - other).abs().amax(dim=(1, 2, 3)) > 1e-4).all()


def test_a_dits_patches_go_back_to_where_they_came_from():
    torch.manual_seed(0)
    net = diffusion_beyond.DiT(d=16, num_blocks=0)
    with torch.no_grad():
        torch.nn.init.normal_(net.leave.weight)
        base = torch.zeros(1, 1, 28, 28)
        lit = base.clone()
        lit[0, 0, 8:12, 20:24] = 1.0
        t, label = torch.tensor([0.5]), torch.tensor([1])
        change = (net(lit, t, label) - net(base, t, label)).abs() > 1e-6
    outside = change.clone()
    outside[0, 0, 8:12, 20:24] = False
    assert change.any() and not outside.any()


def make_trajectories(num=6, num_steps=4):
    label = torch.arange(num) % 10
    return diffusion_beyond.collect(make_unet(), label, num_steps, seeded(2)), label


def test_trajectories_are_chapter_04s_ddim():
    trajectories, label = make_trajectories()
    assert trajectories.shape == (5, 6, 1, 28, 28) and trajectories.dtype == torch.float16
    x = trajectories[0].float()
    end = diffusion.draw_digits(make_unet(), label, 4, eta=0.0, x=x, clip=False, keep=True)[-1]
    torch.testing.assert_close(trajectories[-1].float(), end, rtol=0, atol=0.02)
    assert x.std() > 0.9


def test_targets_of_students_lead_to_the_ends_of_their_own_trajectories():
    trajectories, _ = make_trajectories()
    index = torch.tensor([4, 0, 5])
    x, t, target = diffusion_beyond.student_batch("reflow", trajectories, index, seeded())
    ratio = t[:, None, None, None]
    eps = trajectories[0, index].float()
    torch.testing.assert_close(x + (1 - ratio) * target, eps, rtol=0, atol=1e-5)
    torch.testing.assert_close(x - ratio * target, trajectories[-1, index].float(), rtol=0, atol=1e-5)
    x, t, target = diffusion_beyond.student_batch("distilled", trajectories, index, seeded())
    ratio = t[:, None, None, None]
    torch.testing.assert_close(x - ratio * target, trajectories[-1, index].float(), rtol=0, atol=1e-5)
    for k, (time, i) in enumerate(zip(t.tolist(), index.tolist(), strict=True)):
        assert torch.equal(x[k], trajectories[round(4 * (1 - time)), i].float())
    with pytest.raises(ValueError, match="student_batch: unknown kind"):
        diffusion_beyond.student_batch("other", trajectories, index)


@pytest.mark.parametrize("kind", ["reflow", "distilled"])
def test_a_student_starts_as_the_teacher_and_comes_nearer_to_its_targets(kind):
    teacher = make_unet()
    before = [weight.clone() for weight in teacher.parameters()]
    label = torch.arange(64) % 10
    trajectories = diffusion_beyond.collect(teacher, label, 4, seeded(2))
    student, losses = diffusion_beyond.train_student(kind, teacher, trajectories, label, 15)
    again, _ = diffusion_beyond.train_student(kind, teacher, trajectories, label, 15)
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), again.parameters(), strict=True))
    assert sum(losses[-4:]) < sum(losses[:4])


def test_a_consistency_model_denoises_and_adds_fresh_noise_in_between():
    net, label = make_unet(), torch.tensor([3, 4])
    x = torch.randn(2, 1, 28, 28, generator=seeded(6))
    one = diffusion_beyond.draw_consistent(net, label, 1, x)
    torch.testing.assert_close(one, diffusion.draw_digits(net, label, 1, eta=0.0, x=x), rtol=0, atol=0.02)
    seen = []

    def spy(x, t, label):
        seen.append((x.clone(), t[0].item()))
        return net(x, t, label)

    two = diffusion_beyond.draw_consistent(spy, label, 2, x, seeded(7))
    assert [t for _, t in seen] == [1.0, 0.5]
    fresh = (seen[1][0] - 0.5 * one) / 0.5
    want = torch.randn(2, 1, 28, 28, generator=seeded(7))
    torch.testing.assert_close(fresh, want, rtol=0, atol=0.05)
    assert two.abs().max() <= 1
    with pytest.raises(ValueError, match="draw_consistent: num_evals must be a whole number"):
        diffusion_beyond.draw_consistent(net, label, 0, x)


BAD = {
    "schedule": (lambda: diffusion_beyond.coefficients(0.5, "square"), "coefficients: unknown schedule"),
    "width": (lambda: diffusion_beyond.Mixture([[0.0]], 0.0), "Mixture: width"),
    "noise_scale": (
        lambda: diffusion_beyond.simulate(None, torch.zeros(1, 1), even(1), "linear", -1.0),
        "simulate: noise_scale",
    ),
    "method": (
        lambda: diffusion_beyond.solve(None, torch.zeros(1, 1), even(1), "cosine", "RK4"),
        "solve: unknown method",
    ),
    "steps": (lambda: diffusion_beyond.ode_log_prob(None, torch.zeros(1, 1), 0), "num_steps must be"),
    "loss": (lambda: diffusion_beyond.loss_weight("hinge", double(0.0)), "loss_weight: unknown loss"),
    "fresh": (lambda: diffusion_beyond.sampled_width(1.0, even(2), "cosine", fresh="x"), "sampled_width: unknown fresh"),
    "scale": (lambda: diffusion_beyond.guided_score(None, None, math.nan), "guided_score: w"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_input_gets_one_message_that_says_what_and_where(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 220


# ---------------------------------------------------------------- exercises

ANSWERS = {  # number -> (an answer that works in place and is right, those that are wrong)
    1: ("g2_at_half = 3.14159265", ["g2_at_half = math.pi / 2", "g2_at_half = -math.pi", "g2_at_half = 1.0"]),
    2: (
        """
def backward_drift(f, g2, h2, x, s):
    return f * x - (g2 + h2) / 2 * s
""",
        [
            """
def backward_drift(f, g2, h2, x, s):
    return f * x - g2 * s
""",
            """
def backward_drift(f, g2, h2, x, s):
    return f * x - 0.5 * g2 * s + 0.5 * h2 * s
""",
            """
def backward_drift(f, g2, h2, x, s):
    return f * x - 0.5 * h2 * s
""",
        ],
    ),
    3: (
        """
def guided_velocity(net, x, t, label, guidance_scale):
    w = guidance_scale - 1
    without = net(x, t, label * 0 + NO_LABEL)
    with_label = net(x, t, label)
    return with_label + w * (with_label - without)
""",
        [
            """
def guided_velocity(net, x, t, label, guidance_scale):
    without = net(x, t, torch.full_like(label, NO_LABEL))
    labelled = net(x, t, label)
    return labelled + guidance_scale * (labelled - without)
""",
            """
def guided_velocity(net, x, t, label, guidance_scale):
    without = net(x, t, torch.full_like(label, NO_LABEL))
    return net(x, t, label) + guidance_scale * without
""",
            """
def guided_velocity(net, x, t, label, guidance_scale):
    without = net(x, t, torch.zeros_like(label))
    return without + guidance_scale * (net(x, t, label) - without)
""",
        ],
    ),
    4: (
        """
def weight_of_v(log_snr):
    return loss_weight("noise, cosine", log_snr) / torch.sigmoid(log_snr)
""",
        [
            """
def weight_of_v(log_snr):
    return loss_weight("noise, cosine", log_snr)
""",
            """
def weight_of_v(log_snr):
    return torch.exp(-log_snr / 2)
""",
            """
def weight_of_v(log_snr):
    return loss_weight("noise, cosine", log_snr) * torch.sigmoid(log_snr)
""",
        ],
    ),
    5: (
        """
def next_prediction(new, old, last, step):
    slope = (new - old) / last
    return new + slope * step / 2
""",
        [
            """
def next_prediction(new, old, last, step):
    return 1.5 * new - 0.5 * old
""",
            """
def next_prediction(new, old, last, step):
    return new + step / last * (new - old)
""",
            """
def next_prediction(new, old, last, step):
    return new + 0.5 * last / step * (new - old)
""",
        ],
    ),
    6: (
        """
def noise_to_add(width, alpha, sigma, alpha_s, sigma_s):
    precision = 1 / width**2 + alpha**2 / sigma**2
    return abs(alpha_s - sigma_s / sigma * alpha) / precision**0.5
""",
        [
            """
def noise_to_add(width, alpha, sigma, alpha_s, sigma_s):
    uncertain = (width * sigma) ** 2 / ((alpha * width) ** 2 + sigma**2)
    return (alpha_s - sigma_s * alpha / sigma) ** 2 * uncertain
""",
            """
def noise_to_add(width, alpha, sigma, alpha_s, sigma_s):
    return width * sigma / math.sqrt((alpha * width) ** 2 + sigma**2)
""",
            """
def noise_to_add(width, alpha, sigma, alpha_s, sigma_s):
    return 0.0
""",
        ],
    ),
    7: (
        "my_times = torch.tensor([1.0, 0.98, 0.77, 0.68, 0.45, 0.32, 0.2, 0.09, 0.0])",
        [
            "my_times = [1 - k / 8 for k in range(9)]",
            "my_times = [1.0, 0.985, 0.772, 0.681, 0.454, 0.323, 0.202, 0.15, 0.1, 0.0]",
            "my_times = [1.0, 0.985, 0.681, 0.772, 0.454, 0.323, 0.202, 0.089, 0.0]",
            "my_times = [(1 - k / 8) ** 2 for k in range(9)]",
            "my_times = [0.99, 0.985, 0.772, 0.681, 0.454, 0.323, 0.202, 0.089, 0.0]",
        ],
    ),
}


def test_answers_are_marked_for_what_they_are():
    assert_marked(NAME, {number: (right, *wrong) for number, (right, wrong) in ANSWERS.items()})


# ---------------------------------------------------------------- panels

MAKERS = {
    "two_ways": lambda: panels.diffusion_beyond.two_ways(),
    "guided_line": lambda: panels.diffusion_beyond.guided_line(),
    "few_evaluations": lambda: panels.diffusion_beyond.few_evaluations(*make_three_nets()),
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def make_three_nets():
    """Three networks that differ, so that another model is another picture."""
    nets = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = diffusion.UNet(c=8)
        for weight in net.parameters():
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.05)
        nets.append(net)
    return nets


def test_every_control_and_button_draws_once_and_all_can_be_read(make):
    use_every_control(make())


def test_a_panel_answers_within_100_ms(make):
    panel = make()
    for key, control in panel.controls.items():
        assert answers_within(panel, 100, **{key: other_value(control)}), f"{panel.title}, {key}"


def test_two_panels_of_a_kind_moved_at_once_draw_what_each_would_alone(make):
    assert moved_together(make) == 0


def test_a_storyboard_is_the_same_each_time_and_the_page_is_left_alone(make):
    torch.manual_seed(5)
    first = make()
    torch.manual_seed(5)
    second = make()
    assert first._storyboard == second._storyboard


def test_panels_of_the_line_leave_the_pages_random_numbers_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    panels.diffusion_beyond.two_ways()
    panels.diffusion_beyond.guided_line()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_panels_cloud_keeps_to_its_density_and_melts_without_the_drift():
    mixture = make_line()
    gaps = {}
    for noise_scale in (0.0, 1.0):
        for drift in ("noise and its drift", "noise alone"):
            end = panels.diffusion_beyond.walk_of(mixture, noise_scale, 100, drift, 1)[-1]
            gaps[noise_scale, drift] = diffusion_beyond.ks_distance(end, mixture)
    assert gaps[0.0, "noise and its drift"] == gaps[0.0, "noise alone"] < 0.04
    assert gaps[1.0, "noise and its drift"] < 0.04 < 0.1 < gaps[1.0, "noise alone"]


def test_the_panels_guidance_is_no_guidance_at_0_and_corrections_bring_it_to_the_tilted_density():
    panel = panels.diffusion_beyond
    mixture = diffusion_beyond.Mixture(panel.TWO_CLASSES, panel.WIDTH)
    plain = panel.draw_guided(0.0, 0.0, 60, 0, 0)
    assert diffusion_beyond.ks_distance(plain, mixture.only(panel.CHOSEN)) < 0.06
    line = torch.linspace(-5, 3, 801, dtype=torch.float64)[:, None]
    tilted = diffusion_beyond.tilted_log_prob(line, mixture, panel.CHOSEN, 3.0).exp()
    aim = ((line[:, 0] * tilted).sum() / tilted.sum()).item()
    away = [abs(panel.draw_guided(3.0, c, 40, k, 0).mean().item() - aim) for c, k in ((0, 0), (1, 0), (0, 4))]
    assert away[0] > away[1] > away[2] and away[0] > 0.5


# ---------------------------------------------------------------- seeded faults

page = partial(in_notebook, NAME)
panel = partial(in_panels, "diffusion_beyond")

MIXTURE = "test_the_mixture_is_that_of_torch_distributions"
STUDENTS = "test_targets_of_students_lead_to_the_ends_of_their_own_trajectories"
CONSISTENT = "test_a_consistency_model_denoises_and_adds_fresh_noise_in_between"
AVERAGE = "test_the_loss_of_the_average_velocity_moves_time_and_point_and_holds_its_target"
WEIGHTS = "test_loss_weights_are_those_of_their_losses"
OTHER_WEIGHTS = "test_weights_of_other_times_and_of_edm_are_those_of_their_losses"
MARKS = "test_answers_are_marked_for_what_they_are"

FAULTS = [
    page("the offset left out", "angle = (t + OFFSET) / (1 + OFFSET) * math.pi / 2\n    alpha", "angle = t * math.pi / 2\n    alpha"),
    page("eq. (1): half the drift of linear", "f = -0.05 - 9.95 * t", "f = -0.025 - 4.975 * t"),
    page("eq. (1): rectified flow's diffusion", "return f, -2 * t * f", "return f, -2 * f"),
    page("the mixture forgets its shares", "log_part = self.shares.log() - size", "log_part = 0 * self.shares - size", MIXTURE),
    page("the mixture's variance forgets the noise", "(alpha * self.width) ** 2 + sigma**2, dtype=torch.float64)\n        offset", "(alpha * self.width) ** 2 + 0.1 + 0 * sigma, dtype=torch.float64)\n        offset"),
    page("the score points downhill", "return -(log_part.softmax(dim=1)", "return (log_part.softmax(dim=1)"),
    page("the denoised estimate does not shrink", "alpha * self.width**2 / variance * offset", "0 * self.width**2 / variance * offset"),
    page("eq. (2): the diffusion not halved", "diffusion = 0.5 * g2 *", "diffusion = g2 *"),
    page("eq. (3): the score's share of the velocity doubled", "u = f * x - 0.5 * g2 * s\ncontinuity", "u = f * x - g2 * s\ncontinuity"),
    page("eq. (5): the noise is not paid for", "drift = drift - 0.5 * noise_scale**2 * g2 * s", "drift = drift - 0.0 * noise_scale**2 * g2 * s"),
    page("eq. (5): paid for once too little", "0.5 * noise_scale**2 * g2 * s", "0.5 * noise_scale * g2 * s", "test_one_step_of_the_sde_has_the_drift_and_the_noise_of_eq_5"),
    page("eq. (5): the noise of a whole step", "(g2 * dt).sqrt() * z", "(g2 * dt) * z"),
    page("ks: only points above count", "torch.maximum(below - rank, rank + 1 / len(x) - below)", "below - rank", "test_the_ks_distance_of_a_shifted_sample_is_the_largest_gap"),
    page("eq. (6): the sign", "return -0.5 * (x.square() + LOG_2_PI).sum(dim=1) + gathered", "return -0.5 * (x.square() + LOG_2_PI).sum(dim=1) - gathered"),
    page("eq. (7): Euler's divergence alone", "gathered + dt * (spread + spread_there) / 2", "gathered + dt * spread / 2"),
    page("the divergence sees one coordinate", "total = total + slope[:, i]", "total = slope[:, i]", "test_the_divergence_of_a_linear_field_is_its_trace"),
    page("eq. (8): the second v forgotten", "estimates.append((v_times_J * v).sum(dim=1))", "estimates.append(v_times_J.sum(dim=1))"),
    page("eq. (8) in (7): the second v forgotten", "(v_times_J * v).sum(dim=1) / len(probes)", "v_times_J.sum(dim=1) / len(probes)"),
    page("eq. (8) in (7): probes added, not averaged", "(v_times_J * v).sum(dim=1) / len(probes)", "(v_times_J * v).sum(dim=1)"),
    page("bits: the width of a level forgotten", "-log_p / (num_dims * math.log(2)) + math.log2(255 / 2)", "-log_p / (num_dims * math.log(2))"),
    page("eq. (9): the half forgotten", "middle = 0.5 * torch.trapezoid(torch.stack(errors), log_snr, dim=0)", "middle = torch.trapezoid(torch.stack(errors), log_snr, dim=0)"),
    page("eq. (9): the last step forgotten", "return first + middle + last", "return first + middle + 0 * last"),
    page("levels by the ratio of variances, not of widths", "sigma = torch.sigmoid(-log_snr / 2)", "sigma = torch.sigmoid(-log_snr)", "test_levels_have_the_signal_to_noise_ratio_that_is_asked_for"),
    page("eq. (11): rectified flow's weight upside down", "weight = torch.exp(-log_snr / 2)", "weight = torch.exp(log_snr / 2)", WEIGHTS),
    page("logit-normal times: not a density of t", "normal_density(log_snr / 2) / (t * (1 - t))", "normal_density(log_snr / 2) + 0 * t", OTHER_WEIGHTS),
    page("EDM: the noise's mean forgotten", "normal_density((1.2 - log_snr / 2) / 1.2)", "normal_density((0 - log_snr / 2) / 1.2)", OTHER_WEIGHTS),
    page("min-SNR: the SNR itself", "of_noise * (5 * torch.exp(-log_snr)).clamp_max(1)", "of_noise * (5 * torch.exp(log_snr)).clamp_max(1)", OTHER_WEIGHTS),
    page("eq. (11): the noise's weight without pi", "1 / (math.pi * torch.cosh(log_snr / 2))", "1 / torch.cosh(log_snr / 2)", WEIGHTS),
    page("the data's weight is the noise's", "of_noise * torch.exp(-log_snr)", "of_noise * torch.exp(-0 * log_snr)", WEIGHTS),
    page("eq. (12): a whole step ahead", "return new + 0.5 * ratio * (new - old)", "return new + ratio * (new - old)"),
    page("Heun keeps the first prediction", "x0 = (x0 + x0_there) / 2", "x0 = (x0 + x0) / 2"),
    page("2M: the ratio upside down", "ratio = step / ((alpha / sigma).log()", "ratio = 1 / step * ((alpha / sigma).log()", "test_2m_weighs_the_old_prediction_by_the_steps_of_log_alpha_over_sigma"),
    page("eq. (13): alpha of the wrong time", "(alpha_s - alpha * sigma_s / sigma) * middle", "(alpha - alpha * sigma_s / sigma) * middle"),
    page("the last step is not cut", "torch.cat([times[:-1], times[-2] * even(parts)[1:].square()])", "times + 0 * parts"),
    page("Karras: even in the level itself", "torch.tensor([high, low], dtype=torch.float64) ** (1 / rho)", "torch.tensor([high, low], dtype=torch.float64) ** (1 / 3 / rho)"),
    page("a shift the other way", "shift * times / (1 + (shift - 1) * times)", "times / (shift - (shift - 1) * times)"),
    page("the network's velocity not scaled by sigma", "x0 = x - float(sigma) * velocity.float()", "x0 = x - velocity.float()"),
    page("eq. (14): the noise forgotten", "variance = factor**2 * variance + step**2", "variance = factor**2 * variance", "test_widths_are_those_of_chapter_04s_sampler"),
    page("eq. (15): the last step alone", 'if fresh == "every" or (', 'if fresh == "never2" or ('),
    page("eq. (14): the factor not squared", "variance = factor**2 * variance", "variance = factor * variance"),
    page("eq. (17): guidance the other way", "return labelled + w * (labelled - without(x, alpha, sigma))", "return labelled - w * (labelled - without(x, alpha, sigma))"),
    page("eq. (16): another class's probability", "in_each[:, BLUE].sum(dim=1).log()", "in_each[:, :1].sum(dim=1).log()"),
    page("Langevin without its climb", "x + 0.5 * size * sigma**2 * score(x, alpha, sigma)", "x + 0.0 * size * sigma**2 * score(x, alpha, sigma)", "test_guidance_without_scale_is_the_labelled_score_and_langevin_keeps_its_density"),
    page("Langevin climbs twice too far", "0.5 * size * sigma**2 *", "2.0 * size * sigma**2 *", "test_guidance_without_scale_is_the_labelled_score_and_langevin_keeps_its_density"),
    page("eq. (18): a gate that is always open", "h = h + gate1 * self.attend", "h = h + self.attend"),
    page("DiT: patches put back in another order", "patches = self.leave(self.norm(h)).transpose(1, 2)", "patches = self.leave(self.norm(h.flip(1))).transpose(1, 2)", "test_a_dits_patches_go_back_to_where_they_came_from"),
    page("DiT: the label is not read", "self.time(time_embedding(t)) + self.label(label)", "self.time(time_embedding(t)) + 0 * self.label(label)", "test_a_dit_starts_at_zero_and_each_picture_is_judged_alone"),
    page("eq. (19): velocity the wrong way", "return (1 - ratio) * x0 + ratio * eps, t, eps - x0", "return (1 - ratio) * x0 + ratio * eps, t, x0 - eps", STUDENTS),
    page("eq. (20): not divided by t", "return x, t, (x - x0) / t[:, None, None, None]", "return x, t, (x - x0)", STUDENTS),
    page("eq. (20): times from the wrong end", "t = 1 - k / num_steps", "t = (k + 1) / num_steps", STUDENTS),
    page("eq. (21): the sign", "u - t * change, average", "u + t * change, average"),
    page("eq. (21) as a loss: the sign", "target = velocity - t * change", "target = velocity + t * change", AVERAGE),
    page("eq. (21) as a loss: time stands still", "(velocity, torch.ones_like(t))", "(velocity, torch.zeros_like(t))", AVERAGE),
    page("eq. (21) as a loss: a gradient through the target", "(average - target.detach())", "(average - target)", AVERAGE),
    page("consistency: the old noise again", "fresh = torch.randn(x0.shape, generator=generator).to(x0)", "fresh = x.to(x0)[: len(x0)] + 0 * torch.randn(x0.shape, generator=generator)", CONSISTENT),
    page("consistency: no noise in between", "noisy = (1 - s) * x0 + s * fresh", "noisy = x0 + 0 * fresh", CONSISTENT),
    page("mark 1 takes half", "want = slope_variance - 2 *", "want = slope_variance - 1 *", "exercises"),
    page("mark 2 looks at the ODE alone", 'check("h = g is the reverse SDE", answer(f, g2, g2, x, s), f * x - g2 * s)\n    check("h^2 = 3 g^2", answer(f, g2, 3 * g2, x, s), f * x - 2 * g2 * s)', "pass", MARKS),
    page("mark 3 takes w for 1 + w", "x0_guided = x0_labelled + 2 *", "x0_guided = x0_labelled + 3 *", "exercises"),
    page("mark 4 takes the noise's weight", "(error / 0.1).square()", "(error / error).square()", MARKS),
    page("mark 5 looks at equal steps alone", "check(name, answer(line(t), line(t + last), last, step), want)", "check(name, answer(line(t), line(t + step), step, step), want)", MARKS),
    page("mark 7 is content with even times", "bound = 0.5 * distance", "bound = 1.5 * distance", MARKS),
    panel(
        "the panel pays for noise always",
        'pull=drift == "noise and its drift"',
        "pull=True",
        "test_the_panels_cloud_keeps_to_its_density_and_melts_without_the_drift",
    ),
    panel(
        "the panel's corrections are left out",
        "predict_correct(score, x, times, SCHEDULE, corrections, noise_scale, random)",
        "predict_correct(score, x, times, SCHEDULE, 0, noise_scale, random)",
        "test_the_panels_guidance_is_no_guidance_at_0_and_corrections_bring_it_to_the_tilted_density",
    ),
    panel(
        "the panel guides by the wrong class",
        "guided_score(mixture.only(CHOSEN).score, mixture.score, w)",
        "guided_score(mixture.score, mixture.score, w)",
        "test_the_panels_guidance_is_no_guidance_at_0_and_corrections_bring_it_to_the_tilted_density",
    ),
]
