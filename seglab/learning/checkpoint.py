"""Checkpoints: written whole or not at all, read without running code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from seglab.core.errors import UserError

_PROBE_BYTES = 1 << 20


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file and put it in place of ``path`` in one step.

    Raises:
        UserError: the disk is full or read-only; the previous file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch reports a full disk as RuntimeError, safetensors as its own error.
        cause = error if isinstance(error, OSError) else _refusal(temporary) or error
        raise UserError(f"{path}: the checkpoint cannot be written: {cause}") from cause
    finally:
        temporary.unlink(missing_ok=True)


def _refusal(path: Path) -> OSError | None:
    """Ask the disk itself why nothing more can be written to a file; torch does not tell."""
    try:
        with path.open("ab") as stream:
            stream.write(bytes(_PROBE_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return error
    return None


def save_weights(path: Path, network: nn.Module, metadata: Mapping[str, str]) -> None:
    """Write weights and buffers as safetensors, with text about them in the header."""
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    write_atomically(path, lambda target: save_file(tensors, target, dict(metadata)))


def load_weights(path: Path, network: nn.Module) -> None:
    """Load what :func:`save_weights` wrote into a network of the same shape.

    Raises:
        UserError: not such a file, or of another network.
    """
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors checkpoint: {error}") from None
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise UserError(f"{path}: these weights are of another network: {detail}") from None


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a training state of tensors, numbers, texts and lists."""
    write_atomically(path, lambda target: torch.save(dict(state), target))


def load_state(path: Path) -> dict[str, Any] | None:
    """Read a training state, or None where there is none.

    Raises:
        UserError: the file is damaged, or holds more than plain data.
    """
    if not path.is_file():
        return None
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch names no common class for damaged files
        raise UserError(
            f"{path}: not a training state ({type(error).__name__}); remove it"
        ) from None


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """State of the generators that a run on ``device`` draws from, for :func:`save_state`."""
    state = {"random": torch.get_rng_state()}
    if device.type == "cuda":
        state["random_cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Let the generators go on from :func:`random_state`.

    A state that a run on the processor left, or an earlier version, has none of a GPU.
    """
    torch.set_rng_state(state["random"])
    if device.type == "cuda" and "random_cuda" in state:
        torch.cuda.set_rng_state(state["random_cuda"], device)
