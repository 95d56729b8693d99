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
from tests.marking import assert_marked, run_exercises
from tests.panel_checks import (
    answers_within,
    assert_readable,
    check_drawing,
    moved_together,
    other_value,
    picture,
    use_every_control,
)
from tests.seeded_faults import in_notebook, in_panels

NAME = "06_side_by_side.ipynb"
page = partial(in_notebook, NAME)
panel = partial(in_panels, "side_by_side")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- the game, morph, text, clinic


SOME_PRECISION = {"real": 0.9, "GAN": 0.7, "VAE": 0.6, "diffusion": 0.8}


def some_pictures():
    """One grey for each kind, so that a picture says where it comes from."""
    greys = {"real": 250, "GAN": 50, "VAE": 100, "diffusion": 150}
    return {name: torch.full((5, 28, 28), grey, dtype=torch.uint8) for name, grey in greys.items()}


def make_game():
    return panels.side_by_side.spot_the_fake(some_pictures(), SOME_PRECISION)


def test_a_round_is_half_real_and_shows_what_it_says():
    game = panels.side_by_side._Game(some_pictures())
    dealt = []
    for _ in range(200):
        game.deal(["GAN", "VAE"])
        dealt += game.sources
        for source, shown in zip(game.sources, game.shown, strict=True):
            assert shown[0, 0] == some_pictures()[source][0, 0, 0]
    assert set(dealt) == {"real", "GAN", "VAE"}
    assert dealt.count("real") / len(dealt) == pytest.approx(0.5, abs=0.04)
    assert dealt.count("GAN") / len(dealt) == pytest.approx(0.25, abs=0.04)


def test_a_round_counts_both_kinds_of_mistake_once():
    game = panels.side_by_side._Game(some_pictures())
    game.sources = ["real", "real", "GAN", "GAN", "GAN", "VAE"] + ["real"] * 4
    for k in (1, 2, 5):
        game.mark(k)
    game.check()
    assert game.judged == {"real": 6, "GAN": 3, "VAE": 1, "diffusion": 0}
    assert game.taken_for_real == {"real": 5, "GAN": 2, "VAE": 0, "diffusion": 0}
    assert game.score() == (5 + 1 + 1, 10)
    game.mark(0)
    game.check()
    assert game.score() == (7, 10) and not game.marked[0]


def test_the_buttons_play_the_game():
    panel = make_game()
    panel.buttons["3"].click()
    assert "1 marked as fakes" in panel.status.value
    panel.buttons["3"].click()
    assert "0 marked as fakes" in panel.status.value
    panel.buttons["Check"].click()
    assert "of 10 right" in panel.status.value and "In all" in panel.status.value
    panel.buttons["Next ten"].click()
    assert "Round 2" in panel.status.value
    panel.buttons["Start again"].click()
    assert panel.error is None and "In all" not in panel.status.value


def test_only_the_chosen_familys_fakes_are_dealt():
    panel = make_game()
    panel.set(whose="VAE")
    before = panel.status.value
    for _ in range(4):
        panel.buttons["Check"].click()
        panel.buttons["Next ten"].click()
    assert panel.error is None and "fooled most often by: VAE" not in before
    panel.buttons["Check"].click()
    assert "most often by: VAE" in panel.status.value


def test_a_share_and_its_error():
    assert side_by_side.share_with_error(0, 8) == (0.0, pytest.approx(math.sqrt(0.1 * 0.9 / 8)))
    share, error = side_by_side.share_with_error(30, 120)
    assert share == 0.25 and error == pytest.approx(math.sqrt(0.25 * 0.75 / 120), rel=0.02)


def test_every_control_of_the_game_is_seen_and_every_word_is_readable():
    panel = make_game()
    use_every_control(panel)
    panel.buttons["Check"].click()
    assert_readable(panel)
    assert answers_within(make_game(), 100, whose="GAN")
    assert moved_together(make_game) == 0


def test_the_kept_pictures_and_the_judges_precision():
    pictures = panels.side_by_side.kept_pictures()
    assert all(x.dtype == torch.uint8 and x.shape[1:] == (28, 28) for x in pictures.values())
    assert min(map(len, pictures.values())) >= 100
    rows = read_experiment("side_by_side").rows
    precision = panels.side_by_side.kept_precision()
    assert set(precision) == set(pictures)
    seeds = [rows[f"VAE, 90 s, seed {seed}"]["precision"] for seed in (0, 1, 2)]
    assert precision["VAE"] == pytest.approx(sum(seeds) / 3)


