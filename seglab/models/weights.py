"""Initial weights of encoders: where they come from, and proof that they were loaded.

Weights that cannot be had, or that leave a part of the encoder random, are an error:
an arm called "imagenet" that starts from random numbers would turn a comparison into
a lie.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seglab.core.errors import UserError, nearest
from seglab.models.encoders import TIMM

FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
RGB = 3


@dataclass(frozen=True)
class WeightsFile:
    """A file of encoder weights on this machine and where it came from."""

    path: Path
    source: str

    def describe(self) -> dict[str, str]:
        """Source and content, as logged with a run."""
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"source": self.source, "sha256": digest}


def find_weights(encoder: str, weights: str) -> WeightsFile | None:
    """Find, and download if need be, what ``model.encoder_weights`` names.

    Args:
        encoder: a name that exists.
        weights: ``none``, the name of a published set (``imagenet``, …) or a file.

    Raises:
        UserError: there is no such file, no such set for this encoder, or no way to get it.
    """
    if weights == "none":
        return None
    if weights.endswith(FILE_SUFFIXES):
        path = Path(weights)
        if not path.is_file():
            raise UserError(f"model.encoder_weights: there is no file '{weights}'")
        return WeightsFile(path, source=f"file {path.name}")
    repository, revision, names = _published(encoder, weights)
    return _download(encoder, weights, repository, revision, names)


def _published(encoder: str, weights: str) -> tuple[str, str | None, list[str]]:
    """Repository, revision and candidate file names of a published set of weights."""
    if not encoder.startswith(TIMM):
        return _published_by_smp(encoder, weights)
    import timm

    config = timm.get_pretrained_cfg(encoder.removeprefix(TIMM), allow_unregistered=True)
    if weights != "imagenet" or config is None or not config.hf_hub_id:
        choices = ["none", "a file"]
        if config is not None and config.hf_hub_id:
            choices.insert(1, f"imagenet (here: {config.tag})")
        raise _no_such_set(encoder, weights, choices)
    names = ["model.safetensors", "pytorch_model.bin"]
    return config.hf_hub_id, None, [config.hf_hub_filename] if config.hf_hub_filename else names


def _published_by_smp(encoder: str, weights: str) -> tuple[str, str, list[str]]:
    from segmentation_models_pytorch.encoders import encoders

    sets = encoders[encoder]["pretrained_settings"]
    if weights not in sets:
        raise _no_such_set(encoder, weights, ["none", *sets, "a file"])
    return sets[weights]["repo_id"], sets[weights]["revision"], ["model.safetensors"]


def _no_such_set(encoder: str, weights: str, choices: list[str]) -> UserError:
    return UserError(
        f"model.encoder_weights: encoder '{encoder}' has no weights '{weights}'"
        f"{nearest(weights, choices)}; choose one of: {', '.join(choices)} "
        f"({', '.join(FILE_SUFFIXES)})"
    )


def _download(
    encoder: str, weights: str, repository: str, revision: str | None, names: list[str]
) -> WeightsFile:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    reason: Exception | None = None
    for name in names:
        try:
            path = Path(hf_hub_download(repository, filename=name, revision=revision))
        except LocalEntryNotFoundError as error:  # no connection, nothing in the cache
            reason = error
        except EntryNotFoundError as error:
            reason = error
            continue
        except Exception as error:  # the client lets errors of several libraries through
            reason = error
        else:
            # The snapshot folder of the hub's cache is named after the commit.
            return WeightsFile(path, f"huggingface.co/{repository}@{path.parent.name}/{name}")
        break
    raise UserError(
        f"model.encoder_weights: '{weights}' of encoder '{encoder}' could not be downloaded "
        f"({type(reason).__name__}); connect this machine once, or fetch "
        f"https://huggingface.co/{repository}/resolve/{revision or 'main'}/{names[0]} elsewhere "
        f"and name the file: model.encoder_weights: path/to/{names[0]}"
    )


def load_smp_encoder(encoder: nn.Module, file: WeightsFile) -> None:
    """Fill an encoder of segmentation-models-pytorch; every tensor must be in the file.

    A stem made for RGB is summed for one channel, so that a grey image gives what it gives
    as RGB, and repeated and rescaled for more, as smp and timm do.

    Raises:
        UserError: the file is unreadable or belongs to another encoder.
    """
    state = read_tensors(file.path)
    own = encoder.state_dict()
    for key in state.keys() & own.keys():
        if _is_rgb_stem(state[key], own[key]):
            state[key] = _adapt_channels(state[key], own[key].shape[1])
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise misfit(file, error) from None


def misfit(file: WeightsFile, error: Exception) -> UserError:
    """Say in one line that ``file`` is not for this encoder."""
    first = next((line.strip() for line in str(error).splitlines()[1:]), str(error))
    return UserError(
        f"model.encoder_weights: '{file.path}' does not fit model.encoder: {first[:200]}"
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors without running code from the file.

    Raises:
        UserError: not a safetensors or weights-only PyTorch file of named tensors.
    """
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers let through what a broken file makes them raise
        raise _unreadable(path, type(error).__name__) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise _unreadable(path, "it holds something else")
    return state


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(
        f"model.encoder_weights: '{path}' is not a file of named tensors ({reason}); save an "
        f"encoder's state_dict() as .safetensors or with torch.save"
    )


def _is_rgb_stem(given: Tensor, own: Tensor) -> bool:
    outer = (given.shape[:1] + given.shape[2:]) == (own.shape[:1] + own.shape[2:])
    return given.ndim == own.ndim == 4 and outer and given.shape[1] == RGB != own.shape[1]


def _adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Turn a stem (O,3,k,k) into (O,channels,k,k)."""
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeats = -(-channels // RGB)
    return weight.repeat(1, repeats, 1, 1)[:, :channels] * (RGB / channels)
