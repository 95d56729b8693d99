"""Generated from notebooks/03c_objectives.ipynb: edit it there, then run `python -m tools export`."""

import itertools
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.models.gpt import Block


REACH = 4  # neighbours on each side whose letters are read at the entrance; causal: 2 REACH before


class Backbone(nn.Module):
    """Tokens (N, T) -> logits (N, T, V), from both sides or, if causal, from the left only.

    Token V, `mask`, is no letter: it stands for a hidden one or, if causal, for the beginning.
    """

    def __init__(self, vocab, context=64, width=128, num_heads=4, num_blocks=3, causal=False):
        super().__init__()
        self.context = context
        self.mask = vocab
        both = [*range(-REACH, 0), *range(1, REACH + 1)]
        self.offsets = list(range(-2 * REACH, 0)) if causal else both
        self.token = nn.Embedding(vocab + 1, width)
        self.position = nn.Embedding(context, width)
        self.near = nn.ModuleList(nn.Embedding(vocab + 2, width) for _ in self.offsets)
        self.blocks = nn.ModuleList(Block(width, num_heads, causal) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(width)
        self.binary_head = nn.Linear(width, 1)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:                               # smaller where h is added to
                adds = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.06 / math.sqrt(2 * num_blocks) if adds else 0.06)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def embed(self, tokens):
        """h (N, T, D) at the entrance: the letter, its position, and the letters around it."""
        T = tokens.shape[1]
        if not 1 <= T <= self.context:
            raise ValueError(f"a window must have 1 to {self.context} tokens, got {T}")
        h = self.token(tokens) + self.position.weight[:T]
        padded = F.pad(tokens, (2 * REACH, REACH), value=self.mask + 1)     # beyond the ends
        for offset, table in zip(self.offsets, self.near, strict=True):
            start = 2 * REACH + offset
            h = h + table(padded[:, start : start + T])
        return h

    def stack(self, tokens):
        """h (N, T, D) after the blocks."""
        h = self.embed(tokens)
        for block in self.blocks:
            h = block(h)
        return h

    def read_out(self, h):
        """Logits (N, T, V): the head is tied, and gives no logit to `mask`."""
        return (self.norm(h) @ self.token.weight[: self.mask].T).float()

    def yes_or_no(self, tokens):
        """The logit (N, T) of a yes at each position."""
        return self.binary_head(self.norm(self.stack(tokens)))[..., 0].float()

    def forward(self, tokens):
        return self.read_out(self.stack(tokens))


def next_nll(model, x):
    """-log p(x_i | x_1 ... x_(i-1)), nats (N, T), of a causal network, for all of x (N, T)."""
    begun = F.pad(x[:, :-1], (1, 0), value=model.mask)         # the beginning, then the letters
    return F.cross_entropy(model(begun).transpose(1, 2), x, reduction="none")


def gap_nll(model, x, hidden):
    """-log p(x_i | the letters that are not hidden), nats (N, T), for x (N, T), hidden (N, T)."""
    logits = model(torch.where(hidden, model.mask, x))
    return F.cross_entropy(logits.transpose(1, 2), x, reduction="none")


def draw(shape, generator, device):
    """Uniform random numbers, drawn on the CPU."""
    return torch.rand(shape, generator=generator).to(device)


def next_loss(model, x, generator):
    """Eq. (1), left. The generator is not used: nothing here is random."""
    return next_nll(model, x).mean()


def masked_loss(model, x, generator, share=0.15):
    """Eq. (1), right: the mean over all hidden letters of a batch, about `share` of its letters.

    At least one is hidden.
    """
    hidden = draw(x.shape, generator, x.device) < share
    hidden[0, 0] |= ~hidden.any()
    return gap_nll(model, x, hidden)[hidden].mean()


def join_halves(x, generator):
    """About half of the windows get another row's second half: (N, T), and the true ones (N,)."""
    half = x.shape[1] // 2
    other = torch.cat([x[:, :half], x.roll(1, dims=0)[:, half:]], dim=1)
    true = draw((len(x), 1), generator, x.device) < 0.5
    return torch.where(true, x, other), true[:, 0]


