"""07_scaling: its exported functions beyond the page's own checks, its panels, its exercises, its seeded faults."""

import math
from functools import partial

import numpy as np
import pytest
import torch

import tools
from aigc_helpers import panels
from aigc_helpers.models import scaling
from aigc_helpers.models.gpt import next_token_loss
from aigc_helpers.ranks import Ranks
from aigc_helpers.weights import read_experiment
from tests.marking import assert_marked, run_exercises
from tests.panel_checks import (
    answers_within,
    assert_readable,
    check_drawing,
    moved_together,
    picture,
    use_every_control,
)
from tests.seeded_faults import in_notebook, in_panels

NAME = "07_scaling.ipynb"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- one device


def small_model():
    torch.manual_seed(0)
    return scaling.GPT(65, context=16, width=16, num_heads=2, num_blocks=2)


def gradient(model, loss_of, batch, num_parts=1):
    model.zero_grad()
    scaling.accumulate(loss_of, model, batch, num_parts)
    return scaling.flat_gradient(model)


@pytest.mark.parametrize("num_parts", [2, 3, 5, 7])
def test_a_gradient_in_parts_is_that_of_the_batch(num_parts):
    model = small_model()
    batch = torch.randint(65, (7, 17), generator=seeded())
    whole = gradient(model, next_token_loss, batch)
    parts = gradient(model, next_token_loss, batch, num_parts)
    assert scaling.relative_error(parts, whole) < 1e-5


def test_checkpointing_and_bf16_are_the_same_loss():
    model = small_model()
    batch = torch.randint(65, (4, 17), generator=seeded())
    want = next_token_loss(model, batch).item()
    assert scaling.checkpointed_loss(model, batch).item() == pytest.approx(want, rel=1e-6)
    for loss_of in (next_token_loss, scaling.checkpointed_loss):
        assert scaling.bf16_loss(model, batch, loss_of).item() == pytest.approx(want, rel=0.01)


def test_the_gpt_has_the_same_first_weights_and_leaves_other_random_numbers_alone():
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    first = scaling.make_gpt()
    assert torch.equal(torch.rand(3), want)
    for a, b in zip(first.parameters(), scaling.make_gpt().parameters(), strict=True):
        assert torch.equal(a, b)


# ---------------------------------------------------------------- collectives


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("size", [3, 8, 17])
def test_the_ring_adds_up_whatever_the_sizes(num_ranks, size):
    ranks = list(torch.randint(100, (num_ranks, size), generator=seeded(size)))
    before = torch.stack(ranks)
    summed, sent = scaling.ring_all_reduce(ranks)
    assert torch.equal(torch.stack(summed), torch.stack(scaling.all_reduce(ranks)))
    assert torch.equal(torch.stack(ranks), before)
    assert sent.sum() == 2 * (num_ranks - 1) * 8 * size  # each piece is passed on so many times


def test_in_each_step_every_rank_sends_one_piece_and_gets_one():
    for num_ranks in (2, 3, 8):
        schedule = scaling.ring_schedule(num_ranks)
        assert len(schedule) == 2 * (num_ranks - 1)
        for messages in schedule:
            assert sorted(sender for sender, _, _ in messages) == list(range(num_ranks))
            assert all(receiver == (sender + 1) % num_ranks for sender, receiver, _ in messages)
            assert sorted(piece for _, _, piece in messages) == list(range(num_ranks))


def test_collectives_hand_out_copies():
    ranks = [torch.ones(4), torch.zeros(4)]
    for collective in (scaling.broadcast, scaling.all_reduce, scaling.reduce_scatter, scaling.all_gather):
        found = collective(ranks)
        found[0].add_(7)
        assert ranks[0].sum() == 4 and ranks[1].sum() == 0 and found[1].max() <= 1


# ---------------------------------------------------------------- seconds


def test_one_rank_sends_nothing_and_waits_for_nobody():
    parts = scaling.step_times(16, 1, 0.02, 0.01, 1e6, 1e8, latency=1e-3)
    assert parts["network"] == 0 and parts["step"] == pytest.approx(0.33)


