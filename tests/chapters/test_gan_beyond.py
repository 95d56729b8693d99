"""01b_gan_beyond: its exported functions beyond the page's own checks, its panels, exercises, seeded faults."""

import copy
import math
import re
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tools
from aigc_helpers import checks, panels
from aigc_helpers.data import toy_modes
from aigc_helpers.models import gan_beyond
from aigc_helpers.weights import read_experiment
from tests.notebook_cells import run_cells
from tests.panel_checks import answers_within, moved_together, other_value, use_every_control
from tests.seeded_faults import in_notebook, in_panels
from tools.experiments import grid_modes

NAME = "01b_gan_beyond.ipynb"
page = partial(in_notebook, NAME)
panel_fault = partial(in_panels, "gan_beyond")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- the smallest GAN


@pytest.mark.parametrize("rule", gan_beyond.RULES)
def test_without_friction_only_extragradient_comes_to_rest(rule):
    path = gan_beyond.trajectory(gan_beyond.game_matrix(rule, 0.1), 2000)
    end = path[-1].norm().item()
    assert len(path) == 2001 and path[0].tolist() == [1.0, 0.0]
    assert {"simultaneous": end > 100, "alternating": 0.9 < end < 1.1, "extragradient": end < 1e-3}[
        rule
    ]


@pytest.mark.parametrize("rule", gan_beyond.RULES)
def test_friction_brings_every_rule_to_rest_and_nobody_moves_at_the_equilibrium(rule):
    matrix = gan_beyond.game_matrix(rule, 0.1, 1.0)
    assert gan_beyond.trajectory(matrix, 400)[-1].norm() < 1e-6
    assert gan_beyond.trajectory(matrix, 5, start=(0.0, 0.0)).abs().max() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("at once", 0.1), "unknown rule"),
        (("alternating", -0.1), "eta"),
        (("alternating", math.nan), "eta"),
        (("alternating", 0.1, -1.0), "gamma"),
    ],
)
def test_settings_that_make_no_game(arguments, message):
    with pytest.raises(ValueError, match=f"game_matrix: {message}"):
        gan_beyond.game_matrix(*arguments)


# ---------------------------------------------------------------- divergences


def test_the_divergences_of_two_bells_are_those_of_the_textbook():
    x = torch.linspace(-40, 40, 8001, dtype=torch.float64)
    values = gan_beyond.divergences(
        gan_beyond.log_normal(x, 0.0, 1.0), gan_beyond.log_normal(x, 1.0, 2.0), x
    )
    assert list(values) == list(gan_beyond.DIVERGENCES)
    assert values["KL(p || q)"].item() == pytest.approx(math.log(2) + 2 / 8 - 0.5, rel=1e-6)
    assert values["KL(q || p)"].item() == pytest.approx(-math.log(2) + 5 / 2 - 0.5, rel=1e-6)
    assert 0 < values["2 JSD"] < 2 * math.log(2)


def test_the_two_bells_are_a_density_and_the_share_is_the_right_one_s():
    x = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    density = gan_beyond.log_two_bells(x, 0.2).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1.0)
    assert torch.trapezoid(density[x > 0], x[x > 0]).item() == pytest.approx(0.2, abs=1e-3)


# ---------------------------------------------------------------- Wasserstein


def area_between(real, fake):
    """The area between the two distribution functions, on a fine grid."""
    grid = np.linspace(-8, 8, 200_001)
    shares = [np.searchsorted(np.sort(x.numpy()), grid, side="right") / len(x) for x in (real, fake)]
    return np.abs(shares[0] - shares[1]).sum() * (grid[1] - grid[0])


@pytest.mark.parametrize(("num_real", "num_fake"), [(1, 1), (9, 9), (5, 8)])
def test_the_price_function_earns_the_area_between_the_distributions(num_real, num_fake):
    real = torch.randn(num_real, generator=seeded(1), dtype=torch.float64)
    fake = 0.5 + 2 * torch.randn(num_fake, generator=seeded(2), dtype=torch.float64)
    knots, prices = gan_beyond.price_function(real, fake)
    earned = np.interp(real, knots, prices).mean() - np.interp(fake, knots, prices).mean()
    assert earned == pytest.approx(area_between(real, fake), abs=1e-3)
    if num_real == num_fake:
        assert earned == pytest.approx(gan_beyond.wasserstein_1d(real, fake).item())


