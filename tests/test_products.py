"""Products of rows: a row's answer is a function of that row alone, and of nothing that happened before."""

from __future__ import annotations

import pytest
import torch

from fewvit.models import products
from fewvit.models.products import BLOCK_ROWS, aligned, in_blocks, of_rows, packing_works

independent = pytest.mark.skipif(not packing_works(), reason="without oneDNN in torch rows are close only")


def made(n, width, classes, seed=3):
    stream = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=stream) for shape in ((n, width), (classes, width), (classes,)))


def at(offset, x):
    """A copy of x whose memory begins so many numbers after a border of 64 bytes."""
    room = torch.empty(x.numel() + 32)
    start = -room.data_ptr() % 64 // 4 + offset
    copy = room[start : start + x.numel()].view(x.shape)
    return copy.copy_(x)


@pytest.mark.parametrize("n", [0, 1, BLOCK_ROWS - 1, BLOCK_ROWS, 2 * BLOCK_ROWS + 37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_of_rows_is_the_product(n, dtype):
    x, weight, bias = (part.to(dtype) for part in made(n, 65, 3))
    expected = x.double() @ weight.double().T + bias.double()
    torch.testing.assert_close(of_rows(x, weight, bias).double(), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(of_rows(x, weight).double(), expected - bias.double(), atol=2e-5, rtol=0)
    assert of_rows(x, weight).dtype == dtype


# widths and numbers of classes at which MKL's and OpenBLAS's kernels differ by place, by number of rows or by memory
SHAPES = [(32, 3), (64, 2), (65, 1), (65, 10), (192, 3), (384, 10), (384, 100), (1537, 2), (768, 17)]


@independent
@pytest.mark.parametrize(("width", "classes"), SHAPES)
def test_the_answer_for_a_row_does_not_hang_on_its_place_its_neighbours_or_where_it_lies(width, classes):
    x, weight, bias = made(2 * BLOCK_ROWS + 37, width, classes)
    whole = of_rows(x, weight, bias)
    for shift in (1, 7, 50, BLOCK_ROWS):
        assert of_rows(x.roll(shift, 0), weight, bias).equal(whole.roll(shift, 0))
    for n in (1, 2, 3, 7, 20, 39, BLOCK_ROWS + 1):
        assert of_rows(x[:n], weight, bias).equal(whole[:n])
        assert of_rows(x[-n:], weight, bias).equal(whole[-n:])
    for offset in (1, 4, 8, 15):
        assert of_rows(at(offset, x), at(offset, weight), at(offset, bias)).equal(whole)
    assert of_rows(x.T.contiguous().T, weight, bias).equal(whole)


CHECK = """
import sys, torch
from fewvit.models.products import of_rows, packing_works
if not packing_works():
    sys.exit()
torch.set_num_threads(int(sys.argv[1]))
stream = torch.Generator().manual_seed(3)
for width, classes in ((32, 3), (64, 2), (65, 10), (384, 10), (1537, 2)):
    x, weight = (torch.randn(shape, generator=stream) for shape in ((165, width), (classes, width)))
    whole = of_rows(x, weight)
    assert of_rows(x.roll(7, 0), weight).equal(whole.roll(7, 0)), (width, classes)
    assert of_rows(x[:39], weight).equal(whole[:39]), (width, classes)
"""


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kernels", ["SSE41", "AVX2", "AVX512_CORE"])
def test_so_it_is_with_the_kernels_of_other_cpus(python, kernels, threads):
    python(CHECK, threads, ONEDNN_MAX_CPU_ISA=kernels, OMP_WAIT_POLICY="passive")


def test_blocks_are_always_of_one_size_and_filled_up_with_the_last_row():
    asked = []
    rows = torch.arange(7.0)[:, None]
    found = in_blocks(lambda part: asked.append(part[:, 0].tolist()) or 10 * part, rows, 3)
    assert asked == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    assert found.equal(10 * rows)
    assert in_blocks(lambda part: part @ torch.ones(1, 5), rows[:0], 3).shape == (0, 5)


def test_memory_that_begins_at_a_border_is_taken_as_it_is():
    x = torch.randn(5, 16)
    assert aligned(x) is x
    moved = at(4, x)
    assert aligned(moved).equal(x)
    assert aligned(moved).data_ptr() % 64 == 0


@pytest.mark.parametrize("works", [True, False], ids=["packed", "plain"])
def test_products_with_a_constant_do_not_hang_on_where_it_lies(works, monkeypatch):
    if works and not packing_works():
        pytest.skip("this torch has no packed product")
    monkeypatch.setattr(products, "packing_works", lambda: works)
    x, w, _ = made(75, 64, 3)
    here = products.Products(at(0, x))
    for offset in (1, 4, 12):
        there = products.Products(at(offset, x))
        assert there.logits(w).equal(here.logits(w))
        assert there.gradient(w @ x.T).equal(here.gradient(w @ x.T))


THREADS = """
import threading, torch
from fewvit.models.products import settle_threads
other = threading.Thread(target=torch.set_num_threads, args=(1,))
settle_threads()
other.start(); other.join()
print(torch.get_num_threads())
"""


def test_what_another_thread_says_of_itself_is_not_said_of_those_that_compute(python):
    assert python(THREADS, OMP_NUM_THREADS="3", MKL_DYNAMIC="FALSE").stdout.split() == ["3"]
    assert python(
        THREADS.replace("\nsettle_threads()", ""), OMP_NUM_THREADS="3", MKL_DYNAMIC="FALSE"
    ).stdout.split() == ["1"]  # torch's own way
