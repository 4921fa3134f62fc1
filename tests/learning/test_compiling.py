"""What is compiled, when, and that each run of a process gets its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from seglab.learning.compiling import Forward, repays_compiling
from seglab.models.unet import UNet


def test_only_long_runs_repay_compiling() -> None:
    steps, full = 14 * 40_000 // 32, 14 * 40_000 * 3
    assert not repays_compiling(full * 6.6, steps, None)  # base 16 at 128²: a minute or two
    assert repays_compiling(full * 84, steps, None)  # base 64 at 240²
    assert not repays_compiling(full * 84, steps, 300.0)
    assert repays_compiling(full * 84, steps, 3600.0)


def test_many_steps_repay_compiling_however_small() -> None:
    assert repays_compiling(1.0, 200_000, None)
    assert not repays_compiling(1.0, 60_000, None)
    assert not repays_compiling(1.0, 200_000, 300.0)


def test_a_machine_that_cannot_compile_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def no_compiler(*_: object) -> None:
        raise RuntimeError("no C compiler")

    images, network = torch.rand(2, 3), torch.nn.Linear(3, 1)
    forward = Forward(network, compiles=True, backend=no_compiler)
    assert torch.equal(forward(images, is_full=True), network(images))
    assert torch.equal(forward(images, is_full=True), network(images))
    assert not forward.is_compiled
    assert capsys.readouterr().err.count("no C compiler") == 1


def test_only_full_batches_run_compiled_and_with_the_same_weights() -> None:
    seen = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        seen.append(graph)
        return graph.forward

    network = torch.nn.Linear(3, 1)
    forward = Forward(network, compiles=True, backend=backend)
    forward(torch.rand(1, 3), is_full=False)
    assert not seen
    images = torch.rand(4, 3)
    forward(images, is_full=True)
    with torch.no_grad():
        network.weight.zero_()
    assert torch.equal(forward(images, is_full=True), network.bias.expand(4, 1))
    assert len(seen) == 1
    assert forward.is_compiled


def test_every_run_of_a_process_is_compiled_for_its_own_shape() -> None:
    shapes: list[tuple[int, ...]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        assert all(isinstance(each, torch.Tensor) for each in inputs)  # else a size is a symbol
        (image,) = (each for each in inputs if each.shape[:2] == (5, 3))
        shapes.append(tuple(image.shape))
        return graph.forward

    runs = []
    for number in range(10):  # torch gives up on the same code after eight
        image = torch.rand(5, 3, 8 + 4 * (number % 4), 8 + 4 * (number % 3))
        forward = Forward(UNet(3, 1 + number % 2, depth=1), compiles=True, backend=backend)
        runs.append((forward, image))
        for _ in range(2):
            forward(image, is_full=True)
    first, image = runs[0]  # a run that goes on while others have begun
    first(image, is_full=True)
    assert shapes == [tuple(image.shape) for _, image in [*runs, runs[0]]]
    assert all(forward.is_compiled for forward, _ in runs)
