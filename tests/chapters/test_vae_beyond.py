"""02b_vae_beyond: its exported functions beyond the page's own checks, its panels, exercises, seeded faults."""

import math
from functools import partial

import pytest
import torch

from aigc_helpers import panels
from aigc_helpers.models import vae, vae_beyond
from tests.marking import assert_marked
from tests.panel_checks import answers_within, moved_together, other_value, use_every_control
from tests.seeded_faults import in_notebook, in_panels
from tests.small_vaes import draw_binary, make_vae, seeded

NAME = "02b_vae_beyond.ipynb"
# In the browser, with the panel as it starts: every entry is in use, so there is no idle one to move.
NOTHING_TO_SEE = {"Move idle entries"}

X = draw_binary(6)


# ---------------------------------------------------------------- the tighter bound


@pytest.mark.parametrize("k", [1, 7])
def test_the_bound_is_the_mean_of_importance_weights(k):
    """With the densities written out by torch.distributions, and the mean in 64 bits."""
    model = make_vae(pixels=20)
    x = draw_binary(4, 20)
    with torch.no_grad():
        got = vae_beyond.importance_bound(model, x, k, seeded())
        mu, logvar = model.encode(x)
        z = mu + (0.5 * logvar).exp() * torch.randn(k, *mu.shape, generator=seeded())
        q = torch.distributions.Normal(mu, (0.5 * logvar).exp())
        prior = torch.distributions.Normal(torch.zeros(3), 1.0)
        pixel = torch.distributions.Bernoulli(logits=model.decode(z))
        log_w = pixel.log_prob(x).sum(-1) + prior.log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
        wider = torch.distributions.Normal(torch.ones(3), 2.0)
        other = vae_beyond.importance_bound(model, x, k, seeded(), lambda z: wider.log_prob(z).sum(-1))
        log_v = log_w - prior.log_prob(z).sum(-1) + wider.log_prob(z).sum(-1)
    want = log_w.double().exp().mean(dim=0).log().float()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    want = log_v.double().exp().mean(dim=0).log().float()
    torch.testing.assert_close(other, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [0, -1, 2.0, math.nan, True, None], ids=str)
def test_the_number_of_draws_is_a_whole_number(value):
    with pytest.raises(ValueError, match="log_weights: k must be a whole number of at least 1"):
        vae_beyond.importance_bound(make_vae(), X, value)


def test_effective_draws_count_the_weights_that_matter():
    log_w = torch.randn(7, 4, generator=seeded()) - 300.0  # far below what 32 bits can exponentiate
    w = (log_w.double() + 300.0).exp()
    want = w.sum(dim=0).square() / w.square().sum(dim=0)
    torch.testing.assert_close(vae_beyond.effective_draws(log_w).double(), want, rtol=1e-4, atol=0)
    one_rules = torch.tensor([[0.0], [-90.0], [-80.0]])
    assert vae_beyond.effective_draws(one_rules).item() == pytest.approx(1.0, abs=1e-4)


# ---------------------------------------------------------------- grey pixels


def test_grey_pixels_have_the_density_of_torch_distributions():
    x = torch.rand(3, 5, generator=seeded())
    mean = torch.rand(3, 5, generator=seeded(1))
    known = torch.distributions.Normal(mean, 0.2).log_prob(x).sum(dim=-1)
    log_s = torch.tensor(0.2).log()
    torch.testing.assert_close(vae_beyond.gaussian_log_likelihood(mean, x, log_s), known)


def test_a_width_that_is_given_stays_and_one_that_is_learnt_moves():
    images = torch.randint(256, (40, 1, 28, 28), generator=seeded(), dtype=torch.uint8)
    _, given = vae_beyond.train_grey(images, 3, width=0.7)
    _, learnt = vae_beyond.train_grey(images, 3)
    assert given == pytest.approx(0.7) and 0.9 < learnt < 1.0
    with pytest.raises(ValueError, match="train_grey: num_steps must be a whole number"):
        vae_beyond.train_grey(images, 0)


# ---------------------------------------------------------------- bits


def test_bits_back_gives_back_what_was_sent_for_every_message():
    for number in range(64):
        message = f"{number:06b}"
        for code in range(8):
            pictures = [int(bit) for bit in f"{code:03b}"]
            sent = vae_beyond.send(pictures, message)
            assert len(sent) == len(message) + 3
            assert vae_beyond.receive(sent, 3) == (pictures, message)