def test_samples_of_unequal_number_or_in_the_plane_are_refused():
    for shapes in ((3, 4), ((3, 2), (3, 2))):
        real, fake = (torch.zeros(shape) for shape in shapes)
        with pytest.raises(ValueError, match="wasserstein_1d: needs as many fakes as real samples"):
            gan_beyond.wasserstein_1d(real, fake)


# ---------------------------------------------------------------- losses of the grid


class Bowl(torch.nn.Module):
    """A discriminator with a known gradient: D(x) = |x|^2 / 2, whose slope is |x|."""

    def forward(self, x):
        return 0.5 * x.square().sum(dim=1)


def test_r1_is_taken_at_the_data_and_r2_at_the_fakes():
    real = torch.randn(50, 2, generator=seeded())
    fake = 3 * torch.randn(50, 2, generator=seeded(1))
    bare = gan_beyond.objective_of_d(Bowl(), real, fake, True, 0.0, 0.0)
    for weights, at in (((0.4, 0.0), real), ((0.0, 0.4), fake)):
        got = gan_beyond.objective_of_d(Bowl(), real, fake, True, *weights)
        want = bare + 0.4 * 0.5 * at.square().sum(dim=1).mean()
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("paired", [True, False])
def test_the_objective_of_d_leaves_g_alone_and_that_of_g_reaches_it(paired):
    G = gan_beyond.make_mlp(2, 2, 8, seeded())
    D = gan_beyond.make_mlp(2, 1, 8, seeded(1))
    fake = G(torch.randn(6, 2, generator=seeded(2)))
    real = torch.randn(6, 2, generator=seeded(3))
    gan_beyond.objective_of_d(D, real, fake, paired, 0.1, 0.1).backward()
    assert all(weight.grad is None for weight in G.parameters())
    gan_beyond.objective_of_g(D, real, fake, paired).backward()
    assert all(weight.grad is not None for weight in G.parameters())


def test_without_pairs_the_objectives_are_those_of_chapter_01():
    real = torch.randn(7, 2, generator=seeded())
    fake = torch.randn(7, 2, generator=seeded(1))
    D = Bowl()
    want = F.softplus(-D(real)).mean() + F.softplus(D(fake)).mean()
    torch.testing.assert_close(gan_beyond.objective_of_d(D, real, fake, False, 0, 0), want)
    want = F.softplus(-D(fake)).mean()
    torch.testing.assert_close(gan_beyond.objective_of_g(D, real, fake, False), want)


def test_a_pair_that_cannot_be_told_apart_costs_log_2_on_both_sides():
    logits = torch.randn(5, generator=seeded())
    for loss in (gan_beyond.paired_discriminator_loss, gan_beyond.paired_generator_loss):
        assert loss(logits, logits).item() == pytest.approx(math.log(2))
    far = torch.tensor([500.0])
    assert gan_beyond.paired_generator_loss(far, -far).item() == 1000.0
    assert gan_beyond.paired_discriminator_loss(far, -far).item() == 0.0


def test_the_same_seed_trains_the_same_generator_whatever_else_draws_numbers():
    settings = gan_beyond.VARIANTS["pairs + R1 + R2 (R3GAN)"]
    found = []
    for seed in (0, 0, 1):
        torch.rand(13)  # somebody else's
        G = gan_beyond.train_plane(**settings, num_steps=3, seed=seed, noise_dim=3)
        found.append(G(torch.ones(1, 3)))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


# ---------------------------------------------------------------- the stored experiment


def test_the_experiment_has_a_row_for_each_variant_and_says_what_the_page_says():
    rows = read_experiment("grid_modes").rows
    expected = [*grid_modes.DUELS, *gan_beyond.VARIANTS, *grid_modes.SWEEP, *grid_modes.WGANS]
    assert list(rows) == [*expected, "uniform noise", "real data"]
    noise, real, plain = (rows[name] for name in ("uniform noise", "real data", "plain"))
    assert balance(real) == [(5, 0)] * 4 and balance(noise) == [(0, 0)] * 4
    assert noise["modes of 25"] > 20 and noise["modes at 1/5"] < 5 and noise["modes at 1/2"] == 0
    for name in grid_modes.DUELS:
        assert balance(rows[name])[3] == (0, 5), "noise is nearer to the data in every seed"
    assert balance(plain)[3] == (0, 5) and balance(plain)[2] == (5, 0)
    for name, settings in (gan_beyond.VARIANTS | grid_modes.SWEEP).items():
        if settings["r1"] > 0:
            assert rows[name]["fewest"] == 25 and balance(rows[name]) == [(5, 0)] * 4
            assert rows[name]["energy distance"] < noise["energy distance"] / 4
    assert real["near a mode"] > 0.98


