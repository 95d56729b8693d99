"""Generated from notebooks/03b_gpt_beyond.ipynb: edit it there, then run `python -m tools export`."""

import collections
import math
import re

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.arguments import require_number, require_one_of, require_whole
from aigc_helpers.models.gpt import causal_mask, next_token_loss
from aigc_helpers.training import autocast


PIECES = re.compile(r" ?\w+| ?[^\w\s]+|\s+")  # words, punctuation, white space


def spell(piece):
    """The bytes (UTF-8) of a piece of text, a list of tokens. ValueError for half a character."""
    try:
        return list(piece.encode())
    except UnicodeEncodeError:  # one of the two halves that UTF-16 makes of a rare character
        raise ValueError(f"spell: {piece!r} has half a character in it: leave it out") from None


def merge_pair(tokens, pair, new):
    """The list of tokens with every occurrence of the pair, from the left, replaced by `new`."""
    merged = []
    k = 0
    while k < len(tokens):
        if tuple(tokens[k : k + 2]) == pair:
            merged.append(new)
            k += 2
        else:
            merged.append(tokens[k])
            k += 1
    return merged


class PairCounts:
    """How often each pair of tokens stands in the words of a text, and in which words."""

    def __init__(self, text):
        self.frequency = collections.Counter(PIECES.findall(text))     # word -> how often
        self.tokens = {word: spell(word) for word in self.frequency}   # word -> its tokens now
        self.counts = collections.Counter()
        self.words_with = collections.defaultdict(set)
        for word in self.frequency:
            self.count(word, self.frequency[word])

    def count(self, word, times):
        """Add `times` to the count of each pair in the word."""
        tokens = self.tokens[word]
        for pair in zip(tokens, tokens[1:]):
            self.counts[pair] += times
            self.words_with[pair].add(word)

    def most_frequent(self):
        """Eq. (1), or None if there is no pair left; of equal counts the larger tokens win."""
        best = max(self.counts, key=lambda pair: (self.counts[pair], pair), default=None)
        return best if self.counts[best] else None

    def merge(self, pair, new):
        """Write the pair as one token in each word that has it, and update the counts."""
        for word in list(self.words_with.pop(pair)):
            self.count(word, -self.frequency[word])            # its old pairs go
            self.tokens[word] = merge_pair(self.tokens[word], pair, new)
            self.count(word, self.frequency[word])             # its new pairs come
        del self.counts[pair]


def learn_merges(text, num_merges):
    """The merges, a list of pairs of tokens, that eq. (1) takes from a text.

    Raises ValueError if pairs run out.
    """
    require_whole("learn_merges", "num_merges", num_merges, least=0)
    words = PairCounts(text)
    merges = []
    for new in range(256, 256 + num_merges):
        pair = words.most_frequent()
        if pair is None:
            found = f"only {len(merges)} of the {num_merges} merges can be learnt"
            raise ValueError(f"{found}: no pair is left in this text")
        words.merge(pair, new)
        merges.append(pair)
    return merges


