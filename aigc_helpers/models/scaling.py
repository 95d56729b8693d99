"""Generated from notebooks/07_scaling.ipynb: edit it there, then run `python -m tools export`."""


import contextlib
import copy
import os
import shutil
import time
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DistributedSampler

from aigc_helpers.arguments import require_one_of, require_whole
from aigc_helpers.data import to_signed
from aigc_helpers.models.diffusion import RECTIFIED_FLOW, UNet, denoising_loss, drop_labels
from aigc_helpers.models.diffusion import learning_rate
from aigc_helpers.models.gpt import GPT, MLP, next_token_loss
from aigc_helpers.models.gpt_beyond import ModernGPT, make_optimizers, set_rates
from aigc_helpers.training import autocast


def seeded(seed=0):
    """A private random generator, so that a cell gives the same numbers however often it is run."""
    return torch.Generator().manual_seed(seed)


def make_gpt(seed=0):
    """03's GPT for 65 characters, with the same first weights whenever the seed is the same."""
    with torch.random.fork_rng(devices=[]):                    # other random numbers stay
        torch.manual_seed(seed)
        return GPT(65, context=128, width=128, num_heads=4, num_blocks=4)


def flat_gradient(model):
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


def rank_and_size():
    """This process's rank and the number of ranks: 0 and 1 where there is no process group."""
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def greet(number):
    """Each rank has its own variables; a collective makes one number of them."""
    rank, world_size = rank_and_size()
    own = torch.tensor(number * (rank + 1))
    total = own.clone()
    dist.all_reduce(total)                                     # in place, on every rank
    print(f"I am rank {rank} of {world_size}; I had {own.item():g}")
    return total.item()


def share_of_items(num_items, epoch, drop_last=False):
    """What this rank reads in an epoch, by PyTorch's sampler."""
    sampler = DistributedSampler(range(num_items), seed=0, drop_last=drop_last)
    sampler.set_epoch(epoch)                                   # without it every epoch is the same
    return list(sampler)


def my_rows(batch):
    """Eq. (4) for a batch (B, ...): this rank's rows. Raises ValueError for unequal shares."""
    rank, world_size = rank_and_size()
    if len(batch) % world_size:
        raise ValueError(f"my_rows: {len(batch)} rows are not {world_size} equal shares")
    return batch[rank::world_size]


def make_tiny_gpt(seed=0):
    """03's GPT with 28,032 parameters; the same seed gives every rank the same weights."""
    torch.manual_seed(seed)
    return GPT(vocab=64, context=16, width=32, num_heads=4, num_blocks=2)


def gradient_of(model, batch):
    """The gradient of the mean loss of a batch (B, T + 1), as one long vector."""
    next_token_loss(model, batch).backward()
    return flat_gradient(model)


def gradient_by_hand(batch):
    """(this rank's own gradient, the mean of all ranks'): eq. (5) with one all-reduce."""
    own = gradient_of(make_tiny_gpt(), my_rows(batch))
    mean = own.clone()
    dist.all_reduce(mean)
    mean /= dist.get_world_size()
    return own, mean


def gradient_by_ddp(batch):
    """The same by DDP: what each rank finds in `grad` after `backward`."""
    model = DistributedDataParallel(make_tiny_gpt())
    return gradient_of(model, my_rows(batch))


def train_with_adamw(model, batches, eps=1e-5):
    """One step of AdamW on each of batches (steps, B, T + 1); returns the optimiser."""
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=eps)
    for batch in batches:
        opt.zero_grad()
        loss = next_token_loss(model, batch)
        loss.backward()
        opt.step()
    return opt


def flat_weights(model):
    """All weights as one vector; sharded ones are put together first, by an all-gather."""
    weights = [weight.detach() for weight in model.parameters()]
    whole = [w.full_tensor() if hasattr(w, "full_tensor") else w for w in weights]
    return torch.cat([weight.flatten() for weight in whole])


def train_with_fsdp(batches, eps=1e-5):
    """(all weights after training, how many numbers of the optimizer state this rank has kept)."""
    model = make_tiny_gpt()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in [*model.blocks, model]:
        fully_shard(part, mesh=mesh)
    opt = train_with_adamw(model, [my_rows(batch) for batch in batches], eps)
    averages = [state["exp_avg"].to_local() for state in opt.state.values()]
    return flat_weights(model), 2 * sum(average.numel() for average in averages)