def balance(row):
    """In how many seeds a row is better and worse than noise: modes, at a fifth, near, distance."""
    measures = ("modes", "modes at 1/5", "near", "distance")
    return [(row[f"beats noise: {m}"], row[f"loses to noise: {m}"]) for m in measures]


def test_a_row_beats_noise_where_it_is_strictly_better_in_the_same_seed():
    ours = [(25, 9, 0, 0.5, 0.01), (20, 2, 0, 0.1, 0.02), (21, 1, 0, 0.2, 0.03)]
    noise = [(20, 1, 0, 0.1, 0.02), (20, 2, 0, 0.1, 0.02), (24, 3, 0, 0.1, 0.02)]
    row = grid_modes.summary(ours, noise)
    assert balance(row) == [(1, 1), (1, 1), (2, 0), (1, 1)]
    assert row["fewest"] == 20 and row["modes of 25"] == 22
    assert [row[f"distance, run {k}"] for k in range(3)] == [0.01, 0.02, 0.03]
    assert balance(grid_modes.summary(noise, noise)) == [(0, 0)] * 4


def small_scale(monkeypatch, seeds, steps):
    monkeypatch.setattr(grid_modes, "SEEDS", seeds)
    monkeypatch.setattr(grid_modes, "NUM_STEPS", steps)


def test_the_experiment_runs_on_a_small_scale(monkeypatch):
    small_scale(monkeypatch, (0, 1), 2)
    said = []
    rows = grid_modes.run(said.append)
    assert list(rows) == list(read_experiment("grid_modes").rows) and len(said) == len(rows)
    assert rows["real data"]["modes of 25"] == 25


@pytest.mark.parametrize("name", ["plain", "R1", "pairs + R1 + R2 (R3GAN)"])
def test_seeds_that_are_trained_side_by_side_get_the_page_s_own_generators(monkeypatch, name):
    small_scale(monkeypatch, (0, 3), 6)
    settings = gan_beyond.VARIANTS[name]
    z = torch.randn(9, 2, generator=seeded())
    both = grid_modes.train_planes(**settings)(z.repeat(2, 1)).split(9)
    for seed, got in zip((0, 3), both, strict=True):
        alone = gan_beyond.train_plane(**settings, num_steps=6, seed=seed)(z)
        torch.testing.assert_close(got, alone, rtol=0, atol=1e-5)


def test_a_mode_is_covered_from_a_part_of_its_fair_share_on():
    centres, sigma = toy_modes("grid")
    points = centres.repeat_interleave(40, dim=0)  # 1,000 points, 40 on each mode
    points[:40] += torch.tensor([2.9 * sigma, 0.0])  # still near
    points[40:80] += torch.tensor([3.1 * sigma, 0.0])  # no longer
    points[80:100] = centres[0]  # half of the third mode's points
    assert gan_beyond.modes_covered(points, 1.0) == 23
    assert gan_beyond.modes_covered(points, 0.5) == 24


# ---------------------------------------------------------------- the conditional networks


def test_the_label_changes_the_fake_and_the_logit():
    torch.manual_seed(0)
    G = gan_beyond.ConditionalGenerator(8, 8).eval()
    D = gan_beyond.ConditionalDiscriminator(4).eval()
    z = torch.randn(1, 8).expand(10, -1)
    with torch.no_grad():
        images = G(z, torch.arange(10))
        logits = D(images[:1].expand(10, -1, -1, -1), torch.arange(10))
    assert images.shape == (10, 1, 28, 28) and images.abs().max() <= 1
    assert len(torch.unique(images, dim=0)) == 10 and len(logits.unique()) == 10