class BytePairs:
    """Byte-pair encoding (Sennrich 2015, arXiv 1508.07909) of bytes (Radford 2019).

    Tokens 0-255 are bytes (UTF-8), 256 + m is merge m, `end` is the end of a document; len() of it
    is the size of the vocabulary.
    """

    def __init__(self, text, num_merges):
        self.merges = learn_merges(text, num_merges)
        self.bytes = [bytes([b]) for b in range(256)]
        for a, b in self.merges:
            self.bytes.append(self.bytes[a] + self.bytes[b])
        self.end = len(self.bytes)
        self.bytes.append(b"")                                 # the end of text has no bytes

    def __len__(self):
        return len(self.bytes)

    def encode(self, text, num_merges=None):
        """Token numbers, a list, of any text: by the first `num_merges` merges, in their order.

        None: by all of them; 0: bytes. Raises ValueError if fewer have been learnt.
        """
        learnt = len(self.merges)
        num_merges = learnt if num_merges is None else num_merges
        require_whole("encode", "num_merges", num_merges, least=0, most=learnt)
        rank = {pair: m for m, pair in enumerate(self.merges[:num_merges])}
        pieces = PIECES.findall(text)
        known = {piece: self._merge(spell(piece), rank) for piece in set(pieces)}
        return [token for piece in pieces for token in known[piece]]

    def _merge(self, tokens, rank):
        """One piece: of the pairs in it, the one that was learnt first is merged first."""
        while pairs := [pair for pair in zip(tokens, tokens[1:]) if pair in rank]:
            first = min(pairs, key=rank.get)
            tokens = merge_pair(tokens, first, 256 + rank[first])
        return tokens

    def encode_documents(self, documents):
        """Token numbers, a list, of texts one after another, with `end` behind each of them."""
        tokens = []
        for document in documents:
            tokens += self.encode(document)
            tokens.append(self.end)
        return tokens

    def decode(self, tokens):
        """The text of token numbers; bytes that are no UTF-8 become a replacement sign."""
        last = len(self) - 1
        numbers = [require_whole("decode", "a token", token, 0, last) for token in tokens]
        spelling = b"".join(self.bytes[number] for number in numbers)
        return spelling.decode("utf-8", errors="replace")


def bits_per_byte(nats, text):
    """Eq. (2) from the nats of all tokens of a text, added up."""
    return nats / math.log(2) / len(text.encode())


def rotate(x, start=0, rope_theta=10000.0):
    """Rotary positions, eq. (4): x (N, heads, T, d) at positions start, start + 1, ...

    The angles are rope_theta^(-2i/d) a position, i = 0 ... d/2 - 1. Raises ValueError for an odd d.
    """
    T, d = x.shape[-2:]
    if d % 2:
        raise ValueError(f"rotate: the width of a head must be even, to be cut into pairs, got {d}")
    theta = rope_theta ** (-torch.arange(0, d, 2, device=x.device) / d)
    positions = start + torch.arange(T, device=x.device)
    angle = positions[:, None] * theta                         # (T, d/2)
    cos = angle.cos().to(x.dtype)
    sin = angle.sin().to(x.dtype)
    u, v = x.chunk(2, dim=-1)                                  # coordinate i goes with i + d/2
    return torch.cat([u * cos - v * sin, u * sin + v * cos], dim=-1)