def test_the_diagram_can_be_read():
    check_drawing(panels.side_by_side.families_diagram)
    longest = "masked  " + repr("W" * 55 + 8 * "\n")
    check_drawing(partial(panels.side_by_side.written_lines, [longest, "GPT     'a$b$'"]))


def test_the_way_between_two_codes():
    a, b = torch.randn(2, 3, 4, 5, generator=seeded())
    for circle in (False, True):
        torch.testing.assert_close(side_by_side.between(a, b, 0.0, circle), a)
        torch.testing.assert_close(side_by_side.between(a, b, 1.0, circle), b)
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1))[:, None, None]
    middle = side_by_side.between(a, b, 0.3, circle=True)
    torch.testing.assert_close(middle.flatten(1).norm(dim=1), a.flatten(1).norm(dim=1))


def test_morphs_stand_in_the_order_of_pairs():
    codes = torch.tensor([0.0, 0.5, 1.0])[:, None] * torch.ones(784)
    ways = side_by_side.morph(torch.clone, codes, num=3)
    want = torch.tensor([[0.0, 0.25, 0.5], [0.0, 0.5, 1.0], [0.5, 0.75, 1.0]])
    torch.testing.assert_close(ways[:, :, 0, 0], want)


def test_a_picture_is_carried_along_the_velocity_without_a_label():
    asked = []

    def grow(x, t, label):
        asked.append(label)
        return x

    x = torch.ones(2, 1, 4, 4)
    end = side_by_side.carry(grow, x, 0.0, 1.0, 8)
    torch.testing.assert_close(end, math.e * x, rtol=3e-3, atol=0)
    torch.testing.assert_close(side_by_side.carry(grow, end, 1.0, 0.0, 8), x, rtol=1e-3, atol=0)
    assert len(asked) == 32 and all((label == 10).all() for label in asked)


def test_a_code_is_found_where_there_is_one():
    torch.manual_seed(0)
    G = torch.nn.Sequential(torch.nn.Linear(64, 36), torch.nn.Unflatten(1, (1, 6, 6)))
    G.requires_grad_(False)
    images = G(torch.randn(3, 64, generator=seeded(1)))
    z = side_by_side.search_code(G, images, num_steps=300)
    assert (G(z) - images).abs().max() < 0.02


def test_of_several_starts_the_best_is_kept():
    class Narrow(torch.nn.Module):
        def forward(self, z):  # from a start below 0 no way leads up
            return z[:, :1, None, None].relu() * torch.ones(1, 1, 2, 2)

    z = side_by_side.search_code(Narrow(), torch.full((6, 1, 2, 2), 2.0), num_starts=6)
    assert (z[:, 0] > 1.9).all()


def make_morph():
    random = seeded()
    names = [str(k) for k in range(5)]
    pictures = {"pixels": 2 * torch.rand(10, 7, 28, 28, generator=random) - 1}
    pictures["GAN"] = 2 * torch.rand(10, 7, 28, 28, generator=random) - 1
    both = {name: dict.fromkeys(panels.side_by_side.WAYS, x) for name, x in pictures.items()}
    both["GAN"]["great circle"] = both["GAN"]["straight line"].flip(3)
    far = {"pixels": torch.ones(10, 7), "GAN": torch.arange(70.0).view(10, 7) / 70}
    far = {name: dict.fromkeys(panels.side_by_side.WAYS, x) for name, x in far.items()}
    return panels.side_by_side.morph(names, both, far)


def test_morph_shows_every_pair_both_ways_round():
    panel = make_morph()
    use_every_control(panel)
    assert_readable(panel)
    panel.set(start=0, end=1)
    there = picture(panel)
    panel.set(start=1, end=0)
    back = picture(panel)
    width = there.shape[1]
    step = 0.76 / 6.6 * width
    first, last = 1.25 / 6.6 * width, (1.25 + 6 * 0.76) / 6.6 * width
    size = int(0.7 / 6.6 * width)
    ends = []
    for left in (first, last):
        ends.append(slice(round(left) + 2, round(left) + size - 2))
    assert step > size
    top = slice(30, 60)
    assert abs(there[top, ends[0]] - back[top, ends[1]]).mean() < 40
    assert abs(there[top, ends[0]] - back[top, ends[0]]).mean() > 40
    panel.set(start=2, end=2)
    assert panel.error is None and "no way" in panel.status.value
    assert answers_within(panel, 100, end=4)
    assert moved_together(make_morph) == 0