@torch.no_grad()
def test_the_logit_is_eq_18():
    torch.manual_seed(0)
    D = gan_beyond.ConditionalDiscriminator(4).eval()
    x = torch.randn(3, 1, 28, 28)
    labels = torch.tensor([4, 0, 9])
    phi = D.features(x)
    want = phi @ D.is_digit.weight[0] + D.is_digit.bias + (phi * D.embed.weight[labels]).sum(dim=1)
    torch.testing.assert_close(D(x, labels), want)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gan_beyond.ConditionalGenerator(0), "z_dim"),
        (lambda: gan_beyond.ConditionalGenerator(8, 1), "width"),
        (lambda: gan_beyond.ConditionalDiscriminator(0), "width"),
    ],
)
def test_sizes_that_make_no_network(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- panels


class Shades(torch.nn.Module):
    """A stand-in for the trained generator: a picture as bright as its label, with z's first number at the left."""

    z_dim = 4

    def forward(self, z, labels):
        images = (labels / 4.5 - 1)[:, None, None, None].expand(-1, 1, 28, 28).clone()
        images[:, :, :, :9] = torch.tanh(z[:, 0])[:, None, None, None]
        images[:, :, 27, 26] = -1.0  # so that a picture of one shade is in [-1, 1] all the same
        images[:, :, 27, 27] = 1.0
        return images


MAKERS = {
    "two_numbers": panels.gan_beyond.two_numbers,
    "dropped_mode": panels.gan_beyond.dropped_mode,
    "earth_moving": panels.gan_beyond.earth_moving,
    "ask_for_a_digit": lambda: panels.gan_beyond.ask_for_a_digit(Shades()),
}
every_panel = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def status(panel):
    """The status line as text."""
    return re.sub("<[^>]*>", "", panel.status.value).replace("&#x27;", "'")


def number(panel, before):
    """The number that follows some words in the status line."""
    return float(re.match(r"-?[\d.]+\d", status(panel).partition(before)[2])[0])


@every_panel
def test_every_control_draws_once_and_changes_the_picture(make):
    use_every_control(make())


@every_panel
def test_two_panels_of_a_kind_that_are_moved_together_do_not_meet(make):
    assert moved_together(make) == 0


@every_panel
def test_the_storyboard_is_the_same_each_time_and_nobody_s_random_numbers_are_used(make):
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    first, again = make(), make()
    assert torch.equal(torch.rand(3), wanted)
    assert first._storyboard == again._storyboard and first.values == again.values


@every_panel
def test_a_move_takes_little_of_a_processor(make):
    panel = make()
    for key, control in panel.controls.items():
        assert answers_within(panel, 300, **{key: other_value(control)}), key


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ({"rule": "simultaneous", "gamma": 0.0}, "outside"),
        ({"rule": "alternating", "gamma": 0.0}, "on"),
        ({"rule": "extragradient", "gamma": 0.0}, "inside"),
        ({"rule": "alternating", "gamma": 2.0}, "inside"),
        ({"rule": "simultaneous", "gamma": 0.1}, "outside"),
    ],
)
def test_the_panel_of_two_numbers_says_on_which_side_the_eigenvalues_lie(settings, side):
    panel = MAKERS["two_numbers"]()
    panel.set(eta=0.2, **settings)
    with torch.no_grad():
        fig, _ = panel.draw(**panel.values)
    matrix = gan_beyond.game_matrix(settings["rule"], 0.2, settings["gamma"])
    largest = torch.linalg.eigvals(matrix).abs().max().item()
    assert number(panel, "eigenvalue| ") == pytest.approx(largest, abs=1e-4)
    assert fig.axes[1].get_title() == f"largest |λ| = {largest:.4f}: {side} the circle"


@pytest.mark.parametrize(
    ("name", "share", "covers"),
    [
        ("KL(p || q)", 0.5, True),
        ("2 JSD", 0.5, True),
        ("KL(q || p)", 0.5, False),
        ("2 KL(m || p)", 0.5, False),
        ("2 JSD", 0.4, False),
        ("KL(p || q)", 0.1, True),
    ],
)
def test_which_divergence_covers_both_bells_and_which_drops_one(name, share, covers):
    panel = MAKERS["dropped_mode"]()
    panel.set(name=name, share=share)
    panel.buttons["To the least"].click()
    assert panel.error is None
    assert (panel.values["width"] > 0.8) == covers
    here, least = number(panel, " is "), number(panel, "least ")
    assert here == pytest.approx(least, abs=0.02)
    panel.set(centre=panel.values["centre"] + 0.3)
    assert number(panel, " is ") > least


@pytest.mark.parametrize("name", ["KL(q || p)", "2 KL(m || p)"])
def test_of_two_hollows_that_are_as_deep_the_star_takes_the_left_one(name):
    panel = MAKERS["dropped_mode"]()
    panel.set(name=name, share=0.5)
    panel.buttons["To the least"].click()
    assert panel.values["centre"] == pytest.approx(-1.5, abs=0.13)