class ModernAttention(nn.Module):
    """h (N, T, D) -> (N, T, D): causal attention with rotary positions, QK-norm, GQA.

    kv_heads: how many KV heads the num_heads heads of queries share; None: one for each. head_dim:
    the width d of a head; None: width / num_heads. qk_scale, key_scale: a learnt factor for each
    number of a normalised query, or key. rope_theta: of `rotate`; eps: of the norms.
    Raises ValueError for sizes that do not fit.
    """

    def __init__(
        self,
        width,
        num_heads,
        kv_heads=None,
        head_dim=None,
        rotary=True,
        qk_norm=True,
        qk_scale=False,
        key_scale=False,
        causal=True,
        rope_theta=10000.0,
        eps=1e-6,
    ):
        super().__init__()
        require_whole("ModernAttention", "num_heads", num_heads, least=1)
        kv_heads = num_heads if kv_heads is None else kv_heads
        require_whole("ModernAttention", "kv_heads", kv_heads, least=1)
        if num_heads % kv_heads:
            raise ValueError(f"ModernAttention: {num_heads} heads cannot share {kv_heads} KV heads")
        if head_dim is None and width % num_heads:
            raise ValueError(f"ModernAttention: width {width} is not {num_heads} equal heads")
        d = width // num_heads if head_dim is None else head_dim
        require_whole("ModernAttention", "head_dim", d, least=1)
        if rotary and d % 2:
            raise ValueError(f"ModernAttention: heads of {d} cannot be cut into pairs to rotate")
        self.num_heads = num_heads
        self.kv_heads = kv_heads
        self.head_dim = d
        self.rotary = rotary
        self.qk_norm = qk_norm
        self.causal = causal
        self.rope_theta = rope_theta
        self.eps = eps
        self.q = nn.Linear(width, num_heads * d, bias=False)
        self.k = nn.Linear(width, kv_heads * d, bias=False)
        self.v = nn.Linear(width, kv_heads * d, bias=False)
        self.out = nn.Linear(num_heads * d, width, bias=False)
        self.scale = nn.Parameter(torch.ones(d)) if qk_scale else None
        self.key_scale = nn.Parameter(torch.ones(d)) if key_scale else None

    def split(self, h, start=0):
        """Queries (N, heads, T, d), keys and values (N, kv_heads, T, d) of h (N, T, D)."""
        N, T, _ = h.shape
        d = self.head_dim
        q = self.q(h).view(N, T, self.num_heads, d).transpose(1, 2)
        k = self.k(h).view(N, T, self.kv_heads, d).transpose(1, 2)
        v = self.v(h).view(N, T, self.kv_heads, d).transpose(1, 2)
        if self.qk_norm:
            q = F.rms_norm(q, (d,), eps=self.eps)
            k = F.rms_norm(k, (d,), eps=self.eps)
        if self.scale is not None:
            q = q * self.scale.to(q.dtype)
        if self.key_scale is not None:
            k = k * self.key_scale.to(k.dtype)
        if self.rotary:
            q = rotate(q, start, self.rope_theta)
            k = rotate(k, start, self.rope_theta)
        return q, k, v

    def forward(self, h, cache=None):
        is_later = cache is not None and self in cache.kept
        start = cache.kept[self][0].shape[2] if is_later else 0
        q, k, v = self.split(h, start)
        if cache is not None:
            k, v = cache.extend(self, k, v)                    # (N, kv_heads, S, d)
        shared = self.num_heads // self.kv_heads
        if shared > 1:                                         # copies: only the cache shrinks
            k = k.repeat_interleave(shared, dim=1)
            v = v.repeat_interleave(shared, dim=1)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        if self.causal:                                        # T new positions, S in all
            allowed = causal_mask(q.shape[2], k.shape[2]).to(q.device)
            never = torch.zeros_like(allowed, dtype=q.dtype).masked_fill(~allowed, -math.inf)
            scores = scores + never
        mixed = scores.softmax(dim=-1).to(v.dtype) @ v         # eq. (6) of chapter 03
        return self.out(mixed.transpose(1, 2).flatten(2))      # (N, T, heads, d) -> (N, T, D)


class PlainMLP(nn.Module):
    """h (..., D) -> (..., D): up, squared ReLU (So 2021) or GELU, down; inner width 4 D."""

    def __init__(self, width, squared=True, inner=None):
        super().__init__()
        inner = 4 * width if inner is None else inner
        self.squared = squared
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, h):
        inner = self.up(h)
        inner = F.relu(inner).square() if self.squared else F.gelu(inner, approximate="tanh")
        return self.down(inner)


class SwiGLU(nn.Module):
    """h (..., D) -> (..., D): eq. (7), Shazeer 2020; inner width 8/3 D: as many weights as 4 D."""

    def __init__(self, width, inner=None):
        super().__init__()
        inner = 8 * round(width / 3) if inner is None else inner
        self.gate = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, h):
        return self.down(F.silu(self.gate(h)) * self.up(h))


class Experts(nn.Module):
    """h (..., D) -> (..., D): a router sends each position to one of the MLPs: eq. (8)."""

    def __init__(self, width, num_experts=4, inner=None):
        super().__init__()
        require_whole("Experts", "num_experts", num_experts, least=2)
        self.router = nn.Linear(width, num_experts, bias=False)
        self.experts = nn.ModuleList(
            PlainMLP(width, inner=inner) for _ in range(num_experts)
        )
        self.load = None                                       # shares of the last forward pass
        self.balance = None                                    # its loss, until it is taken

    def forward(self, h):
        flat = h.reshape(-1, h.shape[-1])                      # (positions, D)
        p = self.router(flat).float().softmax(dim=-1)          # (positions, experts)
        chosen = p.argmax(dim=-1)
        parts = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            where = (chosen == number).nonzero()[:, 0]
            made = expert(flat[where]) * p[where, number, None]
            parts = parts.index_add(0, where, made.to(parts.dtype))
        self.load = F.one_hot(chosen, len(self.experts)).float().mean(dim=0)
        self.balance = len(self.experts) * (self.load * p.mean(dim=0)).sum()
        return parts.view_as(h)