def test_what_is_hidden_is_neither_more_than_the_network_nor_than_the_backward_pass():
    for bandwidth in (1e5, 1e7, 1e9):
        parts = scaling.step_times(16, 4, 0.02, 0.01, 1e6, bandwidth, overlap=1.0)
        assert parts["hidden"] <= parts["network"]
        assert parts["hidden"] <= 2 / 3 * 0.02 * 16 / 4 + 1e-12
        computing = parts["gradient"] + parts["update"]
        assert parts["step"] == pytest.approx(computing + parts["network"] - parts["hidden"])


def test_more_ranks_send_less_than_twice_the_bytes_and_more_latencies():
    seconds = [scaling.ring_seconds(n, 1e9, 1e9) for n in (2, 4, 1024)]
    assert seconds == pytest.approx([1.0, 1.5, 2 * 1023 / 1024])
    assert scaling.ring_seconds(1024, 0, 1e9, latency=1e-3) == pytest.approx(2.046)


def test_the_stored_times_grow_with_the_batch():
    rows = read_experiment("scaling_speed").rows
    assert list(rows)[:3] == ["1 process, 1 thread", "1 process, 2 threads", "2 processes, 1 thread each"]
    for row in rows.values():
        for clock in ("clock", "processor"):
            times = [row[f"{batch} windows, {clock}"] for batch in (4, 8, 16)]
            assert 0 < times[0] < times[1] < times[2]
    sizes = read_experiment("scaling_network").rows
    assert [row["bytes"] for row in sizes.values()] == sorted(row["bytes"] for row in sizes.values())


def test_steps_and_messages_are_timed_in_one_process_too():
    with Ranks(1) as alone:
        (steps,) = alone.run(scaling.time_steps, [2], 2)
        (unsent,) = alone.run(scaling.time_steps, [2], 2, send=False)
        (messages,) = alone.run(scaling.time_all_reduce, [40, 400], 2)
    assert set(unsent) == {2}
    assert set(steps) == {2} and set(messages) == {40, 400}
    assert all(0 < seconds < 60 for seconds in [*steps[2], *messages.values()])


# ---------------------------------------------------------------- how big


@pytest.mark.parametrize("law", [scaling.HOFFMANN, scaling.BESIROGLU])
def test_no_other_size_has_a_lower_predicted_loss(law):
    for C in (1e19, 1e24):
        P, M = scaling.compute_optimal(law, C)
        assert 6 * P * M == pytest.approx(C)
        least = scaling.predicted_loss(law, P, M)
        for factor in (0.5, 0.99, 1.01, 2.0):
            assert scaling.predicted_loss(law, factor * P, M / factor) > least


def test_gpu_hours():
    assert scaling.gpu_hours(3600 * 989e12, 1.0) == pytest.approx(1.0)
    assert scaling.gpu_hours(3600 * 989e12, 0.25) == pytest.approx(4.0)


# ---------------------------------------------------------------- panels and pictures

