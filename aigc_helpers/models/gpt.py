"""Generated from notebooks/03_gpt.ipynb: edit it there, then run `python -m tools export`."""

import collections
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

# These refuse wrong input, and say in words what is wrong with it.
from aigc_helpers.arguments import require_context, require_logits, require_prompt
from aigc_helpers.arguments import require_settings, require_windows


class Characters:
    """The alphabet of a text: from characters to token numbers 0, 1, ..., V - 1, and back."""

    def __init__(self, text):
        self.alphabet = sorted(set(text))
        self.number = {c: i for i, c in enumerate(self.alphabet)}

    def __len__(self):
        return len(self.alphabet)

    def encode(self, text):
        """Token numbers (T,) int64. Raises ValueError, naming them, for unknown characters."""
        unknown = "".join(sorted(set(text) - set(self.number)))
        if unknown:
            message = f"these characters are not in the alphabet: {unknown[:20]!r}"
            raise ValueError(f"{message}; leave them out, or use read")
        return torch.tensor([self.number[c] for c in text], dtype=torch.long)

    def decode(self, tokens):
        """The text of token numbers (T,)."""
        return "".join(self.alphabet[int(token)] for token in tokens)

    def read(self, prompt):
        """A reader's own words, whatever they are: tokens (T,), T at least 1, and a remark.

        What the alphabet lacks is left out; the remark says how much. An empty prompt becomes a
        new line or, where the alphabet has none, its first character.
        """
        kept = "".join(c for c in prompt if c in self.number)
        left_out = len(prompt) - len(kept)
        remark = ""
        if left_out:
            remark = f"Left out {left_out} characters that the training text never uses. "
        if not kept:
            kept = "\n" if "\n" in self.number else self.alphabet[0]
            remark += "Nothing to go on: starting from a new line. "
        return self.encode(kept), remark


class NGramModel:
    """What followed the last 0, 1, ..., `order` tokens, and how often, in tokens (T,).

    With a context of `order` tokens it is called an (order + 1)-gram model.
    """

    def __init__(self, tokens, vocab, order):
        self.vocab = vocab
        self.order = order
        # context -> next token -> how often
        self.followers = collections.defaultdict(collections.Counter)
        sequence = tokens.tolist()
        for n in range(order + 1):
            for k in range(n, len(sequence)):
                self.followers[tuple(sequence[k - n : k])][sequence[k]] += 1

    def probability(self, context, token):
        """p(token | context) for a list of tokens and a token: eq. (4); Witten & Bell 1991, C."""
        p = 1 / self.vocab
        for n in range(min(self.order, len(context)) + 1):
            counts = self.followers.get(tuple(context[len(context) - n :]))
            if counts is None:
                break
            p = (counts[token] + len(counts) * p) / (counts.total() + len(counts))
        return p

    def log_probabilities(self, tokens):
        """log p (V,) of every possible next token after tokens (T,)."""
        context = tokens[-self.order :].tolist() if self.order else []
        return torch.tensor([self.probability(context, token) for token in range(self.vocab)]).log()

    def losses(self, tokens):
        """-log p, nats, of each of tokens (T,) after those before it."""
        text = tokens.tolist()
        p = []
        for k, token in enumerate(text):
            context = text[max(0, k - self.order) : k]
            p.append(self.probability(context, token))
        return -torch.tensor(p).log()