def test_a_pattern_reads_the_neighbours_that_it_is_told_and_black_beyond_the_edge():
    x = draw_binary(3, seed=4)
    square = x.reshape(3, 28, 28)
    number = vae_beyond.patterns(x, ((0, -1), (1, 2), (4, -4))).reshape(3, 28, 28)
    for i, row, column in ((0, 9, 9), (1, 4, 25), (2, 27, 4), (0, 2, 1), (1, 0, 27)):
        bits = []
        for up, right in ((0, -1), (1, 2), (4, -4)):
            there = 0 <= row - up and 0 <= column + right < 28
            bits.append(int(square[i, row - up, column + right]) if there else 0)
        assert number[i, row, column] == 4 * bits[0] + 2 * bits[1] + bits[2]


@pytest.mark.parametrize("wrong", [(0, 1), (0, 0), (-1, 0), (5, 0), (1, 5)], ids=str)
def test_a_neighbour_that_is_not_sent_before_is_refused(wrong):
    with pytest.raises(ValueError, match="patterns: .* is not sent before the pixel, or too far"):
        vae_beyond.patterns(X, ((0, -1), wrong))


def test_the_context_model_is_a_probability_of_pictures():
    """All pictures that differ in the last four pixels: their probabilities add up to that of the rest."""
    table = vae_beyond.count_patterns(draw_binary(40, seed=1))
    assert ((table > 0) & (table < 1)).all()
    x = draw_binary(1, seed=2).repeat(16, 1)
    x[:, -4:] = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
    p = table[vae_beyond.patterns(x)]
    likely = torch.where(x > 0, p, 1 - p)
    assert likely[:, -4:].prod(dim=1).sum().item() == pytest.approx(1.0, rel=1e-6)
    want = -likely.log2().sum(dim=1)
    torch.testing.assert_close(vae_beyond.context_bits(x, table), want)


def test_counts_are_counts():
    x = torch.zeros(2, 784)
    x[0, 400] = 1.0
    table = vae_beyond.count_patterns(x, ((0, -1),))
    assert table[0].item() == pytest.approx(1.5 / (2 * 784 - 1 + 1))
    assert table[1].item() == pytest.approx(0.5 / 2)


# ---------------------------------------------------------------- a learnt prior


def make_prior(num=4, z_dim=3):
    torch.manual_seed(3)
    prior = vae_beyond.MixturePrior(torch.randn(num, z_dim))
    with torch.no_grad():
        prior.below.normal_()
        prior.weight_logits.normal_()
        prior.log_diagonal.normal_()
    return prior


def test_the_mixture_is_that_of_torch_distributions():
    prior = make_prior()
    z = torch.randn(50, 3, generator=seeded())
    A = prior.factors()
    each = torch.distributions.MultivariateNormal(
        prior.means, precision_matrix=A.transpose(1, 2) @ A
    )
    share = torch.distributions.Categorical(logits=prior.weight_logits)
    known = torch.distributions.MixtureSameFamily(share, each)
    torch.testing.assert_close(prior.log_prob(z), known.log_prob(z), rtol=1e-3, atol=1e-3)
    assert torch.equal(prior.log_prob(z.reshape(5, 10, 3)).flatten(), prior.log_prob(z))


def test_draws_of_the_mixture_have_its_covariance():
    prior = make_prior(1)
    with torch.no_grad():
        draws = prior.sample(100_000, seeded())
        A = prior.factors()[0]
    want = torch.linalg.inv(A.T @ A)
    scale = want.diagonal().sqrt()
    got = torch.cov(draws.T)
    torch.testing.assert_close(got / scale / scale[:, None], want / scale / scale[:, None], rtol=0, atol=0.03)
    assert torch.equal(prior.sample(5, seeded()), prior.sample(5, seeded()))


def make_vamp(num=3, z_dim=2):
    model = make_vae(z_dim)
    return model, vae_beyond.VampPrior(model.encode, draw_binary(num, seed=9))


@pytest.mark.parametrize("value", [0, -1, 2.0, None], ids=str)
@pytest.mark.parametrize("make", [make_prior, lambda: make_vamp()[1]], ids=["mixture", "vamp"])
def test_a_number_of_draws_is_whole(make, value):
    with pytest.raises(ValueError, match="Prior.sample: num must be a whole number"):
        make().sample(value)