MLPS = ("squared ReLU", "GELU", "SwiGLU", "experts")


def make_mlp(kind, width, inner=None):
    """One of the four MLPs; inner: its inner width, None: its usual one."""
    require_one_of("make_mlp", "mlp", kind, MLPS)
    if inner is not None:
        require_whole("make_mlp", "inner", inner, least=1)
    if kind == "SwiGLU":
        return SwiGLU(width, inner)
    if kind == "experts":
        return Experts(width, inner=inner)
    return PlainMLP(width, kind == "squared ReLU", inner)


class ModernBlock(nn.Module):
    """h (N, T, D) -> (N, T, D): attention, then an MLP, each added to the residual stream.

    norm: "RMS" or "layer". mlp: one of MLPS. inner: of `make_mlp`. eps: of all norms.
    parts: of `ModernAttention`.
    """

    def __init__(
        self, width, num_heads, norm="RMS", mlp="squared ReLU", inner=None, eps=1e-6, **parts
    ):
        super().__init__()
        require_one_of("ModernBlock", "norm", norm, ("RMS", "layer"))
        self.norm1 = nn.RMSNorm(width, eps=eps) if norm == "RMS" else nn.LayerNorm(width)
        self.attention = ModernAttention(width, num_heads, eps=eps, **parts)
        self.norm2 = nn.RMSNorm(width, eps=eps) if norm == "RMS" else nn.LayerNorm(width)
        self.mlp = make_mlp(mlp, width, inner)
        for name, weight in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):   # at first the block adds nothing
                nn.init.zeros_(weight)
            elif weight.ndim == 2:
                nn.init.normal_(weight, std=width**-0.5)

    def forward(self, h, cache=None):
        h = h + self.attention(self.norm1(h), cache)
        return h + self.mlp(self.norm2(h))