class Alphabet:
    """A stand-in for a causal Backbone: after letter k comes k + 1; it begins with 0. Mask is 5."""

    mask = 5

    def __call__(self, tokens):
        follow = torch.where(tokens == self.mask, 0, (tokens + 1) % self.mask)
        return 50.0 * torch.nn.functional.one_hot(follow, self.mask).float()


def test_writing_on_reads_what_stands_there_and_begins_at_the_beginning():
    for generator in (None, seeded()):
        written = side_by_side.write_on(Alphabet(), torch.tensor([[3], [1]]), 3, generator)
        assert written.tolist() == [[3, 4, 0, 1], [1, 2, 3, 4]]
        begun = side_by_side.write_on(Alphabet(), torch.zeros(1, 0, dtype=torch.long), 2, generator)
        assert begun.tolist() == [[0, 1]]


MY_FAULTS = [
    page("eq. (1): no root", "math.sqrt(p * (1 - p) / n)", "p * (1 - p) / n"),
    page("eq. (1): the plain share", "p = (count + 1) / (n + 2)", "p = count / n"),
    page("three seeds: one side only", "max(first) == 2 or min(first) == 3", "max(first) == 2"),
    page("three seeds: the first ahead, counted either way round", "in_front = [max(first) == 2 for", "in_front = [max(first) == 2 or min(first) > 2 for"),
    page("eq. (2): one mean is exact", "(2 * trace / 100)", "(trace / 100)"),
    page("eq. (13): the angle turned round", "torch.sin((1 - t) * angle)", "torch.sin((1 + t) * angle)"),
    page(
        "pairs of a morph swapped",
        "first, second = zip(",
        "second, first = zip(",
        "test_morphs_stand_in_the_order_of_pairs",
    ),
    page(
        "carried by Euler's rule",
        "x = x + step * net(middle, t + step / 2, label)",
        "x = x + step * net(x + 0 * middle, t + step / 2, label)",
        "test_a_picture_is_carried_along_the_velocity_without_a_label",
    ),
    page(
        "carried with the label 0",
        "label = torch.full((len(x),), NO_LABEL)\n    for k",
        "label = torch.full((len(x),), 0 * NO_LABEL)\n    for k",
        "test_a_picture_is_carried_along_the_velocity_without_a_label",
    ),
    page(
        "the worst start is kept",
        "best = error.view(num_starts, -1).argmin(dim=0)",
        "best = error.view(num_starts, -1).argmax(dim=0)",
        "test_of_several_starts_the_best_is_kept",
    ),
    page(
        "writing begins with a letter",
        "begun = F.pad(tokens, (1, 0), value=model.mask)  ",
        "begun = F.pad(tokens, (1, 0), value=0 * model.mask)  ",
        "test_writing_on_reads_what_stands_there_and_begins_at_the_beginning",
    ),
    page("a bound for the exact number", "exact = next_nll(", "exact = 9 * next_nll("),
    page(
        "unequal numbers are accepted",
        "want = [frechet_distance(reference, y[:200]) for y in (a, b + 0.5, held_out)]",
        "want = [frechet_distance(reference, y) for y in (a, b[:200] + 0.5, held_out)]",
        "exercises",
    ),
    panel(
        "the game counts marked pictures",
        "self.taken_for_real[source] += not marked",
        "self.taken_for_real[source] += marked",
        "test_a_round_counts_both_kinds_of_mistake_once",
    ),
    panel(
        "a round counts twice",
        "        if self.checked:\n            return\n        self.checked = True",
        "        self.checked = True",
        "test_a_round_counts_both_kinds_of_mistake_once",
    ),
    panel(
        "marks may be changed after Check",
        "        if not self.checked:\n            self.marked[k]",
        "        if True:\n            self.marked[k]",
        "test_a_round_counts_both_kinds_of_mistake_once",
    ),
    panel(
        "fakes are rare",
        "is_real = torch.rand(1, generator=self.random).item() < 0.5",
        "is_real = torch.rand(1, generator=self.random).item() < 0.9",
        "test_a_round_is_half_real_and_shows_what_it_says",
    ),
    panel(
        "a morph is not turned round",
        "order = 1 if start < end else -1",
        "order = 1 if start < end else 1",
        "test_morph_shows_every_pair_both_ways_round",
    ),
]