def test_sorted_is_the_cheapest_pairing_and_the_price_gap_is_the_least_work():
    panel = MAKERS["earth_moving"]()
    for shift, spread in ((-2.0, 1.0), (0.0, 2.0), (4.0, 0.2)):
        work = {}
        for pairing in ("as drawn", "reversed", "sorted"):
            panel.set(shift=shift, spread=spread, pairing=pairing)
            work[pairing] = number(panel, "Work ")
            assert number(panel, "gap is ") == pytest.approx(number(panel, "W = "), abs=0.011)
        assert work["sorted"] == number(panel, "W = ")
        assert work["sorted"] <= work["as drawn"] <= work["reversed"]
    assert work["sorted"] == work["reversed"], "far apart every pairing costs the same"


def test_the_strips_show_one_label_along_the_way_and_all_ten_at_one_place():
    panel = MAKERS["ask_for_a_digit"]()
    panel.set(digit=9, t=0.5)
    with torch.no_grad():
        fig, text = panel.draw(**panel.values)
    assert text.startswith("Asked for 9")
    shown = [np.asarray(ax.images[0].get_array()) for ax in fig.axes]
    column = 1 + 20  # of a tile, on its right-hand side, which only the label sets
    middle = [shown[1][10, column + 29 * k] for k in range(9)]
    bottom = [shown[2][10, column + 29 * k] for k in range(10)]
    np.testing.assert_allclose(middle, 1.0)
    np.testing.assert_allclose(bottom, np.arange(10) / 9, atol=1e-6)
    left = [shown[2][10, 3 + 29 * k] for k in range(10)]
    np.testing.assert_allclose(left, left[0])  # the same noise
    np.testing.assert_allclose(left[0], shown[0][10, 3])


def test_the_panel_keeps_a_copy_of_the_page_s_generator():
    torch.manual_seed(0)
    G = gan_beyond.ConditionalGenerator(8, 8)
    before = copy.deepcopy(G.state_dict())
    panel = panels.gan_beyond.ask_for_a_digit(G)
    shown = panel.picture.value
    with torch.no_grad():
        G.start.weight.zero_()
    panel.redraw()
    assert panel.picture.value == shown and G.training
    after = G.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before if k != "start.weight")


# ---------------------------------------------------------------- exercises


@pytest.fixture(scope="module")
def page_names():
    """The exported names, as the page defines them, with the exercises' marks."""
    return run_cells(NAME, ("setup", "export", "exercise", "mark"))


def simultaneous(v, v_before, eta):
    return v + eta * torch.stack([v[1], -v[0]])


def twice_the_push(v, v_before, eta):
    return v + 2 * eta * torch.stack([v[1], -v[0]])


def three_minus_two(v, v_before, eta):
    push = torch.stack([v[1], -v[0]])
    push_before = torch.stack([v_before[1], -v_before[0]])
    return v + eta * (3 * push - 2 * push_before)


def half_the_loss(real_logits, fake_logits):
    by_fakes = F.softplus(real_logits.mean() - fake_logits).mean()
    return (by_fakes + F.softplus(real_logits - fake_logits.mean()).mean()) / 2


def logarithm(real_logits, fake_logits):
    by_fakes = -torch.sigmoid(fake_logits - real_logits.mean()).log().mean()
    return by_fakes - torch.sigmoid(fake_logits.mean() - real_logits).log().mean()


def random_labels(G, D, real, labels, z):
    fake = G(z, torch.randint(10, (len(z),)))
    return D(real, labels), D(fake, torch.randint(10, (len(z),)))


def own_labels(G, D, real, labels, z):
    asked = torch.randint(10, (len(z),))
    return D(real, labels), D(G(z, asked), asked)


WRONG = [  # (mark, wrong answer, how the mark begins)
    ("mark_1", 70, "rounds until the distance has doubled: got 70, want 140"),
    ("mark_2", twice_the_push, "the first step from (1, 0): got -0.4, want -0.2"),
    ("mark_2", simultaneous, "after 200 rounds, distance from the equilibrium: got 50.5"),
    ("mark_2", three_minus_two, "the step from (1, 0) after (0.5, 1): got 0.6, want 0.8"),
    ("mark_3", lambda w: w * math.log(2), "dropping 0.1: got 0.069"),
    ("mark_4", lambda slopes: (slopes.mean() - 1) ** 2, "flat here, steep there: got 0.0, want 1.0"),
    ("mark_5", logarithm, "fakes far behind: got inf, want 2000.0"),
    ("mark_5", half_the_loss, "small logits: got "),
    ("mark_6", random_labels, "fakes judged by another label than asked: got "),
    ("mark_6", own_labels, "fakes asked for the batch's labels"),
]