class ModernGPT(nn.Module):
    """Tokens (N, T) -> logits (N, T, V): a GPT with the parts of this page.

    extra: None, or a module that makes (N, T, D) from tokens (N, T), which is added to the
    embedding; its `reach` says how many tokens back it looks. rotary: if not, positions are learnt;
    position_start: the standard deviation that their table begins with (None: 1, as the tokens').
    entrance_norm: whether h is normalised before the first block (embedding norm).
    eps: of all norms. parts: norm, mlp, inner, kv_heads, head_dim, qk_norm, qk_scale, key_scale,
    causal, rope_theta: see `ModernBlock` and `ModernAttention`.
    With a Cache, the tokens are those that follow what the cache has read.
    Raises ValueError beyond the context, and for no tokens at all.
    """

    def __init__(
        self,
        vocab,
        context=256,
        width=128,
        num_heads=4,
        num_blocks=4,
        extra=None,
        rotary=True,
        position_start=None,
        entrance_norm=True,
        eps=1e-6,
        **parts,
    ):
        super().__init__()
        require_whole("ModernGPT", "context", context, least=1)
        self.vocab = vocab
        self.context = context
        self.token = nn.Embedding(vocab, width)
        self.position = None if rotary else nn.Embedding(context, width)
        if position_start is not None and not rotary:
            nn.init.normal_(self.position.weight, std=position_start)
        self.extra = extra
        self.entrance_norm = entrance_norm
        self.eps = eps
        parts |= {"rotary": rotary, "eps": eps}
        blocks = [ModernBlock(width, num_heads, **parts) for _ in range(num_blocks)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.RMSNorm(width, eps=eps)
        self.head = nn.Linear(width, vocab, bias=False)        # not tied to the embedding
        nn.init.zeros_(self.head.weight)

    def embed(self, tokens, start=0):
        """h (N, T, D) at the entrance, for tokens (N, T) at positions start, start + 1, ..."""
        end = start + tokens.shape[1]
        if tokens.shape[1] == 0:
            raise ValueError("there are no tokens: give at least one, say that of a new line")
        if end > self.context:
            message = f"{end} tokens are more than the context of {self.context} holds"
            raise ValueError(f"{message}: give the last ones only")
        h = self.token(tokens)
        if self.extra is not None:
            h = h + self.extra(tokens)
        if self.position is not None:
            h = h + self.position.weight[start:end]
        return F.rms_norm(h, h.shape[-1:], eps=self.eps) if self.entrance_norm else h

    def read_out(self, h):
        """Logits (N, T, V) from h (N, T, D)."""
        return self.head(self.norm(h)).float()

    def forward(self, tokens, cache=None):
        new = tokens.shape[1]
        read = len(cache) if cache is not None else 0
        if read and new:
            tokens = torch.cat([cache.tokens, tokens], dim=1)  # `extra` looks back at what was read
        h = self.embed(tokens, read + new - tokens.shape[1])[:, -new:]
        if cache is not None:
            reach = self.extra.reach if self.extra is not None else 0
            cache.tokens = tokens[:, max(0, tokens.shape[1] - reach) :]
        for block in self.blocks:
            h = block(h, cache)
        return self.read_out(h)


MOST_FOR_TABLES = 1500  # vocab^3 * 2654435761 must stay below 2^63


def shifted(tokens, back):
    """tokens (N, T) moved to the right by `back` positions; before the text stands token 0."""
    return F.pad(tokens, (back, 0))[:, : tokens.shape[1]]


class PreviousTokens(nn.Module):
    """Tokens (N, T) -> (N, T, D): an embedding of the token before, and one of that before it."""

    def __init__(self, vocab, width, reach=2):
        super().__init__()
        require_whole("PreviousTokens", "reach", reach, least=1)
        self.reach = reach
        self.tables = nn.ModuleList(nn.Embedding(vocab, width) for _ in range(reach))

    def forward(self, tokens):
        h = 0
        for back, table in enumerate(self.tables, 1):
            h = h + table(shifted(tokens, back))
        return h


class NgramTables(nn.Module):
    """Tokens (N, T) -> (N, T, D): a vector for the last two tokens, and one for the last three.

    Pairs have a row each, so it is for small vocabularies. Triples are hashed into `rows` rows of
    width `narrow`, with dropout. Raises ValueError where vocab^3 hashes would not fit in 64 bits.
    """

    reach = 2

    def __init__(self, vocab, width, rows=32768, narrow=32, dropout=0.3):
        super().__init__()
        require_whole("NgramTables", "rows", rows, least=1)
        require_whole("NgramTables", "vocab", vocab, least=1, most=MOST_FOR_TABLES)
        self.vocab = vocab
        self.rows = rows
        self.dropout = dropout
        self.pairs = nn.Embedding(vocab**2, width)
        self.triples = nn.Embedding(rows, narrow)
        self.widen = nn.Linear(narrow, width, bias=False)

    def numbers(self, tokens):
        """The rows of the pair and of the triple that end at each position: two (N, T)."""
        pair = shifted(tokens, 1) * self.vocab + tokens
        triple = shifted(tokens, 2) * self.vocab**2 + pair
        scrambled = triple * 2654435761 % 4294967291           # a hash: neighbours lie far apart
        return pair, scrambled % self.rows

    def forward(self, tokens):
        pair, triple = self.numbers(tokens)
        thin = F.dropout(self.triples(triple), self.dropout, self.training)
        return self.pairs(pair) + self.widen(thin)


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # c1, c3, c5: Jordan 2024


def orthogonal(G, rounds=5):
    """About U V' for matrices G (..., rows, columns): eq. (10). Singular values near 1."""
    if G.ndim < 2:
        raise ValueError(f"orthogonal: G must be a matrix, got the shape {tuple(G.shape)}")
    c1, c3, c5 = NEWTON_SCHULZ
    tall = G.shape[-2] > G.shape[-1]
    X = G.mT if tall else G                                    # the smaller of the squares, X X'
    X = X / X.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)         # no singular value above 1
    for _ in range(rounds):
        A = X @ X.mT
        X = c1 * X + (c3 * A + c5 * A @ A) @ X
    return X.mT if tall else X