# ---------------------------------------------------------------- where the truth is known


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


def test_a_long_gradient_is_cut_to_length_one_and_a_short_one_is_not():
    for slope, want in ((torch.tensor([3.0, 4.0]), [-0.6, -0.8]), (torch.tensor([0.3, 0.4]), [-0.3, -0.4])):
        weight = torch.nn.Parameter(torch.zeros(2))
        opt = torch.optim.SGD([weight], 1.0)
        for _ in range(2):  # the second step starts from a gradient of zero again
            side_by_side.clipped_step(opt, weight @ slope)
        assert weight.tolist() == pytest.approx([2 * w for w in want], abs=1e-5)


def test_a_cell_may_start_with_a_whole_point():
    nothing = torch.zeros(0, 2)
    points = torch.zeros(100, 2)
    p = side_by_side.true_cells()
    even = torch.xlogy(p, p * 32**2).sum().item()  # no samples: all cells alike
    assert side_by_side.grid_kl(nothing) == pytest.approx(even)
    assert side_by_side.grid_kl(points, start=1.0) < side_by_side.grid_kl(points)


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
    page("eq. (5): stretched in place of shrunk", "by_rule = normal.log_prob(x.mean() / 3) + math.log(1 / 3)", "by_rule = normal.log_prob(x.mean() / 3) + math.log(3)"),
    page("eq. (6): the scale is s itself", "return torch.stack([a, b * math.exp(0.2) - 0.3])", "return torch.stack([a, b * 0.2 - 0.3])"),
    page("a flow subtracts what it stretches", "return log_standard_normal(z) + log_det", "return log_standard_normal(z) - log_det"),
    page("a flow counts its last layer alone", "log_det = log_det + s", "log_det = 0 * log_det + s"),
    page("a coupling layer goes back without the shift", "(moved - t) * (-s).exp()", "(moved - 0 * t) * (-s).exp()"),
    page("a coupling layer never changes places", "return torch.stack([b * s.exp() + t, a], dim=1), s", "return torch.stack([a, b * s.exp() + t], dim=1), s"),
    page("eq. (7): divided by one width", "log_first + log_second - 2 * math.log(self.bin_width)", "log_first + log_second - math.log(self.bin_width)"),
    page("eq. (7): the second bin does not see the first", "log_second = self.second(bins[:, 0])", "log_second = self.second(0 * bins[:, 0])", "test_the_binned_model_draws_from_the_density_that_it_states"),
    page("eq. (3): the shares do not add up to 1", "p / (q / q.sum())).sum().item()", "p / (q / len(points))).sum().item()"),
    page("eq. (3): the grid's axes are exchanged", "index[:, 0] * PLANE_CELLS + index[:, 1]", "index[:, 1] * PLANE_CELLS + index[:, 0]", "test_the_grids_cells_hold_the_truths_probability_where_its_points_fall"),
    page("the modes' neighbourhoods are twice as wide", "PLANE_NEAR = 4 * TRUTH_WIDTH", "PLANE_NEAR = 8 * TRUTH_WIDTH", "test_shares_are_counted_within_four_widths_of_a_centre"),
    page("long gradients pass", 'opt.param_groups[0]["params"], PLANE_CLIP)', 'opt.param_groups[0]["params"], 1e9 * PLANE_CLIP)', "test_a_long_gradient_is_cut_to_length_one_and_a_short_one_is_not"),
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
                    "recall": 0.5 + (0.002 if name == "GAN" else 0.001) * seed,
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
    assert runs.best(90, "recall") == ("GAN", False)
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
    random = torch.Generator().manual_seed(0)
    others = torch.randint(256, (12_000, 1, 3, 3), dtype=torch.uint8, generator=random)
    wanted = torch.tensor([3, 4999, 5000, 11_999])
    distance, number = side_by_side.nearest_digit(others[wanted], others)
    assert number.tolist() == wanted.tolist()
    assert (distance < 1.0).all()


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
        "while 0 * began + step < seconds:",
        "test_the_clock_stops_and_the_average_learns",
    ),
    page(
        "a probability for the start too",
        "logits = tiny_gpt(tokens[:, :-1])[..., :2]",
        "logits = tiny_gpt(tokens[:, :-1])",
    ),
    page("a pixel sees itself", "logits = tiny_gpt(tokens[:, :-1])", "logits = tiny_gpt(tokens[:, 1:])"),
    page("the integral without its width", ".exp() * (grid[1] - grid[0])", ".exp() * (0 * grid[1] + 0.01)"),
    page("the bound with its sign turned", "total = bounds[K].exp()", "total = (-bounds[K]).exp()"),
    page("bounds of other pictures, which add up to the same", "bounds[K] = repeated.mean(dim=0)  ", "bounds[K] = repeated.mean(dim=0).flip(0)  "),
    page("the integral over half of z", "grid = torch.linspace(-6, 6, 2001)[:, None]", "grid = torch.linspace(0, 12, 2001)[:, None]"),
    page("the mixture takes the model ten times as often", "[math.log(0.01) - nats", "[math.log(0.1) - nats"),
    page("the mixture is noise alone", "[math.log(0.01) - nats", "[-1e9 - nats"),
    page("the mixture's weights are exchanged", "[math.log(0.01) - nats, torch.tensor(math.log(0.99)", "[math.log(0.99) - nats, torch.tensor(math.log(0.01)"),
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
    assert run_exercises(tools.ROOT / "notebooks" / NAME) == 4