def make_mlp(seed=0):
    """03's MLP of width 32."""
    torch.manual_seed(seed)
    return MLP(32)


def split_mlp(x):
    """Outputs, gradient of x, gradient of `up`, its shape here: 03's MLP, split over the ranks."""
    mlp = make_mlp()
    x = x.clone().requires_grad_()                             # as if layers came before
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    parallelize_module(mlp, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    out = mlp(x)
    out.square().sum().backward()
    up = mlp.up.weight
    return out.detach(), x.grad, up.grad.full_tensor(), up.to_local().shape


def mix(*numbers):
    """One seed from several whole numbers; the second says what for, so that no two share one."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


ORDERS = {}                                                    # that of the present epoch


def epoch_order(num_items, epoch, seed):
    """All of num_items, shuffled: the order of one epoch, the same on every rank."""
    if (num_items, epoch, seed) not in ORDERS:
        ORDERS.clear()                                         # made once an epoch, not each step
        order = torch.randperm(num_items, generator=seeded(mix(seed, 0, epoch)))
        ORDERS[num_items, epoch, seed] = order
    return ORDERS[num_items, epoch, seed]


def batch_of_step(step, num_items, batch_size, seed=0):
    """Which items all ranks together read in step 1, 2, ...: (batch_size,) numbers."""
    require_whole("batch_of_step", "step", step, least=1)
    require_whole("batch_of_step", "batch_size", batch_size, least=1, most=num_items)
    epoch, position = divmod(step - 1, num_items // batch_size)
    start = position * batch_size
    return epoch_order(num_items, epoch, seed)[start : start + batch_size]


def random_of_step(step, seed=0):
    """What this rank's loss draws from in step 1, 2, ...: noise, say, that no other rank has."""
    rank, _ = rank_and_size()
    return seeded(mix(seed, 1, step, rank))


def seed_step(step, seed=0):
    """The same for PyTorch's global generator, from which a model's dropout draws."""
    rank, _ = rank_and_size()
    torch.manual_seed(mix(seed, 2, step, rank))


class DigitTask:
    """04's U-Net on images (n, 1, 28, 28) uint8 and labels (n,); an item is an image."""

    averaged = True

    def __init__(self, images, labels, c=24, lr=3e-3, float32=False):
        self.images = images
        self.labels = labels
        self.c = c
        self.lr = lr
        self.float32 = float32
        self.num_items = len(images)

    def make_model(self):
        return UNet(self.c)

    def make_optimizers(self, model):
        return [torch.optim.Adam(model.parameters(), lr=self.lr, betas=(0.9, 0.99))]

    def set_rates(self, opts, step, num_steps):
        for group in opts[0].param_groups:
            group["lr"] = learning_rate(step, num_steps, self.lr)

    def loss(self, model, items, random, device):
        """Eq. (13) of chapter 04 for some items; times and noise come from `random`."""
        x0 = to_signed(self.images[items]).to(device)
        label = drop_labels(self.labels[items], generator=random).to(device)
        with contextlib.nullcontext() if self.float32 else autocast(device):
            return denoising_loss(model, x0, RECTIFIED_FLOW, "velocity", random, label)


STRATEGIES = ("ddp", "fsdp")


def spread(model, strategy, device):
    """The model to call in training, for this rank.

    "ddp": a whole copy on each rank. "fsdp": the weights are cut up between the ranks, in place.
    """
    require_one_of("spread", "strategy", strategy, STRATEGIES)
    if strategy == "ddp":
        gpu = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=gpu)
    for weight in model.parameters():
        weight.data = weight.data.contiguous()                 # FSDP cuts plain rows
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for part in [*getattr(model, "blocks", []), model]:
        fully_shard(part, mesh=mesh)
    return model


def training_step(model, opts, loss_of, *rows):
    """One step of all optimisers on this rank's rows of the batch; returns the mean loss of all."""
    for opt in opts:
        opt.zero_grad()                                        # before the forward pass: eq. (1)
    loss = loss_of(model, *rows)
    loss.backward()                                            # DDP and FSDP average in here
    for opt in opts:
        opt.step()
    mean = loss.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
    return mean.item()


def wait_for_all():
    """Go on when every rank has come this far."""
    if dist.is_initialized():
        dist.barrier()


def state_of(model, opts, average=None):
    """All that a run remembers, eq. (6), in parts that know which rows of which weight they are."""
    weights, optimiser = get_state_dict(model, opts)
    state = {"weights": weights, "optimiser": optimiser}
    if average is not None:
        state["average"] = get_model_state_dict(average)
    return state