class Muon(torch.optim.Optimizer):
    """Muon (Jordan 2024) with Nesterov momentum, for matrices, and kernels as (C_out, rest).

    Multiplies in bfloat16 only where that is quick. Weights without a gradient stay as they are.
    """

    def __init__(self, params, lr=0.02, momentum=0.95):
        require_number("Muon", "lr", lr, least=0)
        require_number("Muon", "momentum", momentum, least=0, most=1)
        super().__init__(params, {"lr": lr, "momentum": momentum})
        shapes = [tuple(W.shape) for group in self.param_groups for W in group["params"]]
        flat = [shape for shape in shapes if len(shape) < 2]
        if flat:
            raise ValueError(f"Muon: is for matrices; give weights like {flat[0]} to AdamW")

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = collections.defaultdict(list)           # equal shapes are done at once
            for W in group["params"]:
                if W.grad is not None:
                    by_shape[W.shape].append(W)
            for weights in by_shape.values():
                self.move(weights, group["lr"], group["momentum"])

    def move(self, weights, lr, momentum):
        """One step of weights of equal shape."""
        ahead = []
        for W in weights:
            mean = self.state[W].setdefault("mean", torch.zeros_like(W))
            mean.lerp_(W.grad, 1 - momentum)                   # the running mean of gradients
            ahead.append(W.grad.lerp(mean, momentum).flatten(1))       # Nesterov's look ahead
        with autocast(weights[0].device):
            updates = orthogonal(torch.stack(ahead))
        rows, columns = updates.shape[1:]
        rate = lr * max(1.0, rows / columns) ** 0.5
        for W, update in zip(weights, updates):
            W.add_(update.reshape(W.shape), alpha=-rate)


