"""The bytes of the tensors that are alive: counted once, from birth to the last that uses them."""

import torch
import torch.nn as nn

from aigc_helpers.memory import TensorMemory


def test_what_is_made_is_counted_until_nobody_uses_it():
    with TensorMemory() as memory:
        a = torch.zeros(1000)
        assert (memory.now, memory.peak) == (4000, 4000)
        b = a + 1
        assert (memory.now, memory.peak) == (8000, 8000)
        del a
        assert (memory.now, memory.peak) == (4000, 8000)
        del b
    assert (memory.now, memory.peak) == (0, 8000)


def test_views_and_steps_in_place_are_nothing_new():
    before = torch.zeros(1000)
    with TensorMemory() as memory:
        view = before.view(10, 100)
        before.add_(1)
        view.t()
        assert memory.now == 0
        made = torch.zeros(1000)
        rows = made.view(10, 100)
        assert memory.now == 4000
        del made
        assert memory.now == 4000  # the view keeps it
        del rows
        assert memory.now == 0


def test_bytes_go_by_the_type():
    with TensorMemory() as memory:
        kept = [torch.zeros(1000, dtype=torch.float64), torch.zeros(1000, dtype=torch.bool)]
        assert memory.now == 9000
    assert len(kept) == 2


def test_named_tensors_count_and_so_does_what_autograd_keeps():
    layer = nn.Linear(10, 20)
    x = torch.randn(50, 10, requires_grad=True)
    with TensorMemory(layer.parameters()) as memory:
        weights = 4 * (10 * 20 + 20)
        assert memory.now == weights
        h = torch.tanh(layer(x))  # tanh keeps what comes out, and so does h
        assert memory.now == weights + 4 * 50 * 20
        h.sum().backward()
        del h
        assert memory.now == weights + weights + 4 * 50 * 10  # the gradients of the layer and of x


def test_two_blocks_know_nothing_of_each_other():
    with TensorMemory() as first:
        kept = torch.zeros(1000)
    with TensorMemory() as second:
        other = kept + 1
    assert (first.now, second.now) == (4000, 4000)
    del kept, other
    assert (first.now, second.now) == (0, 0)