def attention(q, k, v, mask=None):
    """Eq. (6): results (..., T, d) and weights (..., T, S).

    q (..., T, d), k and v (..., S, d); mask (T, S) bool, True where t may take from s
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(dim=-1)                   # over the keys: each row adds up to 1
    return weights @ v, weights


@torch.no_grad()
def influence(function, h):
    """(T, T): how far function(h)[0, t] moves when h[0, s] is changed, for h (1, T, D).

    Row t, column s; the change is the same random row at each position.
    """
    change = torch.randn(h.shape[-1], generator=torch.Generator().manual_seed(0))
    before = function(h)[0]                                    # (T, outputs)
    columns = []
    for s in range(h.shape[1]):
        changed = h.clone()
        changed[0, s] += change
        columns.append((function(changed)[0] - before).norm(dim=-1))       # (T,)
    return torch.stack(columns, dim=1)


class SelfAttention(nn.Module):
    """h (N, T, D) -> (N, T, D), with num_heads heads of width D / num_heads; Vaswani 2017, 3.2."""

    def __init__(self, width, num_heads, causal=True):
        super().__init__()
        if num_heads < 1 or width % num_heads:
            raise ValueError(f"width {width} cannot be cut into {num_heads} equal heads")
        self.num_heads = num_heads
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width)                 # W_Q, W_K, W_V side by side
        self.out = nn.Linear(width, width)

    def split(self, h):
        """Queries, keys and values (N, heads, T, d) of h (N, T, D)."""
        N, T, D = h.shape
        qkv = self.qkv(h).view(N, T, 3, self.num_heads, D // self.num_heads)
        return qkv.permute(2, 0, 3, 1, 4)                      # (3, N, heads, T, d)

    def join(self, mixed):
        """The heads (N, heads, T, d) side by side, mixed once more: (N, T, D)."""
        return self.out(mixed.transpose(1, 2).flatten(2))

    def forward(self, h):
        q, k, v = self.split(h)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)     # eq. (6)
        return self.join(mixed)


class MLP(nn.Module):
    """h (N, T, D) -> (N, T, D), at each position by itself: D -> 4 D, GELU, 4 D -> D."""

    def __init__(self, width):
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, h):
        return self.down(F.gelu(self.up(h), approximate="tanh"))       # (N, T, 4 D) in between


class Block(nn.Module):
    """h (N, T, D) -> (N, T, D): attention, then an MLP, each added to the residual stream: (8)."""

    def __init__(self, width, num_heads, causal=True):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads, causal)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, h):
        h = h + self.attention(self.norm1(h))
        return h + self.mlp(self.norm2(h))


class GPT(nn.Module):
    """Tokens (N, T) -> logits (N, T, V): the architecture of GPT-2 (Radford 2019), eq. (9).

    With a Cache, the tokens are those that follow what the cache has read. Raises ValueError
    beyond the context, and for no tokens at all.
    """

    def __init__(self, vocab, context=128, width=128, num_heads=4, num_blocks=4, causal=True):
        super().__init__()
        self.context = context
        self.token = nn.Embedding(vocab, width)                # W_E, also the head's weights
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, num_heads, causal) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(width)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:                               # smaller where h is added to
                adds = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * num_blocks) if adds else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def embed(self, tokens, start=0):
        """h (N, T, D) at the entrance, for tokens (N, T) at positions start, start + 1, ..."""
        end = start + tokens.shape[1]
        require_context(end if tokens.shape[1] else 0, self.context)
        return self.token(tokens) + self.position.weight[start:end]

    def read_out(self, h):
        """Logits (N, T, V) from h (N, T, D); the head is tied: its weights are `token.weight`."""
        logits = self.norm(h) @ self.token.weight.T            # (N, T, D) @ (D, V)
        return logits.float()

    def forward(self, tokens, cache=None):
        if cache is not None:
            return with_cache(self, tokens, cache)             # defined in section 7
        h = self.embed(tokens)
        for block in self.blocks:
            h = block(h)
        return self.read_out(h)


@torch.no_grad()
def future_share(model, tokens):
    """Change one of tokens (T,) after another: of all that the logits move, the share before it.

    It is 0 for a causal model.
    """
    before = model(tokens[None])[0]                            # (T, V)
    columns = []
    for s in range(len(tokens)):
        changed = tokens.clone()
        changed[s] = (changed[s] + 1) % before.shape[-1]
        columns.append((model(changed[None])[0] - before).norm(dim=-1))    # (T,)
    moved = torch.stack(columns, dim=1)                        # row t, column s
    return (moved.triu(1).sum() / moved.sum()).item()


def next_token_loss(model, tokens):
    """Eq. (10) in nats for tokens (N, T + 1): a row's first T are inputs, its last T targets."""
    logits = model(tokens[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def losses_by_position(model, tokens, rows=64):
    """-log p, nats, of every token: tokens (T,) are cut into n windows; returns (n, context)."""
    require_windows(len(tokens), model.context)
    windows = tokens.unfold(0, model.context + 1, model.context)
    parts = []
    for batch in windows.split(rows):
        logits = model(batch[:, :-1])
        targets = batch[:, 1:].flatten()
        losses = F.cross_entropy(logits.flatten(0, 1), targets, reduction="none")
        parts.append(losses.view(len(batch), -1))
    return torch.cat(parts)


def causal_mask(T, S=None):
    """(T, S) bool: what the last T of S positions may take from: themselves, and the past."""
    S = T if S is None else S
    return torch.ones(S, S, dtype=torch.bool).tril()[S - T :]


def attention_stages(model, tokens, layer, head):
    """The stages of a head of attention, for tokens (T,): four times (T, T), then values (T, d)."""
    h = model.embed(tokens[None])
    for block in model.blocks[:layer]:
        h = block(h)
    block = model.blocks[layer]
    q, k, v = block.attention.split(block.norm1(h))[:, 0, head]
    score = q @ k.T
    scale = score / math.sqrt(q.shape[-1])
    mask = scale.masked_fill(~causal_mask(len(tokens)), float("-inf"))
    weights = mask.softmax(dim=-1)
    stages = {"score": score, "scale": scale, "mask": mask, "softmax": weights}
    return stages | {"× values": weights @ v}


@torch.no_grad()
def attention_weights(model, tokens):
    """The weights A (blocks, heads, T, T) of all heads, for tokens (T,)."""
    mask = causal_mask(len(tokens)).to(tokens.device)
    h = model.embed(tokens[None])
    found = []
    for block in model.blocks:
        q, k, v = block.attention.split(block.norm1(h))
        found.append(attention(q, k, v, mask)[1][0])
        h = block(h)
    return torch.stack(found)


def next_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """Probabilities (..., V) of the next token, from logits (..., V).

    Softmax at a temperature (0: all on the largest), cut to the top_k likeliest, then to the
    smallest set of them whose share reaches top_p (Holtzman 2019, arXiv 1904.09751, eq. 2), and
    brought back to a sum of 1. Raises ValueError for settings or logits that make no distribution.
    """
    logits = require_logits(logits)
    require_settings(temperature, top_k, top_p)
    if temperature < torch.finfo(torch.float32).tiny:          # 0, or as good as 0
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
    logits = logits - logits.amax(dim=-1, keepdim=True)        # so that no quotient overflows
    p, order = (logits / temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    if top_k is not None:
        p[..., top_k:] = 0
        p = p / p.sum(dim=-1, keepdim=True)
    if top_p is not None and top_p < 1:
        p = p * (p.cumsum(dim=-1) - p < top_p)     # kept while those before it fall short of top_p
    p = torch.zeros_like(p).scatter(-1, order, p)
    return p / p.sum(dim=-1, keepdim=True)


class Cache:
    """The keys and values of all positions read so far, for each attention layer."""

    def __init__(self):
        self.kept = {}

    def extend(self, layer, k, v):
        """Append k and v (N, heads, T, d) to what the layer has kept; returns all of them."""
        if layer in self.kept:
            old_k, old_v = self.kept[layer]
            k = torch.cat([old_k, k], dim=2)
            v = torch.cat([old_v, v], dim=2)
        self.kept[layer] = k, v
        return k, v

    def __len__(self):
        """How many positions have been read."""
        if not self.kept:
            return 0
        k, _ = next(iter(self.kept.values()))                  # any layer's: (N, heads, S, d)
        return k.shape[2]


def with_cache(model, tokens, cache):
    """Eq. (13): logits (N, T, V) for T new tokens, which follow those that the cache has read."""
    T = tokens.shape[1]
    h = model.embed(tokens, start=len(cache))
    mask = causal_mask(T, len(cache) + T).to(h.device)
    for block in model.blocks:
        layer = block.attention
        q, k, v = layer.split(block.norm1(h))                  # of the new positions only
        k, v = cache.extend(layer, k, v)                       # (N, heads, S, d): old and new
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        h = h + layer.join(mixed)
        h = h + block.mlp(block.norm2(h))
    return model.read_out(h)


def next_logits(model, tokens, cache=None):
    """Logits (N, V) of what follows tokens (N, T); a cache has read all but the last, or nothing.

    Beyond the context the model reads the last `context` tokens or, with a cache, half as many.
    """
    if cache is None:
        return model(tokens[:, -model.context :])[:, -1]
    if 0 < len(cache) < model.context:
        return model(tokens[:, -1:], cache)[:, -1]             # one new position: eq. (13)
    cache.kept.clear()
    is_full = tokens.shape[1] > model.context
    most = max(1, model.context // 2) if is_full else model.context
    return model(tokens[:, -most:], cache)[:, -1]


@torch.no_grad()
def generate(model, tokens, num_new, generator=None, use_cache=True, end=None, **settings):
    """tokens (N, T) with num_new sampled ones after them; settings: those of `next_probabilities`.

    A row that has written the tokens `end` (k,) is finished: the last of them fills the rest of it.
    When all rows are finished the writing stops, so that there may be fewer than num_new.
    The random numbers are drawn on the CPU. Raises ValueError for a prompt or num_new that is none.
    """
    require_prompt(tokens, num_new)
    cache = Cache() if use_cache else None
    finished = torch.zeros(len(tokens), dtype=torch.bool)
    for count in range(1, num_new + 1):
        logits = next_logits(model, tokens, cache)                          # ask
        p = next_probabilities(logits, **settings)
        token = torch.multinomial(p.cpu(), 1, generator=generator)          # sample
        if end is not None:
            token[finished] = end[-1].item()
        tokens = torch.cat([tokens, token.to(tokens.device)], dim=1)        # append
        if end is not None and count >= len(end):
            last = tokens[:, -len(end) :].cpu()
            finished |= (last == end.cpu()).all(dim=1)
            if finished.all():
                break
    return tokens


def train_on_windows(model, opt, tokens, num_steps, generator, batch_size=16):
    """Train on random windows of tokens (T,) for num_steps; returns the loss of each step, nats."""
    inside = torch.arange(model.context + 1)
    losses = []
    for _ in range(num_steps):
        starts = torch.randint(len(tokens) - model.context, (batch_size,), generator=generator)
        loss = next_token_loss(model, tokens[starts[:, None] + inside])
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def truncated_loss(model, windows, given=16):
    """Nats of the token after the first `given` of windows (N, T), when only those are given."""
    logits = model(windows[:, :given])[:, -1]
    return F.cross_entropy(logits, windows[:, given]).item()


@torch.no_grad()
def sliding_window_loss(model, tokens, stride, rows=64):
    """-log p, nats, of tokens (T,) from number 1 on; returns (n,), for as many as windows hold.

    A window of `context` tokens moves on by `stride`, and its last `stride` predictions are scored:
    each has more than context - stride tokens to go by. Of the first window all are scored.
    """
    require_windows(len(tokens), model.context, stride)
    parts = []
    for batch in tokens.unfold(0, model.context + 1, stride).split(rows):
        logits = model(batch[:, :-1])                          # (windows, context, V)
        losses = F.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none")
        if not parts:
            parts.append(losses[0, :-stride])                  # the beginning of the first window
        parts.append(losses[:, -stride:].flatten())
    return torch.cat(parts)