@pytest.mark.parametrize(("mark", "answer", "says"), WRONG, ids=[f"{row[0]}-{k}" for k, row in enumerate(WRONG)])
def test_a_wrong_answer_is_told_what_is_wrong(page_names, capsys, mark, answer, says):
    page_names["exercise"]("Exercise", answer, page_names[mark])
    assert capsys.readouterr().out.startswith(f"Exercise: not yet - {says}")


def optimistic_in_place(v, v_before, eta):
    push = torch.stack([v[1], -v[0]])
    push_before = torch.stack([v_before[1], -v_before[0]])
    v_before.zero_()
    v += eta * (2 * push - push_before)
    return v


def penalty_in_place(slopes):
    slopes -= 1
    slopes *= slopes
    return slopes.mean()


def average_in_place(real_logits, fake_logits):
    real_mean = real_logits.mean()
    fake_mean = fake_logits.mean()
    real_logits -= fake_mean
    fake_logits -= real_mean
    return F.softplus(real_logits).mean() + F.softplus(-fake_logits).mean()


@pytest.mark.parametrize(
    ("mark", "answer"),
    [("mark_2", optimistic_in_place), ("mark_4", penalty_in_place), ("mark_5", average_in_place)],
)
def test_answers_that_work_in_place_are_right_too(page_names, capsys, mark, answer):
    page_names["exercise"]("Exercise", answer, page_names[mark])
    assert capsys.readouterr().out == "Exercise: correct\n"


# ---------------------------------------------------------------- checks on what was trained, without training


@pytest.fixture(scope="module")
def book():
    return tools.read(tools.ROOT / "notebooks" / NAME)


def passes(book, key, start, **space):
    """Whether the checks of a cell, from the text `start` on, pass with these names."""
    [source] = [cell.source for cell in book.cells if cell.id == key]
    named = {name: getattr(checks, name) for name in ("check", "check_above", "check_below")}
    assert start in source
    try:
        exec("".join(source.partition(start)[1:]), named | {"torch": torch} | space)
    except checks.CheckFailed:
        return False
    return True


def grid_rows(modes, near, distance):
    row = {"modes: a fifth": modes, "near a mode": near, "energy distance": distance}
    noise = {"modes: a fifth": 1, "near a mode": 0.14, "energy distance": 0.014}
    return {"pairs + R1 + R2 (R3GAN)": row, "uniform noise": noise}


def test_the_grid_s_checks_refuse_a_gan_that_is_hardly_better_than_noise(book):
    for values, good in (((15, 0.25, 0.005), True), ((8, 0.25, 0.005), False)):
        assert passes(book, "c-r3gan-table", "ours = ", rows=grid_rows(*values)) == good
    for values in ((15, 0.2, 0.005), (15, 0.25, 0.02)):
        assert not passes(book, "c-r3gan-table", "ours = ", rows=grid_rows(*values))


class Losses:
    def __init__(self, d_losses, g_losses):
        self.losses = {"D": d_losses, "G": g_losses}


def test_the_losses_check_leaves_the_penalty_out_and_refuses_what_the_prose_denies(book):
    space = {"LAZY": 8, "log2": math.log(2)}

    def good(d, g_first, g_last):
        d_losses = [5.0 if step % 8 == 0 else d for step in range(1, 101)]
        history = Losses(d_losses, [g_first] * 50 + [g_last] * 50)
        return passes(book, "c-log-two", "g_losses = ", history=history, **space)

    assert good(0.6, 2.0, 0.8)
    assert not good(0.7, 2.0, 0.8) and not good(0.6, 2.0, 0.6) and not good(0.6, 0.8, 0.9)