def sentence_loss(model, x, generator):
    """Eq. (2): does the second half continue the first? Read where the halves meet."""
    joined, true = join_halves(x, generator)
    logits = model.yes_or_no(joined)[:, x.shape[1] // 2]
    return F.binary_cross_entropy_with_logits(logits, true.float())


def replace_letters(x, generator, share=0.15):
    """Windows with about `share` of the letters exchanged: (N, T), and which are false (N, T)."""
    swap = draw(x.shape, generator, x.device) < share
    picked = torch.randint(x.numel(), x.shape, generator=generator).to(x.device)
    letters = x.flatten()[picked]                              # as often as they occur
    changed = torch.where(swap, letters, x)
    return changed, changed != x


def replaced_loss(model, x, generator):
    """Eq. (2) at every position: was this letter exchanged?"""
    changed, false = replace_letters(x, generator)
    return F.binary_cross_entropy_with_logits(model.yes_or_no(changed), false.float())


def exact_table(joint):
    """p(x_i | what is visible) of words of three binary letters: (3, 3, 3, 3, 2).

    joint (2, 2, 2): the probability of each word. The first three indices are the letters of a
    context, 0, 1 or 2 for "hidden"; then the position i, then the letter. A visible letter is sure.
    """
    table = torch.zeros(3, 3, 3, 3, 2, dtype=joint.dtype)
    for context in itertools.product(range(3), repeat=3):
        visible = tuple(slice(None) if c == 2 else slice(c, c + 1) for c in context)
        part = joint[visible]                                  # keeps three dimensions
        if part.sum() == 0:                                    # a context that never occurs
            part = torch.ones_like(part)
        part = part / part.sum()
        for i, letter in enumerate(context):
            others = [k for k in range(3) if k != i]
            if letter == 2:
                table[context][i] = part.sum(dim=others)
            else:
                table[context][i, letter] = 1.0
    return table


class TableModel:
    """A table (3, 3, 3, 3, 2), asked like a network: tokens (N, 3), 2 for hidden -> logits."""

    mask = 2

    def __init__(self, table):
        self.logits = table.clamp_min(1e-30).log().float()

    def __call__(self, tokens):
        return self.logits[tokens[:, 0], tokens[:, 1], tokens[:, 2]]


def draw_times(n, generator, device="cpu"):
    """n times in (0, 1], one from each n-th part of it, in random order: (n, 1)."""
    part = torch.randperm(n, generator=generator)[:, None]
    u = 1 - torch.rand(n, 1, generator=generator)
    return ((part + u) / n).to(device)


def diffusion_loss(model, x, generator):
    """Eq. (8), nats per letter, averaged over windows x (N, T)."""
    t = draw_times(len(x), generator, x.device)
    hidden = draw(x.shape, generator, x.device) < t
    nll = gap_nll(model, x, hidden)
    return (nll * hidden / t).sum() / x.numel()


def hide_exactly(x, num_hidden, generator):
    """Bool (N, T): of row n of x (N, T), num_hidden[n] positions at random."""
    scores = draw(x.shape, generator, x.device)
    rank = scores.argsort(dim=1).argsort(dim=1)
    return rank < num_hidden[:, None]


def gap_costs(model, x, generator):
    """For each window of x (N, T): how many letters were hidden, and their mean cost: eq. (9).

    The numbers of gaps are spread uniformly over 1 ... T. The mean of the costs estimates L / T.
    """
    N, T = x.shape
    num_hidden = (draw_times(N, generator, x.device)[:, 0] * T).ceil().long()     # 1 ... T
    hidden = hide_exactly(x, num_hidden, generator)
    nll = gap_nll(model, x, hidden)
    return num_hidden, (nll * hidden).sum(dim=1) / num_hidden


def gap_count_loss(model, x, generator):
    """Eq. (9) as a loss to train with: m drawn uniformly, a mean inside each window."""
    _, costs = gap_costs(model, x, generator)
    return costs.mean()


@torch.no_grad()
def estimate_bound(model, x, draws, generator):
    """The bound (9), nats per letter, of windows x (N, T), from several draws of gaps.

    Returns its mean, its standard error over the draws, counts of gaps and costs, (draws, N) each.
    """
    found = [gap_costs(model, x, generator) for _ in range(draws)]
    counts = torch.stack([num_hidden for num_hidden, _ in found])
    costs = torch.stack([cost for _, cost in found])
    error = costs.mean(dim=1).std() / math.sqrt(draws)
    return costs.mean().item(), error.item(), counts, costs


@torch.no_grad()
def cost_in_order(model, x, order):
    """-log p, nats (N,), of windows x (N, T) written in the orders `order` (N, T): eq. (4).

    order[n, k] is the position of window n that is written as its (k + 1)-th. T evaluations.
    """
    tokens = torch.full_like(x, model.mask)
    rows = torch.arange(len(x), device=x.device)
    cost = torch.zeros(len(x), device=x.device)
    for position in order.T:
        letter = x[rows, position]
        log_p = model(tokens)[rows, position].log_softmax(dim=-1)
        cost = cost - log_p[rows, letter]
        tokens[rows, position] = letter
    return cost


ORDERINGS = ("random", "from the left", "from the right", "surest first", "likeliest draw first")


def rank_gaps(p, hidden, ordering, generator, drawn=None):
    """Which gap is filled first: ranks (N, T), 0 for the first; visible positions come last.

    p (N, T, V) are the network's probabilities, hidden (N, T) is bool. drawn (N, T) are the letters
    that were drawn: only "likeliest draw first" looks at them.
    """
    N, T = hidden.shape
    if ordering not in ORDERINGS:
        raise ValueError(f"ordering must be one of {', '.join(ORDERINGS)}, got {ordering!r}")
    if ordering == "random":
        score = draw((N, T), generator, hidden.device)
    elif ordering == "surest first":
        score = p.amax(dim=-1)                                 # of the likeliest letter
    elif ordering == "likeliest draw first":
        score = p.gather(-1, drawn[..., None])[..., 0]         # of the letter that was drawn
    else:
        score = torch.arange(T, device=hidden.device).float().expand(N, T)
        score = -score if ordering == "from the left" else score
    score = score.masked_fill(~hidden, float("-inf"))
    return score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


@torch.no_grad()
def unmask(model, tokens, num_steps, generator, ordering="random", temperature=1.0):
    """Fill the gaps of tokens (N, T), where model.mask stands, in num_steps evaluations.

    Returns the tokens, and (N, T) at which step each was filled (0: it was given). The random
    numbers are drawn on the CPU. A temperature of 0 takes the likeliest letter.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be 1 or above, got {num_steps}")
    tokens = tokens.clone()
    when = torch.zeros_like(tokens)
    for step in range(1, num_steps + 1):
        hidden = tokens == model.mask
        if not hidden.any():
            break
        logits = model(tokens)
        p = logits.softmax(dim=-1)
        if temperature == 0:
            drawn = logits.argmax(dim=-1)
        else:
            q = (logits / temperature).softmax(dim=-1).flatten(0, 1).cpu()
            drawn = torch.multinomial(q, 1, generator=generator).view(tokens.shape)
        steps_left = num_steps - step + 1
        num_kept = (hidden.sum(dim=1, keepdim=True) / steps_left).ceil()
        drawn = drawn.to(tokens.device)
        keep = hidden & (rank_gaps(p, hidden, ordering, generator, drawn) < num_kept)
        tokens = torch.where(keep, drawn, tokens)
        when = torch.where(keep, step, when)
    return tokens, when


def words_of(text):
    """The words of a text: runs of letters, in lower case, but for those cut off at its ends."""
    found = "".join(c.lower() if c.isalpha() else " " for c in text)
    parts = found.split(" ")
    return [part for part in parts[1:-1] if part]


@torch.no_grad()
def judge_samples(samples, judge, alphabet, known):
    """Scores of samples (N, T): judge's nats per letter, share of known words, entropy of letters.

    judge is a GPT of chapter 03 that reads the same tokens; known is a set of words.
    """
    logits = judge(samples[:, :-1])
    nats = F.cross_entropy(logits.transpose(1, 2), samples[:, 1:]).item()
    words = []
    for row in samples:
        words += words_of("".join(alphabet[int(token)] for token in row))
    right = sum(word in known for word in words) / max(1, len(words))
    p = samples.flatten().bincount(minlength=len(alphabet)) / samples.numel()
    entropy = -(p * p.clamp_min(1e-12).log()).sum().item()
    return {"judge's nats": nats, "real words": right, "letters' entropy": entropy}


@torch.no_grad()
def rescore(model, x, position):
    """Eq. (11): log p (N, V) of each letter at a position, given all others; a causal network."""
    vocab = model.mask
    log_p = []
    for letter in range(vocab):
        tried = x.clone()
        tried[:, position] = letter
        log_p.append(-next_nll(model, tried).sum(dim=1))
    return torch.stack(log_p, dim=1).log_softmax(dim=1)


@torch.no_grad()
def letter_log_probs(model, x, position, see_right=True):
    """log p of each letter at a position of x (N, T), (N, V), of a gap filler."""
    hidden = torch.zeros_like(x, dtype=torch.bool)
    hidden[:, position] = True
    if not see_right:
        hidden[:, position:] = True
    return model(torch.where(hidden, model.mask, x))[:, position].log_softmax(dim=-1)


@torch.no_grad()
def unmask_sure(model, tokens, threshold, generator, temperature=1.0):
    """Fill the gaps of tokens (N, T): at each evaluation all whose likeliest letter has a
    probability above `threshold`, and in each window at least the surest one. A temperature of 0
    takes the likeliest letter. Returns tokens, and how many evaluations each window needed (N,)."""
    tokens = tokens.clone()
    evaluations = torch.zeros(len(tokens))
    while (tokens == model.mask).any():
        hidden = tokens == model.mask
        p = model(tokens).softmax(dim=-1)
        sure = p.amax(dim=-1).masked_fill(~hidden, -1.0)
        keep = hidden & ((sure > threshold) | (sure == sure.amax(dim=1, keepdim=True)))
        if temperature == 0:
            drawn = p.argmax(dim=-1)
        else:
            drawn = torch.multinomial(p.flatten(0, 1).cpu(), 1, generator=generator)
            drawn = drawn.view(tokens.shape).to(tokens.device)
        tokens = torch.where(keep, drawn, tokens)
        evaluations += hidden.any(dim=1).cpu()
    return tokens, evaluations


def train_filler(model, opt, tokens, num_steps, seed):
    """Train on tokens (n,) by eq. (8), 16 random windows a step; returns the model, evaluating."""
    generator = torch.Generator().manual_seed(seed)
    inside = torch.arange(model.context)
    for _ in range(num_steps):
        starts = torch.randint(len(tokens) - model.context, (16, 1), generator=generator)
        loss = diffusion_loss(model, tokens[starts + inside], generator)
        opt.zero_grad()
        loss.backward()
        opt.step()
    return model.eval()