def make_optimizers(model, muon=True, matrix_rate=None, rate=5e-3):
    """Optimisers of a ModernGPT: one for the matrices in its blocks, and AdamW for all else.

    The matrices get Muon, or AdamW if not muon, at `matrix_rate` (None: 0.02, or 0.016).
    Frozen weights get none. Raises ValueError if all are frozen.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise ValueError("make_optimizers: every weight is frozen: there is none to train")
    inside = {id(weight) for block in model.blocks for weight in block.parameters()}
    matrices = [weight for weight in weights if id(weight) in inside and weight.ndim == 2]
    chosen = {id(weight) for weight in matrices}
    rest = [weight for weight in weights if id(weight) not in chosen]
    settings = {"betas": (0.9, 0.95), "weight_decay": 0.0, "fused": True}
    found = []
    if rest:
        found.append(torch.optim.AdamW(rest, lr=rate, **settings))
    if matrices and muon:
        found.append(Muon(matrices, lr=0.02 if matrix_rate is None else matrix_rate))
    elif matrices:
        lr = 0.016 if matrix_rate is None else matrix_rate
        found.append(torch.optim.AdamW(matrices, lr=lr, **settings))
    return found


def set_rates(opts, step, num_steps):
    """Learning rates for step 1 ... num_steps, a trapezoid: up, level, and down to zero.

    Up in 20 steps (or a fifth of a short run), down in the last 60 % of the run. The peak rate is
    what a group had at the first call; it is kept in the group as "full".
    """
    require_whole("set_rates", "num_steps", num_steps, least=1)
    require_whole("set_rates", "step", step, least=1, most=num_steps)
    up = step / min(20, 0.2 * num_steps)
    down = (num_steps + 1 - step) / (0.6 * num_steps)
    for opt in opts:
        for group in opt.param_groups:
            group["lr"] = min(1.0, up, down) * group.setdefault("full", group["lr"])


def balance_loss(model):
    """The load-balance losses of the last forward pass, eq. (8), added over all mixtures.

    They are taken off the modules: a graph that stayed there could not be copied (`deepcopy`).
    """
    total = torch.zeros(())
    for part in model.modules():
        if isinstance(part, Experts) and part.balance is not None:
            total = total + part.balance
            part.balance = None
    return total


def train_step(model, opts, batch, device, balance=0.01):
    """One step of all optimisers on tokens (N, T + 1); returns the next-token loss."""
    with autocast(device):
        loss = next_token_loss(model, batch)
    total = loss + balance * balance_loss(model)
    for opt in opts:
        opt.zero_grad()
    total.backward()
    for opt in opts:
        opt.step()
    return loss.detach()


def train_for(model, opts, tokens, num_steps, batch_size, seed, balance=0.01):
    """num_steps of `train_step` on random windows of tokens (T,); the seed sets the windows."""
    random = torch.Generator().manual_seed(seed)
    inside = torch.arange(model.context + 1)
    for step in range(1, num_steps + 1):
        starts = torch.randint(len(tokens) - model.context, (batch_size,), generator=random)
        set_rates(opts, step, num_steps)
        train_step(model, opts, tokens[starts[:, None] + inside], tokens.device, balance)
    return model.eval()


VARIANTS = {  # name -> what differs from the baseline
    "the baseline": {},
    "LayerNorm for RMSNorm": {"norm": "layer"},
    "learned positions for rotary": {"rotary": False},
    "no QK-norm": {"qk_norm": False},
    "QK-norm with a learnt scale": {"qk_scale": True},
    "GELU for squared ReLU": {"mlp": "GELU"},
    "SwiGLU for squared ReLU": {"mlp": "SwiGLU"},
    "2 heads of keys for 4": {"kv_heads": 2},
    "4 experts for one MLP": {"mlp": "experts"},
    "AdamW for Muon": {"muon": False},
    "with two previous tokens": {"extra": PreviousTokens},
    "with n-gram tables": {"extra": NgramTables},
}


def make_variant(name, vocab, seed, matrix_rate=None, context=128, width=128, num_blocks=4):
    """(model, optimisers) of a variant; the same seed gives equal first weights where they can be.

    matrix_rate: of the optimiser of the matrices; None: its default.
    """
    require_one_of("make_variant", "name", name, VARIANTS)
    settings = dict(VARIANTS[name])
    muon = settings.pop("muon", True)
    extra = settings.pop("extra", None)
    torch.manual_seed(seed)
    model = ModernGPT(vocab, context, width, 4, num_blocks, **settings)
    if extra is not None:
        model.extra = extra(vocab, width)
        for table in model.extra.modules():
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=0.3)         # quieter than the token's own
    return model, make_optimizers(model, muon, matrix_rate)


LLAMA_PARTS = {
    "input_layernorm": "norm1.weight",
    "self_attn.q_proj": "attention.q.weight",
    "self_attn.k_proj": "attention.k.weight",
    "self_attn.v_proj": "attention.v.weight",
    "self_attn.o_proj": "attention.out.weight",
    "self_attn.q_norm": "attention.scale",
    "self_attn.k_norm": "attention.key_scale",
    "post_attention_layernorm": "norm2.weight",
    "mlp.gate_proj": "mlp.gate.weight",
    "mlp.up_proj": "mlp.up.weight",
    "mlp.down_proj": "mlp.down.weight",
}
LLAMA_OUTSIDE = {
    "model.embed_tokens.weight": "token.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "head.weight",
}


def rename_llama(name):
    """Our name of one of Llama's or Qwen3's weights. Raises ValueError for one that we have not."""
    if name in LLAMA_OUTSIDE:
        return LLAMA_OUTSIDE[name]
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if found is None or found[2] not in LLAMA_PARTS:
        raise ValueError(f"rename_llama: ModernGPT has no place for the weights {name!r}")
    return f"blocks.{found[1]}.{LLAMA_PARTS[found[2]]}"