def test_the_copyist_is_checked_and_not_chosen_by_the_classifier(book):
    fids = {"conditional GAN": 0.6, "one real digit for each label": 15.0, "it always draws a three": 87.0}
    for share in (1.0, 0.9):
        asked = {"conditional GAN": 0.98, "it draws digits of its own choice": 0.1}
        asked |= {"it always draws a three": 0.1, "one real digit for each label": share}
        passed = passes(book, "c-score-check", "ours = ", fids=fids, as_asked=asked)
        assert passed == (share == 1.0)
    [source] = [cell.source for cell in book.cells if cell.id == "c-score"]
    firsts = source.partition("firsts = ")[2].partition("one_each")[0]
    assert "read_digits" not in firsts


# ---------------------------------------------------------------- seeded faults

FAULTS = [
    page(
        "alternating: G steps first",
        "(still + eta * g_push) @ (still + eta * d_push)",
        "(still + eta * d_push) @ (still + eta * g_push)",
    ),
    page("R1 that pushes", "[-1.0, -gamma]", "[-1.0, gamma]"),
    page("extragradient: a trial step of 1", "@ (still + eta * both)", "@ (still + both)"),
    page("eq. (3): the square root forgotten", "[math.sqrt(determinant)] * 2", "[determinant] * 2"),
    page("the smallest GAN without its penalty", "+ gamma * r1_penalty(D, real)", "+ 0 * gamma"),
    page("KL with the wrong sign", "* (log_a - log_b), x)", "* (log_b - log_a), x)"),
    page("JSD the wrong way round", "kl(log_p, log_m, x) + kl", "kl(log_m, log_p, x) + kl"),
    page("2 KL(p || m) for 2 KL(m || p)", "2 * kl(log_m, log_p, x))", "2 * kl(log_p, log_m, x))"),
    page("eq. (7): D moves with G", "- log_m).detach()", "- log_m)"),
    page("eq. (9): the dropped part forgotten", "exact.append(on_kept - share * math.log(2))", "exact.append(on_kept)"),
    page(
        "Wasserstein unsorted",
        "(real.sort().values - fake.sort().values)",
        "(real - fake)",
    ),
    page("price: downhill for uphill", "(fake_share - real_share)[:-1]", "(real_share - fake_share)[:-1]"),
    page("price: slopes one knot late", "(fake_share - real_share)[:-1]", "(fake_share - real_share)[1:]"),
    page("pairs: D and G swapped", "F.softplus(fake_logits - real_logits)", "F.softplus(real_logits - fake_logits)"),
    page("eq. (16): the weight of R1 forgotten", "total + r1 * r1_penalty(D, real)", "total + r1_penalty(D, real)"),
    page(
        "R2 taken at the data",
        "r2 * r1_penalty(D, fake)",
        "r2 * r1_penalty(D, real)",
    ),
    page(
        "the fakes not detached",
        "    fake = fake.detach()\n    if paired:",
        "    if paired:",
        "test_the_objective_of_d_leaves_g_alone_and_that_of_g_reaches_it",
    ),
    page("landscape: pairs drawn anew that are fixed", "(fake[:, None] - real[None, :])", "(fake - real)"),
    page("the logit without the label", "+ (self.embed(labels) * phi).sum(dim=1)", "+ phi.sum(dim=1)"),
    page(
        "the logit without its first part",
        "return self.is_digit(phi).squeeze(1) + ",
        "return ",
        "test_the_logit_is_eq_18",
    ),
    page("fakes beyond the data that come back", "wide + place + 0.5)", "wide + place - 0.5)"),
    page("price functions too steep", ".clamp(-limit, limit)", ".clamp(-2 * limit, limit)"),
    page("price functions that do not climb", "+ 100 * uphill)", "+ 0 * uphill)"),
    page("price functions never too steep", "most_earned(2.0)", "most_earned(1.0)"),
    page("fakes right of their partners that are not", "[0.5, 3.0]", "[-0.5, 3.0]"),
    page("pairs in a circle: the real samples shifted", "F.softplus(fake - real).mean()", "F.softplus(fake - real.flip(0)).mean()"),
    page("eq. (16): D and G swapped in its loss", "paired_discriminator_loss(D(real), D(fake))", "paired_discriminator_loss(D(fake), D(real))"),
    page("eq. (16): R1 twice", "total + r1 * r1_penalty(D, real)", "total + (r1 + r2) * r1_penalty(D, real)"),
    page("2 JSD without its second half", "+ kl(log_q, log_m, x)", "+ kl(log_p, log_m, x)"),
    page("modes covered: the bar forgotten", "hits >= bar * fair_share", "hits >= fair_share"),
    page("modes covered: discs of two standard deviations", "distance <= 3 * sigma]", "distance <= 2 * sigma]"),
    page("extragradient's climb looked for too late", ' > 1).nonzero()[0]]', ' > 1.1).nonzero()[0]]'),
    page("another label: the same vector", "D.embed.weight[(labels + 1) % 10]", "D.embed.weight[labels]"),
    page("another slope where earth passes", "earn(-1.0, middle, -1.0) for", "earn(-1.0, -1.0, middle) for"),
    page("crossing of 1: half of it", "2 - eta**2 / 2,", "2 - eta**2,"),
    page("crossing of 1: simultaneous as alternating", "2 + eta**2 / 2,", "2 - eta**2 / 2,"),
    page("crossing of 1: extragradient at 1 over eta", "1 + eta**2,\n}", "1.0,\n}"),
    page("energy distance: a biased mean", "same = torch.tensor(same)\nstandard", "same = torch.tensor(same) + 0.01\nstandard"),
    page("energy distance: as often above 0", "(same < 0).sum()", "(same > 0).sum()"),
    page("noise: discs of 3.1 standard deviations", "math.pi * (3 * sigma) ** 2", "math.pi * (3.1 * sigma) ** 2"),
    page(
        "mark 2 takes any factors",
        '    check("the step from (1, 0) after (0.5, 1)", answer(v, v_before, 0.2), [0.8, -0.3])',
        "    pass",
        "test_a_wrong_answer_is_told_what_is_wrong",
    ),
    page(
        "grid: a check that noise passes",
        'ours["near a mode"], most,',
        'ours["near a mode"], 0 * most,',
        "test_the_grid_s_checks_refuse_a_gan_that_is_hardly_better_than_noise",
    ),
    page(
        "grid: any number of modes",
        "more than noise has\", gained, 7)",
        "more than noise has\", gained, -26)",
        "test_the_grid_s_checks_refuse_a_gan_that_is_hardly_better_than_noise",
    ),
    page(
        "losses: the penalty's steps are left in",
        "d_losses = d_losses[torch.arange(1, len(d_losses) + 1) % LAZY != 0]",
        "d_losses = d_losses[torch.arange(1, len(d_losses) + 1) > 0]",
        "test_the_losses_check_leaves_the_penalty_out_and_refuses_what_the_prose_denies",
    ),
    page(
        "the copyist's check allows a digit that is misread",
        "as_asked[copyist], 1.0)",
        "as_asked[copyist], 1.0, atol=0.5)",
        "test_the_copyist_is_checked_and_not_chosen_by_the_classifier",
    ),
    page("noise: three standard deviations across", "math.pi * (3 * sigma) ** 2", "math.pi * (1.5 * sigma) ** 2"),
    page("noise: one hit more covers a mode", "torch.arange(float(needed))", "torch.arange(needed + 1.0)"),
    page("hill: fakes that stay at home", "            q[place] += 0.5", "            q[min(place, 1)] += 0.5"),
    page(
        "a generator that ignores its label",
        "torch.cat([z, self.embed(labels)], dim=1)",
        "torch.cat([z, self.embed(0 * labels)], dim=1)",
        "test_the_label_changes_the_fake_and_the_logit",
    ),
    page("mark 1 wants three times", "path.norm(dim=1) >= 2", "path.norm(dim=1) >= 3", "exercises"),
    page(
        "mark 6 accepts labels of one's own",
        'check("fakes asked for the batch\'s labels", asked, labels.double())',
        "pass",
        "test_a_wrong_answer_is_told_what_is_wrong",
    ),
    panel_fault(
        "on the circle called inside",
        "if largest > 1 - 1e-6:",
        "if largest > 1 + 1e-7:",
        "test_the_panel_of_two_numbers_says_on_which_side_the_eigenvalues_lie",
    ),
    panel_fault(
        "to the greatest",
        "values.argmin().item()",
        "values.argmax().item()",
        "test_which_divergence_covers_both_bells_and_which_drops_one",
    ),
    panel_fault(
        "sorted the wrong way",
        "return fake.argsort()\n",
        "return fake.argsort(descending=True)\n",
        "test_sorted_is_the_cheapest_pairing_and_the_price_gap_is_the_least_work",
    ),
    panel_fault(
        "ten times the same label",
        "torch.arange(10)])",
        "torch.full((10,), digit)])",
        "test_the_strips_show_one_label_along_the_way_and_all_ten_at_one_place",
    ),
]