@pytest.mark.exhaustive
def test_the_open_exercise_takes_the_solution_and_refuses_the_usual_vae():
    assert_marked(NAME, ANSWERS, only_open=True)


OPEN = ("undecided", "undecided", "GAN", "undecided")
MAP = ("GAN", "VAE", "GAN", "VAE", *OPEN)
TOO_SURE = ("GAN", "VAE", "GAN", "VAE", "VAE", "GAN", "diffusion", "GPT over codes")
CHEATS = """def cheat(n):
    images = to_signed(test_digits.images[:200]).reshape(-1, 1, 28, 28)
    seen = judge.net.features(images).detach()
    one = images[torch.cdist(seen, judge.real).min(dim=1).values.argmin()]
    noise = torch.randn(n, 1, 28, 28, generator=seeded(4))
    return (one + {size} * noise).clamp(-1, 1)
"""
FAIR = """def compare(a, b, reference, held_out):
    n = min(len(a), len(b))
    return [frechet_distance(reference, x[:n]) for x in (a, b, held_out)]
"""
ANSWERS = {
    1: (
        f"my_map = dict(zip(my_map, {MAP}))",
        'my_map = dict.fromkeys(my_map, "GPT over codes")',
        'my_map = dict.fromkeys(my_map, "VAE")',
        f"my_map = dict(zip(my_map, {TOO_SURE}))",
        f"my_map = dict(zip(my_map, {(*MAP[:6], 'undecided', 'undecided')}))",
        f"my_map = dict(zip(my_map, {('GAN', 'VAE', 'VAE', 'VAE', *OPEN)}))",
    ),
    2: (
        "def fakes_needed(p, d):\n    return 15.68 * p * (1 - p) / d**2\n",
        "def fakes_needed(p, d):\n    return 8 * p * (1 - p) / d**2\n",
    ),
    3: (
        CHEATS.format(size=0.015),
        CHEATS.format(size=1.5),
        "def cheat(n):\n    return to_signed(test_digits.images[:1]).reshape(1, 1, 28, 28).repeat(n, 1, 1, 1)\n",
    ),
    4: (
        FAIR,
        FAIR.replace("x[:n]", "x"),
        FAIR.replace("x[:n]", "x[-n:]"),
    ),
    5: (
        "def my_digits(images, seconds, seed, n):\n"
        "    model, _ = train_vae_for(images, 0.9 * seconds, seed, batch_size=32)\n"
        "    with torch.no_grad():\n"
        "        z = torch.randn(n, model.z_dim, generator=seeded(seed))\n"
        "        return 2 * torch.sigmoid(model.decode(z)) - 1\n",
        "def my_digits(images, seconds, seed, n):\n    return usual_digits(images, seconds, seed, n)\n",
    ),
}


def test_marks_refuse_wrong_answers():
    assert_marked(NAME, ANSWERS)


FAULTS = MY_FAULTS + TRUTH_FAULTS + DIGITS_FAULTS
