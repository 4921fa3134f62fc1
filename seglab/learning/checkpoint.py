"""Checkpoints: written whole or not at all, read without running code."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from seglab.core.errors import UserError


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Put a file in place of ``path`` in one step; a UserError where the disk does not take it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: the checkpoint cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def save_weights(path: Path, network: nn.Module, metadata: Mapping[str, str]) -> None:
    """Write weights and buffers as safetensors, with text about them in the header."""
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    write_atomically(path, save(tensors, dict(metadata)))


def load_weights(path: Path, network: nn.Module) -> None:
    """Load what :func:`save_weights` wrote; a UserError for another file, or another network."""
    try:
        network.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors checkpoint: {error}") from None
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise UserError(f"{path}: these weights are of another network: {detail}") from None


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a training state of tensors, numbers, texts and lists."""
    buffer = io.BytesIO()  # torch, writing to a file, does not tell why the disk takes no more
    torch.save(dict(state), buffer)
    write_atomically(path, buffer.getbuffer())


def load_state(path: Path) -> dict[str, Any] | None:
    """Read a training state, or None where there is none; a UserError for a damaged file."""
    if not path.is_file():
        return None
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch names no common class for damaged files
        kind = type(error).__name__
        raise UserError(f"{path}: not a training state ({kind}); remove it") from None
