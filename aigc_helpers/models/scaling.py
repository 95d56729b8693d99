"""Generated from notebooks/07_scaling.ipynb: edit it there, then run `python -m tools export`."""


import time
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from aigc_helpers.models.gpt import GPT, next_token_loss


def seeded(seed=0):
    """A private random generator, so that a cell gives the same numbers however often it is run."""
    return torch.Generator().manual_seed(seed)


def make_gpt(seed=0):
    """03's GPT for 65 characters, with the same first weights whenever the seed is the same."""
    with torch.random.fork_rng(devices=[]):                    # other random numbers stay
        torch.manual_seed(seed)
        return GPT(65, context=128, width=128, num_heads=4, num_blocks=4)


def gradient_of(model):
    """The gradient of all weights, one after the other (P,)."""
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def relative_error(got, want):
    """The largest difference of two tensors, in units of the largest number of the second."""
    return ((got - want).abs().max() / want.abs().max()).item()


def accumulate(loss_of, model, batch, num_parts):
    """Adds the gradient of loss_of(model, batch), a mean over its rows, in parts: eq. (2)."""
    for part in batch.tensor_split(num_parts):
        loss = loss_of(model, part) * len(part) / len(batch)
        loss.backward()


def checkpointed_loss(model, tokens):
    """next_token_loss of a GPT that keeps the entrance of each block, and computes it again."""
    h = model.embed(tokens[:, :-1])
    for block in model.blocks:
        h = checkpoint(block, h, use_reentrant=False)
    logits = model.read_out(h)
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def bf16_loss(model, tokens, loss_of=next_token_loss):
    """A loss computed in bfloat16 where PyTorch deems that safe."""
    with torch.autocast(tokens.device.type, dtype=torch.bfloat16):
        return loss_of(model, tokens)


def broadcast(ranks, source=0):
    """Everybody gets what one rank holds."""
    return [ranks[source].clone() for _ in ranks]


def all_reduce(ranks):
    """Everybody gets the sum."""
    total = torch.stack(ranks).sum(dim=0)
    return [total.clone() for _ in ranks]


def reduce_scatter(ranks):
    """The sum is cut into pieces, and rank r gets piece r."""
    total = torch.stack(ranks).sum(dim=0)
    return [piece.clone() for piece in total.tensor_split(len(ranks))]


def all_gather(pieces):
    """Everybody gets the pieces of all, one behind the other."""
    whole = torch.cat(pieces)
    return [whole.clone() for _ in pieces]


def ring_schedule(num_ranks):
    """For each step, who sends which piece to whom: lists of (sender, receiver, piece)."""
    schedule = []
    for step in range(2 * (num_ranks - 1)):
        messages = []
        for rank in range(num_ranks):
            following = (rank + 1) % num_ranks
            messages.append((rank, following, (rank - step) % num_ranks))
        schedule.append(messages)
    return schedule


def ring_all_reduce(ranks):
    """The sum on every rank, by way of the ring, and how many bytes each rank has sent: (N,)."""
    num_ranks = len(ranks)
    pieces = [[piece.clone() for piece in tensor.tensor_split(num_ranks)] for tensor in ranks]
    sent = torch.zeros(num_ranks, dtype=torch.long)
    for step, messages in enumerate(ring_schedule(num_ranks)):
        moving = [pieces[sender][piece].clone() for sender, _, piece in messages]
        for (sender, receiver, piece), message in zip(messages, moving):
            sent[sender] += message.numel() * message.element_size()
            if step < num_ranks - 1:
                pieces[receiver][piece] += message             # reduce-scatter
            else:
                pieces[receiver][piece] = message              # all-gather
    return [torch.cat(parts) for parts in pieces], sent


H100_FLOPS = 989e12                                            # bfloat16, dense: the data sheet


def ring_seconds(num_ranks, num_bytes, bandwidth, latency=0.0):
    """Eq. (7): a ring all-reduce of num_bytes, at `bandwidth` bytes a second."""
    messages = 2 * (num_ranks - 1)
    return messages * (latency + num_bytes / num_ranks / bandwidth)


def step_times(
    batch, num_ranks, sample, fixed, num_bytes, bandwidth, latency=0.0, slowest=1.0, overlap=0.0
):
    """Eq. (8): seconds of a step, of its parts, and how much of the network's is hidden: a dict.

    sample: c; fixed: t_0; slowest: s; overlap: 1 if it may send while it computes backward, else 0.
    """
    compute = slowest * (fixed + sample * batch / num_ranks)
    network = ring_seconds(num_ranks, num_bytes, bandwidth, latency)
    hidden = min(network, overlap * 2 / 3 * compute)
    step = compute + network - hidden
    return {"compute": compute, "network": network, "hidden": hidden, "step": step}


def time_steps(batches, num_repeats):
    """On a rank: seconds of a step of DDP for each batch, and of an all-reduce of its gradient.

    Each is the least of num_repeats. The ranks share the batch. The GPT is a small one, so that a
    step is over before another program of this machine gets its turn.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(65, context=64, width=64, num_heads=4, num_blocks=2)
    parallel = DistributedDataParallel(model)
    opt = torch.optim.AdamW(parallel.parameters())
    taken = {name: [] for name in (*batches, "all-reduce")}
    for _ in range(num_repeats):
        for batch in batches:
            windows = torch.randint(65, (batch // dist.get_world_size(), 65))
            dist.barrier()                                     # all begin together
            start = time.perf_counter()
            opt.zero_grad()
            next_token_loss(parallel, windows).backward()      # DDP's all-reduce is in here
            opt.step()
            taken[batch].append(time.perf_counter() - start)
        numbers = gradient_of(parallel)
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(numbers)
        taken["all-reduce"].append(time.perf_counter() - start)
    return {name: min(seconds) for name, seconds in taken.items()}


class ScalingLaw(NamedTuple):
    """The constants of eq. (9)."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float


HOFFMANN = ScalingLaw(1.6934, 406.4, 410.7, 0.3392, 0.2849)    # as in the source of the 2022 paper
BESIROGLU = ScalingLaw(1.8172, 482.01, 2085.43, 0.3478, 0.3658)    # fitted again in 2024


def predicted_loss(law, P, M):
    """Eq. (9): nats a token, for P parameters trained on M tokens."""
    return law.E + law.A / P**law.alpha + law.B / M**law.beta


def compute_optimal(law, C):
    """Eq. (10): the (P, M) of least predicted loss among those with 6 P M = C."""
    share = law.beta / (law.alpha + law.beta)
    scale = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))
    P = scale * (C / 6) ** share
    return P, C / (6 * P)


H100_WATTS = 700


def gpu_hours(C, utilisation, flops=H100_FLOPS):
    """Eq. (11): hours of one GPU for C operations, at this share of its peak."""
    return C / (utilisation * flops) / 3600