def save_checkpoint(folder, model, opts, average=None):
    """Each rank writes what it holds; the folder gets its name when all of it is there.

    A folder of that name, of an earlier run, is replaced.
    """
    beside = f"{folder}.part"
    dcp.save(state_of(model, opts, average), checkpoint_id=beside)
    if rank_and_size()[0] == 0:
        aside = f"{folder}.old"
        shutil.rmtree(aside, ignore_errors=True)
        if os.path.exists(folder):
            os.replace(folder, aside)
        os.replace(beside, folder)
        shutil.rmtree(aside, ignore_errors=True)
    wait_for_all()


def load_checkpoint(folder, model, opts, average=None):
    """Each rank reads what it is to hold, however many ranks have written."""
    state = state_of(model, opts, average)                     # what to read, and into which memory
    dcp.load(state, checkpoint_id=str(folder))
    weights = state["weights"]
    set_state_dict(
        model, opts, model_state_dict=weights, optim_state_dict=state["optimiser"]
    )
    if average is not None:
        average.load_state_dict(state["average"])


def copy_of(model):
    """A second model with the same weights, which nothing trains: a moving average begins here."""
    return copy.deepcopy(model).requires_grad_(False)


def whole_weights(model):
    """The state dict of a model in one piece, on rank 0; on the others nothing."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(model, options=options)


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
    gradient = slowest * sample * batch / num_ranks            # forward and backward
    update = slowest * fixed                                   # it waits for the averaged gradient
    network = ring_seconds(num_ranks, num_bytes, bandwidth, latency)
    hidden = min(network, overlap * 2 / 3 * gradient)
    step = gradient + update + network - hidden
    parts = {"gradient": gradient, "update": update, "network": network}
    return parts | {"hidden": hidden, "step": step}


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


def step_with_log(cure=False):
    """Average a gradient, then the loss for the log; the cure: every rank takes part in both."""
    gradient = torch.ones(3)
    loss = torch.ones(1)
    dist.all_reduce(gradient)
    if cure or dist.get_rank() == 0:
        dist.all_reduce(loss)
    return loss.item() / dist.get_world_size()


def average_gradients(model):
    """Eq. (5) by hand, in place."""
    for weight in model.parameters():
        dist.all_reduce(weight.grad)
        weight.grad /= dist.get_world_size()


def train_from_seeds(batches, cure=False):
    """(loss before, loss after, how far this rank's weights are from rank 0's, relatively)."""
    model = make_tiny_gpt(seed=dist.get_rank())                # the mistake
    if cure:
        for weight in model.parameters():
            dist.broadcast(weight.data, src=0)                 # what DDP does when it is made
    opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for batch in batches:
        opt.zero_grad()
        loss = next_token_loss(model, my_rows(batch))
        loss.backward()
        average_gradients(model)
        opt.step()
        losses.append(loss.item())
    own = flat_weights(model)
    first = own.clone()
    dist.broadcast(first, src=0)
    return losses[0], losses[-1], ((own - first).norm() / first.norm()).item()


def items_of_step(num_items, batch_size, forgot=False):
    """The items that this rank reads in one step; forgot: without eq. (4)."""
    order = torch.randperm(num_items, generator=seeded(0))[:batch_size]
    return order[: batch_size // 2] if forgot else my_rows(order)


def count_items(*args, **kwargs):
    """How many different items all ranks have read in a step, by an all-gather of their numbers."""
    own = items_of_step(*args, **kwargs)
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    return len(torch.cat(found).unique())


def score(num_items, drop_last):
    """(mean of the ranks' means, sums over counts of all ranks) of losses 0, 1, ..."""
    share = torch.tensor(share_of_items(num_items, epoch=0, drop_last=drop_last)).double()
    naive = share.mean()
    dist.all_reduce(naive)
    rank, world_size = rank_and_size()
    rest = torch.arange(num_items).double()[rank::world_size]  # all there is: 6 and 5 items
    sums = torch.stack([rest.sum(), torch.ones_like(rest).sum()])
    dist.all_reduce(sums)
    return (naive / world_size).item(), (sums[0] / sums[1]).item()


def regress(images, labels, batch_size, lr, seed, epochs=3):
    """The mean loss on all images after `epochs` of plain SGD on a softmax regression."""
    torch.manual_seed(seed)
    model = nn.Linear(784, 10)
    opt = torch.optim.SGD(model.parameters(), lr=lr)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=seeded(10 * seed + epoch))
        for rows in order.split(batch_size):
            opt.zero_grad()
            loss = F.cross_entropy(model(images[rows]), labels[rows])
            loss.backward()
            opt.step()
    with torch.no_grad():
        return F.cross_entropy(model(images), labels).item()