MAKERS = {
    "who_waits": panels.scaling.who_waits,
    "ring": panels.scaling.ring,
    "how_big": panels.scaling.how_big,
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_control_of_a_panel_is_seen_and_every_word_is_readable(name):
    panel = MAKERS[name]()
    use_every_control(panel)
    assert_readable(panel)


@pytest.mark.parametrize("name", MAKERS)
def test_extreme_values_are_drawn_and_readable(name):
    panel = MAKERS[name]()
    for at in ("min", "max"):
        values = {}
        for key, control in panel.controls.items():
            if hasattr(control, "options"):
                options = [option[1] for option in control.options]
                values[key] = options[0] if at == "min" else options[-1]
            elif not isinstance(control.value, bool):
                base = getattr(control, "base", None)
                value = getattr(control, at)
                values[key] = base**value if base else value
        panel.set(**values)
        assert panel.error is None
        assert_readable(panel)


@pytest.mark.parametrize("name", MAKERS)
def test_two_panels_do_not_disturb_each_other(name):
    assert moved_together(MAKERS[name]) == 0


def test_a_move_is_answered_at_once():
    assert answers_within(panels.scaling.who_waits(), 150, ranks=8)
    assert answers_within(panels.scaling.ring(), 150, step=3)
    assert answers_within(panels.scaling.how_big(), 150, ratio=100)


def test_pictures_are_readable():
    check_drawing(panels.scaling.three_splits)
    check_drawing(partial(panels.scaling.loss_curves, 5.76e23))
    points = {"1 process": ([4, 8], [1, 2], [1, 2]), "2 processes, DDP": ([4, 8], [0.6, 1.2], [0.5, 1])}
    control = {"2 processes, nothing sent": ([4, 8], [0.5, 1], None)}
    check_drawing(partial(panels.scaling.speed_curves, points | control, points))
    calm = {step: 1 + 1 / step for step in range(1, 241)}
    killed = {step: calm[step] for step in range(1, 151)}
    resumed = {step: calm[step] for step in range(121, 241)}
    check_drawing(partial(panels.scaling.resumed_losses, calm, killed, resumed))


def test_the_first_panel_shows_what_its_prompt_asks():
    panel = panels.scaling.who_waits()
    assert "340 ms" in panel.status.value and "0 % of their time" in panel.status.value
    panel.set(slowest=1.5)
    assert "510 ms" in panel.status.value and "25 % of their time" in panel.status.value
    panel.set(slowest=1.0, overlap=False)
    assert "of waiting for the network" in panel.status.value and "390 ms" in panel.status.value
    gains = []
    for ranks in (8, 64):
        panel.set(overlap=True, ranks=ranks)
        gains.append(float(panel.status.value.partition(" times the work")[0].split()[-1]))
    assert gains == [7.22, 12.5]  # the update hides nothing
    assert "upper bound" not in panel.status.value
    panel.set(ranks=1024)
    assert "a fraction of a window each: an upper bound" in panel.status.value


def test_the_ring_is_finished_after_twice_n_minus_one_steps():
    panel = panels.scaling.ring()
    for num_ranks in (2, 3, 4, 6, 8):
        panel.set(ranks=num_ranks, step=2 * (num_ranks - 1))
        assert f"{num_ranks**2} of {num_ranks**2} pieces are finished" in panel.status.value
        panel.set(step=num_ranks - 1)
        assert f"{num_ranks} of {num_ranks**2} pieces are finished" in panel.status.value
        panel.set(step=0)
        assert f"0 of {num_ranks**2} pieces are finished" in panel.status.value


def test_more_gpus_shorten_the_time_and_leave_the_price():
    panel = panels.scaling.how_big()
    panel.set(gpus=8)
    assert "10.5 h on 8 GPUs, $253" in panel.status.value
    panel.set(gpus=64)
    assert "79 min on 64 GPUs, $253" in panel.status.value.replace("79.0", "79")


def test_sizes_and_times_are_said_in_words():
    assert panels.scaling._big(1.4e12) == "1.4 trillion"
    assert panels.scaling._big(818_048) == "818 thousand"
    assert panels.scaling._time(0.021) == "21 ms"
    assert panels.scaling._time(40 * 86_400) == "40 days"


def test_a_slower_rank_is_drawn_on_one_row_only():
    panel = panels.scaling.who_waits()
    before = picture(panel)
    panel.set(slowest=2.0)
    assert not np.array_equal(before, picture(panel))


# ---------------------------------------------------------------- exercises


def test_the_exercises_can_be_solved():
    assert run_exercises(tools.ROOT / "notebooks" / NAME) == 5


ANSWERS = {
    1: ("gpus_needed = 19", "gpus_needed = 14", "gpus_needed = 18.7"),
    2: (
        "def accumulate_tokens(model, batch, counts, num_parts):\n"
        "    for rows in torch.arange(len(batch)).tensor_split(num_parts):\n"
        "        losses = token_losses(model, batch[rows])[counts[rows]]\n"
        "        (losses.sum() / counts.sum()).backward()\n",
        "def accumulate_tokens(model, batch, counts, num_parts):\n"
        "    for rows in torch.arange(len(batch)).tensor_split(num_parts):\n"
        "        losses = token_losses(model, batch[rows])[counts[rows]]\n"
        "        (losses.mean() / num_parts).backward()\n",
        "def accumulate_tokens(model, batch, counts, num_parts):\n"
        "    for rows in torch.arange(len(batch)).tensor_split(num_parts):\n"
        "        losses = token_losses(model, batch[rows])\n"
        "        (losses.mean() * len(rows) / len(batch)).backward()\n",
    ),
    3: (
        "def doubling_all_reduce(ranks):\n"
        "    steps = len(ranks).bit_length() - 1\n"
        "    for k in range(steps):\n"
        "        ranks = [ranks[r] + ranks[r ^ 2**k] for r in range(len(ranks))]\n"
        "    return ranks, steps * 4 * len(ranks[0])\n",
        "def doubling_all_reduce(ranks):\n    return ring_all_reduce(ranks)\n",
        "def doubling_all_reduce(ranks):\n    return ranks, 24\n",
    ),
    4: (
        "def tokens_to_reach(law, loss, P):\n"
        "    left = loss - predicted_loss(law, P, math.inf)\n"
        "    return (law.B / left) ** (1 / law.beta) if left > 0 else math.inf\n",
        "def tokens_to_reach(law, loss, P):\n    return 20 * P\n",
        "def tokens_to_reach(law, loss, P):\n"
        "    left = abs(loss - law.E - law.A / P**law.alpha)\n"
        "    return (law.B / left) ** (1 / law.beta)\n",
    ),
    5: (
        "def my_outer_step(before, ends, memory):\n"
        "    way = ends.mean(dim=0) - before\n"
        "    memory['v'] = 0.8 * memory.get('v', 0) + way\n"
        "    return before + way + 0.8 * memory['v']\n",
        "def my_outer_step(before, ends, memory):\n    return ends.mean(dim=0)\n",
        "def my_outer_step(before, ends, memory):\n    return before\n",
    ),
}


def test_marks_refuse_wrong_answers():
    assert_marked(NAME, ANSWERS)


def test_a_model_too_small_for_a_loss_would_need_endless_text():
    law = scaling.BESIROGLU
    assert scaling.predicted_loss(law, math.inf, math.inf) == law.E


# ---------------------------------------------------------------- seeded faults

page = partial(in_notebook, NAME)
TRAIN = "tests/test_train.py::"
FAULTS = [
    page(
        "eq. (2): parts weighted alike",
        "loss = loss_of(model, part) * len(part) / len(batch)",
        "loss = loss_of(model, part) / num_parts",
    ),
    page(
        "eq. (2): parts added, not averaged",
        "loss = loss_of(model, part) * len(part) / len(batch)",
        "loss = loss_of(model, part)",
    ),
    page(
        "checkpointing leaves a block out",
        "    for block in model.blocks:\n        h = checkpoint(block, h",
        "    for block in model.blocks[1:]:\n        h = checkpoint(block, h",
    ),
    page(
        "all-reduce takes the mean",
        "    total = torch.stack(ranks).sum(dim=0)\n    return [total.clone() for _ in ranks]",
        "    total = torch.stack(ranks).sum(dim=0) // 4\n    return [total.clone() for _ in ranks]",
    ),
    page(
        "reduce-scatter hands out everything",
        "return [piece.clone() for piece in total.tensor_split(len(ranks))]",
        "return [total.clone() for _ in ranks]",
    ),
    page(
        "broadcast from the wrong rank",
        "return [ranks[source].clone() for _ in ranks]",
        "return [ranks[0 * source].clone() for _ in ranks]",
    ),
    page(
        "ring: the wrong piece",
        "(rank - step) % num_ranks",
        "(rank + step) % num_ranks",
    ),
    page(
        "ring: adds to the end",
        "            if step < num_ranks - 1:",
        "            if step < num_ranks:",
    ),
    page(
        "eq. (3): one message is not counted",
        "sent[sender] += message.numel() * message.element_size()",
        "sent[sender] += (step > 0) * message.numel() * message.element_size()",
    ),
    page(
        "data parallel: the sum for the mean",
        "means = [total / 4 for total in summed]",
        "means = [total for total in summed]",
    ),
    page(
        "sharded: every rank updates the first piece",
        "for shard, piece in zip(shards, pieces)]",
        "for shard, piece in zip(shards, pieces[:1] * 4)]",
    ),
    page(
        "sharded: the sum for the mean, which AdamW hides",
        "pieces = [piece / 4 for piece in reduce_scatter(gradients)]",
        "pieces = [piece / 1 for piece in reduce_scatter(gradients)]",
    ),
    page(
        "eq. (7): the latency once",
        "return messages * (latency + num_bytes / num_ranks / bandwidth)",
        "return latency + messages * num_bytes / num_ranks / bandwidth",
        "test_more_ranks_send_less_than_twice_the_bytes_and_more_latencies",
    ),
    page(
        "eq. (8): the forward pass hides the network, too",
        "hidden = min(network, overlap * 2 / 3 * gradient)",
        "hidden = min(network, overlap * gradient)",
        "test_what_is_hidden_is_neither_more_than_the_network_nor_than_the_backward_pass",
    ),
    page(
        "eq. (8): the update hides the network, too",
        "hidden = min(network, overlap * 2 / 3 * gradient)",
        "hidden = min(network, overlap * 2 / 3 * (gradient + update))",
    ),
    page(
        "eq. (8): the slowest rank does not count",
        "gradient = slowest * sample * batch / num_ranks",
        "gradient = sample * batch / num_ranks",
    ),
    page(
        "every step draws the same dropout",
        "torch.manual_seed(mix(seed, 2, step, rank))",
        "torch.manual_seed(mix(seed, 2, 0 * step, rank))",
        TRAIN + "test_dropout_has_its_own_seed_on_each_rank_in_each_step",
    ),
    page(
        "every rank draws the same dropout",
        "torch.manual_seed(mix(seed, 2, step, rank))",
        "torch.manual_seed(mix(seed, 2, step, 0 * rank))",
        TRAIN + "test_dropout_has_its_own_seed_on_each_rank_in_each_step",
    ),
    page(
        "eq. (10): alpha for beta",
        "share = law.beta / (law.alpha + law.beta)",
        "share = law.alpha / (law.alpha + law.beta)",
    ),
    page(
        "eq. (10): A and B swapped",
        "scale = (law.alpha * law.A / (law.beta * law.B))",
        "scale = (law.beta * law.B / (law.alpha * law.A))",
    ),
    page(
        "eq. (11): minutes for hours",
        "return C / (utilisation * flops) / 3600",
        "return C / (utilisation * flops) / 60",
    ),
    page(
        "eq. (4): every rank reads rank 0's rows",
        "return batch[rank::world_size]",
        "return batch[0 * rank :: world_size]",
    ),
    page(
        "eq. (4): neighbours instead of every N-th",
        "return batch[rank::world_size]",
        "return batch.chunk(world_size)[rank]",
    ),
    page(
        "the sampler is not told the epoch",
        "sampler.set_epoch(epoch)  ",
        "sampler.set_epoch(0 * epoch)  ",
    ),
    page(
        "eq. (5): sum for mean",
        "    mean /= dist.get_world_size()\n    return own, mean",
        "    return own, mean",
    ),
    page(
        "eq. (5): DDP's gradient averaged twice",
        "    return gradient_of(model, my_rows(batch))",
        "    return gradient_of(model, my_rows(batch)) / dist.get_world_size()",
    ),
    page(
        "DDP left out: each rank keeps its own gradient",
        "model = DistributedDataParallel(make_tiny_gpt())\n    return gradient_of(",
        "model = make_tiny_gpt()\n    return gradient_of(",
    ),
    page(
        "the optimiser's state is not sharded",
        'state["exp_avg"].to_local()',
        'state["exp_avg"].full_tensor()',
    ),
    page(
        "FSDP: the same rows on every rank",
        "train_with_adamw(model, [my_rows(batch) for batch in batches], eps)",
        "train_with_adamw(model, [batch[:4] for batch in batches], eps)",
    ),
    page(
        "tensor parallel: rows for columns",
        '{"up": ColwiseParallel(), "down": RowwiseParallel()}',
        '{"up": RowwiseParallel(), "down": ColwiseParallel()}',
    ),
    page(
        "a step of the batch too far",
        "divmod(step - 1, num_items // batch_size)",
        "divmod(step, num_items // batch_size)",
        "tests/test_train.py::test_every_item_is_read_once_an_epoch_and_every_window_has_its_targets",
    ),
    page(
        "one order for all epochs",
        "np.random.SeedSequence(numbers)",
        "np.random.SeedSequence(numbers[:1])",
        "tests/test_train.py::test_every_item_is_read_once_an_epoch_and_every_window_has_its_targets",
    ),
    page(
        "a window without its last target",
        "self.tokens[start : start + self.context + 1]",
        "self.tokens[start : start + self.context]",
        "tests/test_train.py::test_every_item_is_read_once_an_epoch_and_every_window_has_its_targets",
    ),
    page(
        "every window begins a token late",
        "item * self.context for item",
        "item * self.context + 1 for item",
        "tests/test_train.py::test_every_item_is_read_once_an_epoch_and_every_window_has_its_targets",
    ),
    page(
        "the clinic counts items twice",
        "return len(torch.cat(found).unique())",
        "return len(torch.cat(found))",
        "tests/test_train.py::test_the_clinics_numbers_tell_ill_from_well",
    ),
    page(
        "the clinic divides by the ranks, not by the items",
        "torch.ones_like(rest).sum()",
        "torch.ones(()).double()",
        "tests/test_train.py::test_the_clinics_numbers_tell_ill_from_well",
    ),
    page(
        "the cure broadcasts nothing",
        "dist.broadcast(weight.data, src=0)  ",
        "dist.broadcast(weight.data.clone(), src=0)  ",
        "tests/test_train.py::test_the_clinics_numbers_tell_ill_from_well",
    ),
    page(
        "the step takes no mean of the losses",
        "        mean /= dist.get_world_size()\n    return mean.item()",
        "    return mean.item()",
        TRAIN + "test_two_ranks_are_one_process_and_the_strategies_are_one_training",
    ),
    page(
        "a checkpoint without the optimiser's state",
        '"optimiser": optimiser}',
        '"optimiser": {} if optimiser else {}}',
        TRAIN + "test_a_run_in_two_parts_is_the_run_in_one_bit_for_bit",
    ),
    page(
        "a checkpoint with the weights for their moving average",
        'state["average"] = get_model_state_dict(average)',
        'state["average"] = get_model_state_dict(model)',
        TRAIN + "test_a_run_in_two_parts_is_the_run_in_one_bit_for_bit",
    ),
    page(
        "every rank draws the same noise",
        "seeded(mix(seed, 1, step, rank))",
        "seeded(mix(seed, 1, step, 0 * rank))",
        "tests/test_train.py::test_each_rank_draws_its_own_noise_in_each_step",
    ),
    page(
        "every step draws the same noise",
        "seeded(mix(seed, 1, step, rank))",
        "seeded(mix(seed, 1, 0 * step, rank))",
        "tests/test_train.py::test_each_rank_draws_its_own_noise_in_each_step",
    ),
    page(
        "each rank clips by its own part's norm",
        "return norm.full_tensor().item(), own.item()",
        "return own.item() + 0 * norm.full_tensor().item(), own.item()",
        "tests/test_train.py::test_fsdp_clips_by_the_norm_of_all_and_no_sync_sends_once",
    ),
    page(
        "no_sync where it should be sent",
        "with model.no_sync() if keep_home else contextlib.nullcontext():",
        "with contextlib.nullcontext() if keep_home else model.no_sync():",
        "tests/test_train.py::test_fsdp_clips_by_the_norm_of_all_and_no_sync_sends_once",
    ),
    page(
        "a checkpoint has its name before it is whole",
        'beside = f"{folder}.part"',
        'beside = f"{folder}"',
        TRAIN + "test_ended_while_it_saves_the_checkpoint_before_is_the_newest",
    ),
    in_panels(
        "scaling",
        "one rank is slow, and nobody waits",
        "_draw_rank(ax, -row, parts, 1.0 if slow else 1 / slowest)",
        "_draw_rank(ax, -row, parts, 1.0 if slow or slowest else 1 / slowest)",
        "test_the_slow_rank_is_the_last_row",
    ),
    in_panels(
        "scaling",
        "the ring replaces from the start",
        "adds = step < num_ranks - 1",
        "adds = step < num_ranks - 2",
        "test_the_ring_is_finished_after_twice_n_minus_one_steps",
    ),
    in_panels(
        "scaling",
        "idle share without the slow rank",
        "busy = compute * ((ranks - 1) / slowest + 1) / ranks",
        "busy = compute * ranks / ranks",
        "test_the_first_panel_shows_what_its_prompt_asks",
    ),
]


def test_the_slow_rank_is_the_last_row():
    """The bars of the rows above it end where they ended before it was slow."""
    from aigc_helpers.plotting import figure

    _, ax = figure(4, 3, tight=False)
    parts = scaling.step_times(64, 4, 0.02, 0.02, 3.3e6, 1e8, slowest=1.5)
    panels.scaling._draw_ranks(ax, parts, 4, 1.5)
    ends = []
    for bars in ax.collections:
        box = bars.get_paths()[0].get_extents()
        if tuple(bars.get_facecolor()[0][:3]) == tuple(np.array([0, 114, 178]) / 255):
            ends.append(round(box.x1, 3))
    assert ends == [0.32, 0.32, 0.32, 0.48]  # 64 windows for four, 20 ms each; then the update
