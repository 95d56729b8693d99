"""06_side_by_side: its exported functions beyond the page's own checks, its panels, its exercises, its seeded faults."""

import copy
import math
import time
from functools import partial

import pytest
import torch

import tools
from aigc_helpers import panels, plotting
from aigc_helpers.models import side_by_side
from aigc_helpers.weights import read_asset, read_experiment
from tests.marking import run_exercises
from tests.panel_checks import answers_within, check_drawing, moved_together, other_value, use_every_control
from tests.seeded_faults import in_notebook, in_panels

NAME = "06_side_by_side.ipynb"
page = partial(in_notebook, NAME)
panel = partial(in_panels, "side_by_side")


# ---------------------------------------------------------------- the game, morph, text, clinic


# ---------------------------------------------------------------- where the truth is known


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_flow(num_layers=8):
    """A flow that moves points far, in 64 bits."""
    torch.manual_seed(3)
    flow = side_by_side.Flow(num_layers, hidden=16).double()
    for layer in flow.layers:
        layer.net[-1].weight.data *= 6
    return flow


def still_flow(num_layers=8):
    """A flow whose layers move nothing."""
    flow = side_by_side.Flow(num_layers)
    for layer in flow.layers:
        layer.net[-1].weight.data.zero_()
        layer.net[-1].bias.data.zero_()
    return flow


def test_the_truth_has_eight_unequal_modes_with_next_to_nothing_between():
    points = side_by_side.TRUTH.sample(40_000, seeded())
    shares = side_by_side.near_shares(points)
    want = torch.arange(8.0, 0.0, -1.0) / 36
    torch.testing.assert_close(shares, want, rtol=0, atol=0.01)
    assert 1 - shares.sum() < 0.002


def test_shares_are_counted_within_four_widths_of_a_centre():
    width = side_by_side.TRUTH_WIDTH
    inside = side_by_side.TRUTH.centres + torch.tensor([3.9 * width, 0.0])
    outside = side_by_side.TRUTH.centres + torch.tensor([0.0, 4.1 * width])
    shares = side_by_side.near_shares(torch.cat([inside, outside]))
    torch.testing.assert_close(shares, torch.full((8,), 1 / 16))


def test_a_coupling_layer_goes_back_and_has_the_determinant_of_its_jacobian():
    layer = random_flow().layers[0]
    x = torch.randn(6, 2, generator=seeded(), dtype=torch.float64)
    moved, log_det = layer(x)
    torch.testing.assert_close(layer.inverse(moved), x)
    assert torch.equal(moved[:, 1], x[:, 0])  # the half that stays, in the other place
    for k in range(6):
        jacobian = torch.autograd.functional.jacobian(lambda point: layer(point[None])[0][0], x[k])
        torch.testing.assert_close(log_det[k], jacobian.det().abs().log())


def test_a_flow_adds_up_what_its_layers_stretch():
    flow = random_flow()
    x = torch.randn(4, 2, generator=seeded(), dtype=torch.float64)
    z, log_det = flow(x)
    torch.testing.assert_close(flow.sample(z), x)
    jacobian = torch.autograd.functional.jacobian(lambda point: flow(point[None])[0][0], x[1])
    torch.testing.assert_close(log_det[1], jacobian.det().abs().log())
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(flow.log_prob(x), normal.log_prob(z).sum(dim=1) + log_det)


def test_a_flow_that_moves_nothing_is_the_normal_distribution():
    x = torch.randn(50, 2, generator=seeded())
    flow = still_flow()
    torch.testing.assert_close(flow.log_prob(x), side_by_side.log_standard_normal(x))
    torch.testing.assert_close(flow.sample(x), x)
    with pytest.raises(ValueError, match="num_layers"):
        side_by_side.Flow(0)