def test_the_average_of_gaussians_is_that_of_torch_distributions():
    mu = torch.randn(20, 4, generator=seeded())
    logvar = torch.randn(20, 4, generator=seeded(1)) - 2
    z = torch.randn(6, 4, generator=seeded(2))
    each = torch.distributions.Normal(mu[:, None], (0.5 * logvar).exp()[:, None]).log_prob(z)
    known = torch.logsumexp(each.sum(dim=2), dim=0) - math.log(20)
    torch.testing.assert_close(vae_beyond.log_average(z, mu, logvar), known, rtol=1e-4, atol=1e-4)


def test_a_vamp_prior_draws_what_its_pseudo_inputs_encode_to():
    model, prior = make_vamp()
    with torch.no_grad():
        draws = prior.sample(60_000, seeded())
        mu, logvar = model.encode(torch.sigmoid(prior.logits))
        log_p = prior.log_prob(draws.reshape(2, -1, 2))
    assert log_p.shape == (2, 30_000)
    torch.testing.assert_close(draws.mean(dim=0), mu.mean(dim=0), rtol=0, atol=0.03)
    want = (mu.square() + logvar.exp()).mean(dim=0)
    torch.testing.assert_close(draws.square().mean(dim=0), want, rtol=0.05, atol=0.03)


def test_a_fitted_prior_is_likelier_and_leaves_the_encoder_alone():
    model, prior = make_vamp()
    before = [weight.detach().clone() for weight in model.parameters()]
    z = torch.randn(50, 2, generator=seeded())
    start = prior.log_prob(z).mean().item()
    fitted = vae_beyond.fit_prior(prior, z, torch.full_like(z, -9.0), 40, lr=0.05)
    assert fitted.log_prob(z).mean().item() > start
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    again = vae_beyond.fit_prior(make_prior(), torch.zeros(9, 3), torch.zeros(9, 3), 5, seed=4)
    twice = vae_beyond.fit_prior(make_prior(), torch.zeros(9, 3), torch.zeros(9, 3), 5, seed=4)
    assert torch.equal(again.means, twice.means) and not again.means.requires_grad


# ---------------------------------------------------------------- codes that are words


def test_the_nearest_entry_is_taken_and_the_gradient_passes_by():
    codebook = torch.randn(5, 3, generator=seeded())
    z = torch.randn(2, 4, 3, generator=seeded(1)).requires_grad_()
    z_q, index = vae_beyond.quantise(z, codebook)
    distance = (z.detach()[..., None, :] - codebook).norm(dim=-1)
    assert torch.equal(index, distance.argmin(dim=-1))
    torch.testing.assert_close(z_q.detach(), codebook[index])
    weights = torch.randn(2, 4, 3, generator=seeded(2))
    torch.testing.assert_close(torch.autograd.grad((z_q * weights).sum(), z)[0], weights)


def test_the_codebook_term_pulls_at_both_ends():
    torch.manual_seed(0)
    model = vae_beyond.VQVAE(K=4, d=2, width=4)
    logits, index, term = model(X.reshape(6, 1, 28, 28))
    assert logits.shape == (6, 1, 28, 28) and index.shape == (6, 7, 7) and index.max() < 4
    entry, weight = torch.autograd.grad(term, (model.codebook, model.encoder[-1].bias))
    assert entry.abs().sum() > 0 and weight.abs().sum() > 0
    used = model.codebook.detach()[index]
    z = model.encoder(X.reshape(6, 1, 28, 28)).movedim(1, -1)
    assert term.item() == pytest.approx(1.25 * (used - z).square().mean().item(), rel=1e-4)


def test_idle_entries_move_and_the_others_stay():
    torch.manual_seed(0)
    model = vae_beyond.VQVAE(K=6, d=2, width=4)
    with torch.no_grad():
        model.codebook[3] += 100.0  # far from everything
    x = X.reshape(6, 1, 28, 28)
    _, index, _ = model(x)
    before = model.codebook.detach().clone()
    model.move_idle(x, index)
    used = index.unique()
    assert 3 not in used and model.codebook[3].abs().max() < 50
    assert torch.equal(model.codebook[used], before[used])


def test_a_codes_context_is_its_left_and_upper_neighbour():
    index = torch.randint(5, (3, 7, 7), generator=seeded())
    context = vae_beyond.code_contexts(index, 5)
    for i, row, column in ((0, 0, 0), (1, 3, 0), (2, 0, 4), (0, 6, 6)):
        left = int(index[i, row, column - 1]) if column else 5
        above = int(index[i, row - 1, column]) if row else 5
        assert context[i, row, column] == 6 * left + above