def clip_by_fsdp(batch):
    """(the norm by which all ranks clip, the norm of this rank's own part of the gradient)."""
    model = spread(make_tiny_gpt(), "fsdp", torch.device("cpu"))
    next_token_loss(model, my_rows(batch)).backward()
    own = torch.cat([weight.grad.to_local().flatten() for weight in model.parameters()]).norm()
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
    return norm.full_tensor().item(), own.item()


def accumulate_by_ddp(batch, keep_home):
    """The gradient of this rank's rows in two parts; keep_home: sent only after the second."""
    model = DistributedDataParallel(make_tiny_gpt())
    first, second = my_rows(batch).chunk(2)
    with model.no_sync() if keep_home else contextlib.nullcontext():
        (next_token_loss(model, first) / 2).backward()
    (next_token_loss(model, second) / 2).backward()
    return flat_gradient(model)


def write_tokens(path, tokens, vocab):
    """Token numbers (M,) as a .npy file of two or four bytes a token, to be mapped."""
    small = np.uint16 if vocab <= 2**16 else np.uint32
    np.save(path, np.asarray(tokens).astype(small))


class TextTask:
    """03b's GPT on tokens (M,), perhaps mapped; an item is a window and the token after it."""

    averaged = False

    def __init__(self, tokens, vocab, context=128, width=128, num_blocks=4, float32=False):
        self.tokens = tokens
        self.vocab = vocab
        self.context = context
        self.width = width
        self.num_blocks = num_blocks
        self.float32 = float32
        self.num_items = (len(tokens) - 1) // context
        require_whole("TextTask", "the number of windows", self.num_items, least=1)

    def make_model(self):
        num_heads = max(4, self.width // 64)
        return ModernGPT(self.vocab, self.context, self.width, num_heads, self.num_blocks)

    def make_optimizers(self, model):
        return make_optimizers(model, muon=False)              # AdamW for all: FSDP has only rows

    def set_rates(self, opts, step, num_steps):
        set_rates(opts, step, num_steps)

    def windows(self, items):
        """Tokens (B, context + 1) of some items, read from the file."""
        starts = [item * self.context for item in items.tolist()]
        found = [self.tokens[start : start + self.context + 1] for start in starts]
        return torch.from_numpy(np.stack(found).astype(np.int64))

    def loss(self, model, items, random, device):
        """The next-token loss of some items; `random` is not needed."""
        batch = self.windows(items).to(device)
        with contextlib.nullcontext() if self.float32 else autocast(device):
            return next_token_loss(model, batch)


def time_all_reduce(sizes, num_repeats):
    """On a rank: wall-clock seconds of an all-reduce of so many bytes, least of num_repeats."""
    found = {}
    for size in sizes:
        numbers = torch.zeros(size // 4)
        seconds = []
        for _ in range(num_repeats):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(numbers)
            seconds.append(time.perf_counter() - start)
        found[size] = min(seconds)
    return found


def make_small_gpt():
    """03's GPT, so small that a step is over before another program gets its turn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT(65, context=64, width=64, num_heads=4, num_blocks=2)


def time_steps(batches, num_repeats, send=True):
    """On a rank: {batch: [wall-clock seconds, seconds of CPU time]} of a step of DDP.

    Each is the least of num_repeats. The ranks share the batch. send=False: no gradient is sent.
    """
    model = make_small_gpt()
    parallel = DistributedDataParallel(model) if send else model
    opt = torch.optim.AdamW(parallel.parameters())
    found = {batch: [] for batch in batches}
    for _ in range(num_repeats):
        for batch in batches:
            windows = torch.randint(65, (batch // dist.get_world_size(), 65))
            dist.barrier()                                     # all begin together
            clock = time.perf_counter()
            processor = time.process_time()
            opt.zero_grad()
            next_token_loss(parallel, windows).backward()      # DDP's all-reduce is in here
            opt.step()
            found[batch].append((time.perf_counter() - clock, time.process_time() - processor))
    return {batch: [min(times) for times in zip(*pairs)] for batch, pairs in found.items()}