def test_the_binned_model_draws_from_the_density_that_it_states():
    torch.manual_seed(0)
    model = side_by_side.BinnedModel(num_bins=4, hidden=8)
    with torch.no_grad():
        model.first.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]))
        model.second[-1].weight *= 4
        points = model.sample(60_000, seeded())
        assert points.abs().max() <= side_by_side.PLANE_LIMIT
        index = ((points + side_by_side.PLANE_LIMIT) / model.bin_width).long()
        counts = torch.bincount(index[:, 0] * 4 + index[:, 1], minlength=16) / len(points)
        middle = (torch.arange(4) + 0.5) * model.bin_width - side_by_side.PLANE_LIMIT
        stated = model.log_prob(torch.cartesian_prod(middle, middle)).exp() * model.bin_width**2
        torch.testing.assert_close(counts, stated, rtol=0, atol=0.006)
        offset = (points / model.bin_width) % 1
        assert abs(offset.mean() - 0.5) < 0.01  # uniform within a bin
        far = model.log_prob(torch.tensor([[9.0, -9.0]]))
        torch.testing.assert_close(far, model.log_prob(torch.tensor([[2.3, -2.3]])))


def exact_log_prob(model, x):
    """log p(x) of a VAE in the plane, by a sum over a grid of its two latent numbers."""
    z = plotting.plane(161, limit=5.0)
    log_joint = side_by_side.log_standard_normal(z)[:, None]
    log_joint = log_joint + side_by_side.gaussian_log_likelihood(
        model.decode(z)[:, None], x, model.log_s
    )
    return log_joint.logsumexp(dim=0) + 2 * math.log(10.0 / 160)


def test_the_vaes_bound_is_below_log_p_and_comes_near_it():
    torch.manual_seed(0)
    model = side_by_side.PlaneVAE(hidden=16)
    x = side_by_side.TRUTH.sample(20, seeded()).float()
    with torch.no_grad():
        exact = exact_log_prob(model, x)
        near = model.log_prob_bound(x, k=20_000, generator=seeded())
        one = torch.stack([model.log_prob_bound(x, 1, seeded(k)) for k in range(400)]).mean(dim=0)
        elbo = -torch.stack([model.loss(x, seeded(k)) for k in range(400)]).mean()
    torch.testing.assert_close(near, exact, rtol=0, atol=0.3)
    assert (one < exact + 0.05).all() and (one < near).all()
    assert one.mean().item() == pytest.approx(elbo.item(), rel=0.1)


def test_the_grids_cells_hold_the_truths_probability_where_its_points_fall():
    p = side_by_side.true_cells()
    points = side_by_side.TRUTH.sample(200_000, seeded()).float()
    counted = side_by_side.count_cells(points) / len(points)
    torch.testing.assert_close(counted.double(), p, rtol=0, atol=0.003)
    assert side_by_side.count_cells(torch.tensor([[9.0, -9.0]]))[31, 0] == 1


def test_the_kl_of_a_histogram_is_near_that_of_two_known_densities():
    shifted = side_by_side.Mixture(
        side_by_side.TRUTH_CENTRES + torch.tensor([0.06, 0.0]),
        side_by_side.TRUTH_WIDTH,
        side_by_side.TRUTH_SHARES,
    )
    found = side_by_side.grid_kl(shifted.sample(200_000, seeded()).float())
    want = 0.5 * (0.06 / side_by_side.TRUTH_WIDTH) ** 2  # of two Gaussians of one width
    assert found == pytest.approx(want, abs=0.03)
    fewer = side_by_side.TRUTH.only([0, 1, 2, 3, 4, 5, 6]).sample(20_000, seeded()).float()
    assert side_by_side.grid_kl(fewer) > 0.1 and side_by_side.score_points(fewer, fewer)["modes"] == 7


def test_samples_alone_give_the_measures_of_samples():
    held_out = side_by_side.TRUTH.sample(500, seeded()).float()
    row = side_by_side.score_points(torch.zeros(500, 2), held_out)
    assert row["modes"] == 0 and row["between"] == 100 and row["energy"] > 100


def test_what_a_family_minimises_and_states():
    x = side_by_side.TRUTH.sample(64, seeded()).float()
    for family in side_by_side.PLANE_FAMILIES:
        torch.manual_seed(0)
        model = side_by_side.make_plane(family)
        log_p = side_by_side.plane_log_prob(family, model, x[:3], seeded())
        assert log_p is None if family == "GAN" else log_p.shape == (3,)
        if family in ("autoregressive", "flow"):
            loss = side_by_side.plane_loss(family, model, x)
            torch.testing.assert_close(loss, -model.log_prob(x).mean())
        drawn = side_by_side.draw_plane(family, model, 7, seeded(1))
        again = side_by_side.draw_plane(family, model, 7, seeded(1))
        assert drawn.shape == (7, 2) and torch.equal(drawn, again)
    for call in (side_by_side.make_plane, lambda name: side_by_side.train_plane(name, x, 1)):
        with pytest.raises(ValueError, match="family"):
            call("transformer")