def test_the_table_of_codes_is_a_probability_and_draws_follow_it():
    index = torch.randint(3, (400, 7, 7), generator=seeded())
    index[:, :, 1:][index[:, :, :-1] == 0] = 2  # a rule: after a 0 comes a 2
    table = vae_beyond.count_codes(index, 3)
    torch.testing.assert_close(table.sum(dim=1), torch.ones(16))
    bits = vae_beyond.code_bits(index[:1], table)
    by_hand = 0.0
    for row in range(7):
        for column in range(7):
            left = int(index[0, row, column - 1]) if column else 3
            above = int(index[0, row - 1, column]) if row else 3
            by_hand -= math.log2(table[4 * left + above, index[0, row, column]])
    assert bits.item() == pytest.approx(by_hand, rel=1e-4)
    drawn = vae_beyond.sample_codes(table, 500, seeded())
    after_zero = drawn[:, :, 1:][drawn[:, :, :-1] == 0]
    assert (after_zero == 2).float().mean() > 0.97
    assert torch.equal(drawn, vae_beyond.sample_codes(table, 500, seeded()))


def test_a_vq_vae_trains_the_same_twice_and_decodes_its_indices():
    images = torch.randint(256, (40, 1, 28, 28), generator=seeded(), dtype=torch.uint8)
    first = vae_beyond.train_vqvae(images, 2, K=4)
    second = vae_beyond.train_vqvae(images, 2, K=4)
    assert torch.equal(first.codebook, second.codebook)
    logits, index, _ = first(X.reshape(6, 1, 28, 28))
    torch.testing.assert_close(first.decode(index), logits, rtol=1e-4, atol=1e-4)