def test_the_diffusions_log_density_is_the_odes():
    """Of a velocity that only shrinks: at time t the points are (1 - t/2) x, so p_0 is a normal of width 2."""

    class Shrink(torch.nn.Module):
        def forward(self, x, t):
            return -0.5 * x / (1 - 0.5 * t.reshape(-1, 1))

    x = torch.randn(5, 2, generator=seeded())
    found = side_by_side.plane_log_prob("diffusion", Shrink(), x)
    want = torch.distributions.Normal(0.0, 2.0).log_prob(x).sum(dim=1)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-3)


@pytest.mark.parametrize("family", side_by_side.PLANE_FAMILIES)
def test_training_in_the_plane_can_be_repeated_and_helps(family):
    points = side_by_side.TRUTH.sample(2000, seeded()).float()
    model = side_by_side.train_plane(family, points, 40, seed=4)
    again = side_by_side.train_plane(family, points, 40, seed=4)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b) and not a.requires_grad
    torch.manual_seed(4)
    untrained = side_by_side.make_plane(family)
    if family == "GAN":
        before, after = (side_by_side.draw_plane(family, m, 500, seeded()).std() for m in (untrained, model))
        assert after > before  # its points spread towards the ring
    else:
        with torch.no_grad():
            before, after = (
                side_by_side.plane_loss(family, m, points, seeded()) for m in (untrained, model)
            )
        assert after < before


def test_the_rate_fades_to_nothing():
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    found = []
    for step in (0, 50, 100):
        side_by_side.fade_rate(opt, 0.2, step, 100)
        found.append(opt.param_groups[0]["lr"])
    assert found == pytest.approx([0.2, 0.1, 0.0])


def make_noise_to_data():
    torch.manual_seed(1)
    flow = side_by_side.Flow()
    return panels.side_by_side.noise_to_data(flow, side_by_side.make_plane("diffusion"))


def test_the_flow_of_the_panel_starts_at_noise_ends_at_its_samples_and_never_swaps_its_axes():
    z = torch.randn(30, 2, generator=seeded())
    flow = random_flow().float()
    stops = panels.side_by_side.stops_of("flow", flow, z)
    assert len(stops) == 9 and torch.equal(stops[0], z) and torch.equal(stops[-1], flow.sample(z))
    for stop in panels.side_by_side.stops_of("flow", still_flow(), z):
        torch.testing.assert_close(stop, z)
    diffusion = side_by_side.make_plane("diffusion")
    with torch.no_grad():
        stops = panels.side_by_side.stops_of("diffusion", diffusion, z)
    drawn = side_by_side.draw_plane("diffusion", diffusion, 30, seeded())
    assert len(stops) == 9 and torch.equal(stops[0], z) and torch.equal(stops[-1], drawn)


def test_the_way_from_noise_to_data_answers_within_100_ms():
    panel = make_noise_to_data()
    for key, control in panel.controls.items():
        assert answers_within(panel, 100, **{key: other_value(control)}), key


def test_every_stop_of_the_way_draws_and_can_be_read():
    use_every_control(make_noise_to_data())
    assert moved_together(make_noise_to_data) == 0


def test_the_pictures_of_the_plane_can_be_read_and_mark_what_lies_between():
    check_drawing(panels.side_by_side.coupling_picture)
    points = torch.cat([side_by_side.TRUTH_CENTRES, torch.zeros(3, 2)])
    names = ("the truth", "GAN", "VAE", "autoregressive", "flow", "diffusion")
    drawn = dict.fromkeys(names, points)
    check_drawing(lambda: panels.side_by_side.families_picture(drawn))
    fig = panels.side_by_side.families_picture(drawn)
    assert [ax.get_title() for ax in fig.axes] == list(names)
    assert [len(dots.get_offsets()) for dots in fig.axes[0].collections] == [8, 3]