BAD = {
    "bound: signed": (lambda: vae_beyond.importance_bound(make_vae(), 2 * X - 1, 2), "only 0 and 1"),
    "vq: flat": (lambda: vae_beyond.VQVAE(2, 2, 4)(X), r"VQVAE: x"),
    "vq: small": (lambda: vae_beyond.VQVAE(2, 2, 4)(torch.zeros(1, 1, 8, 28)), r"\(N, 1, 28, 28\)"),
    "vq: pixels": (lambda: vae_beyond.VQVAE(2, 2, 4)(torch.zeros(1, 1, 28, 28).byte()), "VQVAE: x"),
    "quantise: width": (
        lambda: vae_beyond.quantise(torch.zeros(2, 3), torch.zeros(4, 2)),
        r"quantise: z must be a tensor \(..., 2\) of floats",
    ),
    "quantise: no entries": (
        lambda: vae_beyond.quantise(torch.zeros(2, 3), torch.zeros(0, 3)),
        "codebook",
    ),
    "quantise: one vector": (
        lambda: vae_beyond.quantise(torch.zeros(2, 3), torch.zeros(3)),
        "codebook",
    ),
    "prior: width": (
        lambda: make_prior().log_prob(torch.zeros(2, 4)),
        r"MixturePrior.log_prob: z .*\(..., 3\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_input_gets_one_message_that_says_what_and_where(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 220


@pytest.mark.parametrize("value", [0, -1, 2.0, math.nan, True, None, "3"], ids=str)
@pytest.mark.parametrize("name", ["K", "d", "width"])
def test_a_size_is_a_whole_number_of_at_least_one(name, value):
    with pytest.raises(ValueError, match=f"VQVAE: {name} must be a whole number of at least 1, got"):
        vae_beyond.VQVAE(**{name: value})


# ---------------------------------------------------------------- exercises

ANSWERS = {  # number -> (an answer that works in place and is right, those that are wrong)
    1: (
        "hidden_beta = 784 * 0.00025",
        ["hidden_beta = 0.00025 / 784", "hidden_beta = 0.00025", "hidden_beta = 32 * 0.00025"],
    ),
    2: (
        """
def log_mean_exp(log_w):
    top = log_w.max(dim=0).values
    log_w -= top
    return log_w.exp_().mean(dim=0).log_() + top
""",
        [
            """
def log_mean_exp(log_w):
    return log_w.exp_().mean(dim=0).log_()
""",
            """
def log_mean_exp(log_w):
    return torch.logsumexp(log_w, dim=0)
""",
            """
def log_mean_exp(log_w):
    return log_w.mean(dim=0)
""",
            """
def log_mean_exp(log_w):
    return log_w.max(dim=0).values
""",
        ],
    ),
    3: (
        """
def nats_back(sigma):
    return sigma.log_().add_(0.5 + 0.5 * math.log(2 * math.pi))
""",
        [
            """
def nats_back(sigma):
    return sigma.log_().add_(0.5 * math.log(2 * math.pi))
""",
            """
def nats_back(sigma):
    return -sigma.log() + 0.5 + 0.5 * math.log(2 * math.pi)
""",
            """
def nats_back(sigma):
    return 0.5 * sigma.log() + 0.5 + 0.5 * math.log(2 * math.pi)
""",
        ],
    ),
    4: (
        """
def information_of_two(a):
    z = a + torch.linspace(-12, 12, 4001).double()
    other = -2 * a * z  # log q(z | other) - log q(z | this one)
    one = torch.exp(-0.5 * (z - a) ** 2) / math.sqrt(2 * math.pi)
    return torch.trapezoid(one * (math.log(2) - F.softplus(other)), z).item()
""",
        [
            """
def information_of_two(a):
    return min(0.5 * a**2, math.log(2))
""",
            """
def information_of_two(a):
    return 2 * a**2
""",
            """
def information_of_two(a):
    return math.log(2)
""",
        ],
    ),
    5: (
        """
def quantise_both(z, codebook):
    index = torch.cdist(z.detach(), codebook.detach()).argmin(dim=1)
    return codebook[index] + z - z.detach()
""",
        [
            """
def quantise_both(z, codebook):
    index = torch.cdist(z, codebook).argmin(dim=1)
    return codebook[index]
""",
            """
def quantise_both(z, codebook):
    return quantise(z, codebook)[0]
""",
            """
def quantise_both(z, codebook):
    index = torch.cdist(z, codebook).argmin(dim=1)
    return codebook[index] + 0.25 * (z - z.detach())
""",
        ],
    ),
    6: (
        "my_neighbours = [*NEIGHBOURS, (1, 3), (3, 3)]",
        [
            "my_neighbours = NEIGHBOURS[:4]",
            "my_neighbours = NEIGHBOURS",
            "my_neighbours = (*NEIGHBOURS, (1, 3), (2, 2), (2, -2))",
            "my_neighbours = (*NEIGHBOURS, (0, 1), (2, 2))",
        ],
    ),
}


def test_answers_are_marked_for_what_they_are():
    assert_marked(NAME, {number: (right, *wrong) for number, (right, wrong) in ANSWERS.items()})


# ---------------------------------------------------------------- panels

MAKERS = {
    "tighter_bound": lambda: panels.vae_beyond.tighter_bound(),
    "snap": lambda: panels.vae_beyond.snap(),
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


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
    before = torch.get_rng_state()
    first = make()
    assert torch.equal(torch.get_rng_state(), before)
    assert first._storyboard == make()._storyboard


def test_the_panels_bound_is_that_of_the_linear_model():
    eps = torch.randn(1000, 400, generator=seeded())
    mean, variance = vae.linear_posterior(3.0)
    exact = panels.vae_beyond.bound_results(eps[:1], mean, math.sqrt(variance))
    assert (exact - vae.linear_evidence(3.0)).abs().max() < 1e-4, "with the posterior no noise is left"
    elbo = panels.vae_beyond.bound_results(torch.randn(1, 200_000, generator=seeded()), 0.5, 0.8)
    assert elbo.mean().item() == pytest.approx(panels.vae.linear_bound(3.0, 0.5, 0.8), abs=0.03)
    many = panels.vae_beyond.bound_results(eps, 0.5, 0.8)
    assert many.mean().item() == pytest.approx(vae.linear_evidence(3.0), abs=0.02)


def test_entries_come_to_rest_in_the_middle_of_their_dots():
    snapping = panels.vae_beyond.Snapping(5, seed=1)
    start = snapping.error()
    for _ in range(200):
        snapping.move()
    index = snapping.nearest()
    for k in index.unique().tolist():
        middle = snapping.dots[index == k].mean(dim=0)
        assert (snapping.entries[k] - middle).norm() < 0.01
    assert snapping.error() < start


def test_an_idle_entry_is_put_on_a_dot_and_the_others_are_left():
    snapping = panels.vae_beyond.Snapping(8, "in a corner")
    used = snapping.nearest().unique()
    before = snapping.entries.clone()
    assert len(used) < 8
    snapping.move_idle()
    assert torch.equal(snapping.entries[used], before[used])
    idle = [k for k in range(8) if k not in used]
    assert (torch.cdist(snapping.entries[idle], snapping.dots).min(dim=1).values == 0).all()


def test_run_moves_the_entries_and_a_new_choice_starts_anew():
    panel = panels.vae_beyond.snap()
    assert "step 0" not in panel.status.value
    first = panel.picture.value
    panel.play.value += 1
    assert panel.error is None and panel.picture.value != first
    panel.set(num=9)
    assert "of 9 entries" in panel.status.value


# ---------------------------------------------------------------- seeded faults

page = partial(in_notebook, NAME)
panel = partial(in_panels, "vae_beyond")
JOINT = "bernoulli_log_likelihood(model.decode(z), x) + log_prior(z)"
LSE = "torch.logsumexp(log_w, dim=0) - math.log(k)"

MIXTURE = "test_the_mixture_is_that_of_torch_distributions"
NEAREST = "test_the_nearest_entry_is_taken_and_the_gradient_passes_by"
BITS_BACK = "test_bits_back_gives_back_what_was_sent_for_every_message"
FITTED = "test_a_fitted_prior_is_likelier_and_leaves_the_encoder_alone"

FAULTS = [
    page("the average of two numbers with wrong odds", "/ 2**k", "/ 2 ** (k + 1)"),
    page("bound: log of the sum, not of the mean", LSE, LSE.replace("math.log(k)", "math.log(1)")),
    page("bound: mean outside the logarithm", LSE, "log_w.mean(dim=0)"),
    page("bound: the prior forgotten", JOINT, "bernoulli_log_likelihood(model.decode(z), x)"),
    page("bound: the encoder's density forgotten", "return log_joint - log_q", "return log_joint - 0 * log_q"),
    page(
        "effective draws: the sum not squared",
        "(2 * torch.logsumexp(log_w, dim=0) - ",
        "(torch.logsumexp(log_w, dim=0) - ",
    ),
    page("refining a picture's q lowers its bound", ".sum(dim=1) - log_p).sum()", ".sum(dim=1) + log_p).sum()"),
    page(
        "normaliser upside down",
        "formula = (2 * lam - 1) / (lam.log() - (1 - lam).log())",
        "formula = (lam.log() - (1 - lam).log()) / (2 * lam - 1)",
    ),
    page("the honest density without its area", "(score - area_fine.log()).argmax()", "score.argmax()"),
    page("a width that costs nothing", "- n * log_s - 0.5", "- 0 * log_s - 0.5"),
    page(
        "a width that is given is learnt all the same",
        "requires_grad=width is None",
        "requires_grad=True",
        "test_a_width_that_is_given_stays_and_one_that_is_learnt_moves",
    ),
    page("the hidden beta upside down", "784 / 32 * gaussian_kl", "32 / 784 * gaussian_kl"),
    page(
        "bits-back: the choice is not given back",
        "sent = sent[:-2] + str(choice)",
        "sent = sent[:-2] + str(0 * choice)",
        BITS_BACK,
    ),
    page(
        "bits-back: the choice takes no bit",
        "message = message[:-1] + BITS",
        "message = message + BITS",
        BITS_BACK,
    ),
    page(
        "the context model looks ahead",
        "number = 2 * number + moved",
        "number = 2 * number + 0 * moved + square",
        "test_a_pattern_reads_the_neighbours_that_it_is_told_and_black_beyond_the_edge",
    ),
    page(
        "a pattern read from right to left",
        "4 + right : 32 + right",
        "4 - right : 32 - right",
        "test_a_pattern_reads_the_neighbours_that_it_is_told_and_black_beyond_the_edge",
    ),
    page(
        "counts of black for counts of white",
        "torch.bincount(number[x > 0]",
        "torch.bincount(number[x == 0]",
        "test_counts_are_counts",
    ),
    page(
        "black priced as white",
        "torch.where(x > 0, p, 1 - p)",
        "torch.where(x > 0, 1 - p, p)",
        "test_the_context_model_is_a_probability_of_pictures",
    ),
    page("information without the average", "- math.log(4)\nlog_prior", "- 0.0\nlog_prior"),
    page("q(z): a sum, not an average", "across.T @ up / len(mu)", "across.T @ up / 1000"),
    page("I by draws, of a sum and not an average", "dim=1) - math.log(len(z)))", "dim=1))"),
    page(
        "an entropy that is too large, which cancels in the sum of both parts",
        "entropy = -torch.special.xlogy(q, q).sum() * cell",
        "entropy = -torch.special.xlogy(q, q).sum() * cell + 1",
    ),
    page(
        "the average of Gaussians is their sum",
        "- math.log(len(mu))",
        "- 0.0 * len(mu)",
        "test_the_average_of_gaussians_is_that_of_torch_distributions",
    ),
    page(
        "mixture without the volume",
        "+ self.log_diagonal.sum(dim=1)",
        "+ 0 * self.log_diagonal.sum(dim=1)",
        MIXTURE,
    ),
    page(
        "mixture without its weights",
        "torch.logsumexp(log_pi + log_each",
        "torch.logsumexp(0 * log_pi + log_each",
        MIXTURE,
    ),
    page(
        "draws stretched the wrong way",
        "torch.linalg.solve_triangular(self.factors()[which], u, upper=False)",
        "self.factors()[which] @ u",
        "test_draws_of_the_mixture_have_its_covariance",
    ),
    page(
        "VampPrior draws means only",
        "return reparameterise(mu, logvar, generator)",
        "return mu",
        "test_a_vamp_prior_draws_what_its_pseudo_inputs_encode_to",
    ),
    page(
        "a prior is fitted downhill",
        "loss = -prior.log_prob(z).mean()",
        "loss = prior.log_prob(z).mean()",
        FITTED,
    ),
    page("collapse: a beta that is not there", "+ beta * rate", "+ rate"),
    page(
        "straight-through: the gradient is cut",
        "return z + (codebook[index] - z).detach(), index",
        "return codebook[index].detach() + 0 * z, index",
        NEAREST,
    ),
    page(
        "the farthest entry",
        "codebook).argmin(dim=1).reshape",
        "codebook).argmax(dim=1).reshape",
        NEAREST,
    ),
    page(
        "the codebook is tied to nothing",
        "return codebook_term + 0.25 * commitment_term",
        "return 0 * codebook_term + 1.25 * commitment_term",
        "test_the_codebook_term_pulls_at_both_ends",
    ),
    page(
        "idle entries stay",
        "self.codebook[unused] = vectors[drawn]",
        "self.codebook[unused] = self.codebook[unused] + 0 * vectors[drawn]",
        "test_idle_entries_move_and_the_others_stay",
    ),
    page(
        "left and upper neighbour swapped",
        "return left * (K + 1) + above",
        "return above * (K + 1) + left",
        "test_a_codes_context_is_its_left_and_upper_neighbour",
    ),
    page(
        "the table of codes: one sum for all contexts",
        "counts / counts.sum(dim=1, keepdim=True)",
        "counts / counts.sum()",
        "test_the_table_of_codes_is_a_probability_and_draws_follow_it",
    ),
    page("mark 3 forgets the half", ".entropy()", ".entropy() - 0.5", "exercises"),
    page(
        "mark 2 takes the sum",
        "known = small.exp().mean(dim=0).log()",
        "known = small.exp().sum(dim=0).log()",
        "exercises",
    ),
    page(
        "mark 6 is content with the page's own list",
        "yours, ours - 0.5, ",
        "yours, ours + 1, ",
        "test_answers_are_marked_for_what_they_are",
    ),
    page(
        "mark 4 looks at one picture",
        "(0.0, 0.5, 1.5, 8.0)",
        "(0.0,)",
        "test_answers_are_marked_for_what_they_are",
    ),
    panel(
        "the panel's weights forget the width of q",
        "- math.log(sigma) - 0.5",
        "- 0.5",
        "test_the_panels_bound_is_that_of_the_linear_model",
    ),
    panel(
        "entries run away from their dots",
        "self.entries[k] += rate * (",
        "self.entries[k] -= rate * (",
        "test_entries_come_to_rest_in_the_middle_of_their_dots",
    ),
    panel(
        "moving idle entries moves all",
        "idle = torch.bincount(self.nearest(), minlength=len(self.entries)) == 0",
        "idle = torch.bincount(self.nearest(), minlength=len(self.entries)) >= 0",
        "test_an_idle_entry_is_put_on_a_dot_and_the_others_are_left",
    ),
]