TRUTH_FAULTS = [
    page("eq. (3): stretched in place of shrunk", "by_rule = normal.log_prob(x.mean() / 3) + math.log(1 / 3)", "by_rule = normal.log_prob(x.mean() / 3) + math.log(3)"),
    page("eq. (4): the scale is s itself", "return torch.stack([a, b * math.exp(0.2) - 0.3])", "return torch.stack([a, b * 0.2 - 0.3])"),
    page("a flow subtracts what it stretches", "return log_standard_normal(z) + log_det", "return log_standard_normal(z) - log_det"),
    page("a flow counts its last layer alone", "log_det = log_det + s", "log_det = 0 * log_det + s"),
    page("a coupling layer goes back without the shift", "(moved - t) * (-s).exp()", "(moved - 0 * t) * (-s).exp()"),
    page("a coupling layer never changes places", "return torch.stack([b * s.exp() + t, a], dim=1), s", "return torch.stack([a, b * s.exp() + t], dim=1), s"),
    page("eq. (5): divided by one width", "log_first + log_second - 2 * math.log(self.bin_width)", "log_first + log_second - math.log(self.bin_width)"),
    page("eq. (5): the second bin does not see the first", "log_second = self.second(bins[:, 0])", "log_second = self.second(0 * bins[:, 0])", "test_the_binned_model_draws_from_the_density_that_it_states"),
    page("eq. (6): the shares do not add up to 1", "p / (q / q.sum())).sum().item()", "p / (q / len(points))).sum().item()"),
    page("eq. (6): the grid's axes are exchanged", "index[:, 0] * PLANE_CELLS + index[:, 1]", "index[:, 1] * PLANE_CELLS + index[:, 0]", "test_the_grids_cells_hold_the_truths_probability_where_its_points_fall"),
    page("the modes' neighbourhoods are twice as wide", "PLANE_NEAR = 4 * TRUTH_WIDTH", "PLANE_NEAR = 8 * TRUTH_WIDTH", "test_shares_are_counted_within_four_widths_of_a_centre"),
    page("the VAE's bound forgets its encoder", "return (log_joint - log_q).logsumexp", "return (log_joint - 0 * log_q).logsumexp", "test_the_vaes_bound_is_below_log_p_and_comes_near_it"),
    page("the VAE's bound is a sum, not a mean", ".logsumexp(dim=0) - math.log(k)", ".logsumexp(dim=0) - 0 * math.log(k)", "test_the_vaes_bound_is_below_log_p_and_comes_near_it"),
    in_panels("side_by_side", "the flow's stops swap their axes", "if (len(stops) - 1 - k) % 2", "if (len(stops) - 1 - k) % 1", "test_the_flow_of_the_panel_starts_at_noise_ends_at_its_samples_and_never_swaps_its_axes"),
]


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
    assert side_by_side.copied_share(training[:50], training, others)[0] == 1.0
    share, error = side_by_side.copied_share(others[:50], training, others)
    assert share == 0.0
    assert error == pytest.approx(0.5 / 50**0.5)
    with pytest.raises(ValueError, match="equally large"):
        side_by_side.copied_share(training[:50], training, others[:200])


def test_the_nearest_digit_of_many_parts():
    others = torch.arange(12_000.0).reshape(-1, 1, 1, 1)
    wanted = torch.tensor([3, 4999, 5000, 11_999])
    distance, number = side_by_side.nearest_digit(others[wanted] + 0.25, others)
    assert number.tolist() == wanted.tolist()
    assert distance.tolist() == pytest.approx([0.25] * 4)


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
    page("copies seen the wrong way round", "is_nearer = to_training < to_others", "is_nearer = to_training > to_others"),
    page("each sample an answer of its own", "counts.square().sum().sqrt()", "counts.sum().sqrt()"),
    page("both sets' digits share their numbers", "len(training) + which_others)", "which_others)"),
    page("a part's digits lose their place", "numbers.append(start + nearest.indices)", "numbers.append(nearest.indices)",
         "test_the_nearest_digit_of_many_parts"),
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
