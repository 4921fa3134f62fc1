"""The smp architectures: sizes, channels, encoders, weights."""

from __future__ import annotations

import hashlib
import statistics
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from seglab.core.config import Model
from seglab.core.errors import UserError
from seglab.core.registry import MODELS
from seglab.models.build import build_model, loaded_weights

SMP = sorted(entry.name for entry in MODELS if entry.name.startswith("smp-"))
# A small encoder of smp and one of timm: name, prefix of its tensors in smp, one tensor.
ENCODERS = [
    ("mobilenet_v2", "", "features.4.conv.0.0.weight"),
    ("tu-resnet10t", "model.", "layer2.0.conv1.weight"),
]


def build(name: str, side: int = 64, in_channels: int = 1, **options: object) -> Any:
    return build_model(Model(name=name, **options), in_channels, (side, side))


def refusal(name: str, side: int = 64, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        build(name, side, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def encoder_of(network: Any) -> nn.Module:
    encoder: nn.Module = network.network.net.encoder
    return encoder


@pytest.mark.parametrize("name", SMP)
def test_every_architecture_takes_any_size_and_any_channels(name: str) -> None:
    network = build(name, 40, in_channels=6).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 6, 40, 72)).shape == (1, 1, 40, 72)


@pytest.mark.parametrize("encoder", ["tu-swin_tiny_patch4_window7_224", "tu-convnext_atto"])
def test_transformers_and_others_of_timm_take_any_size(encoder: str) -> None:
    network = build("smp-fpn", 80, encoder=encoder).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 80, 80)).shape == (1, 1, 80, 80)


def test_without_padding_or_with_an_encoder_of_one_size_another_is_refused() -> None:
    text = refusal("smp-fpn", 240, pad=False)
    assert all(x in text for x in ("data.image_size", "divisible by 32", "model.pad: true"))
    assert "data.image_size" in refusal("smp-unet", encoder="tu-coatnet_pico_rw_224")


@pytest.mark.parametrize("name", ["smp-pan", "smp-deeplabv3", "smp-deeplabv3plus", "smp-upernet"])
def test_one_image_at_a_time_is_refused_as_torch_would(name: str) -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        build(name)(torch.zeros(1, 1, 64, 64))
    with pytest.raises(UserError, match=rf"train\.batch_size: model '{name}' .* 2 or more"):
        build_model(Model(name=name), 1, (64, 64), smallest_batch=1)
    build_model(Model(name="smp-unet"), 1, (64, 64), smallest_batch=1)


@pytest.mark.parametrize(
    ("name", "encoder", "told"),
    [
        ("smp-unet", "resnet19", "did you mean 'resnet18"),
        ("smp-unet", "convnext_atto", "did you mean 'tu-convnext_atto"),
        ("smp-unet", "tu-rsnet18", "did you mean 'tu-"),
        ("smp-dpt", "resnet18", "DPT cannot use 'resnet18'"),
        ("smp-unet", "tu-vit_tiny_patch16_224", "cannot use"),
        ("smp-dpt", "tu-vit_small_patch14_dinov2", "data.image_size"),
    ],
)
def test_an_encoder_that_is_unknown_or_does_not_suit(name: str, encoder: str, told: str) -> None:
    assert told in refusal(name, encoder=encoder)


def weights_of(encoder: str) -> dict[str, Tensor]:
    """Random weights as a stand-in for pretrained ones, with timm's classifier."""
    torch.manual_seed(11)
    if encoder.startswith("tu-"):
        return dict(timm.create_model(encoder[3:]).state_dict())
    return dict(encoder_of(build("smp-pspnet", encoder=encoder, in_channels=3)).state_dict())


def save(state: dict[str, Tensor], path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(("encoder", "stem", "key"), ENCODERS)
def test_a_file_of_weights(tmp_path: Path, suffix: str, encoder: str, stem: str, key: str) -> None:
    saved, path = weights_of(encoder), tmp_path / f"weights{suffix}"
    network = build("smp-pspnet", encoder=encoder, encoder_weights=save(saved, path))
    found = encoder_of(network).state_dict()
    assert torch.equal(found[stem + key], saved[key])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    count = sum("num_batches" not in name for name in found)
    assert loaded_weights(network) == f"file {path.name}, sha256 {digest[:12]}, {count} tensors"


@pytest.mark.parametrize("channels", [1, 6])
def test_the_stem_answers_a_grey_image_as_rgb_does(tmp_path: Path, channels: int) -> None:
    saved = weights_of("mobilenet_v2")
    options = {"encoder": "mobilenet_v2", "encoder_weights": save(saved, tmp_path / "w.pt")}
    network = build("smp-pspnet", in_channels=channels, **options)
    stem = encoder_of(network).state_dict()["features.0.0.weight"]
    grey = torch.randn(1, 1, 16, 16)
    expected = 0.25 * grey / statistics.fmean(IMAGENET_DEFAULT_STD)
    torch.testing.assert_close(
        nn.functional.conv2d(grey.expand(-1, channels, -1, -1), stem),
        nn.functional.conv2d(expected.expand(-1, 3, -1, -1), saved["features.0.0.weight"]),
    )


def test_a_stem_with_a_bias_sees_what_the_weights_were_trained_on(tmp_path: Path) -> None:
    """A grey value x in 0 to 1 is (x - 0.5) / 0.25 to us and (x - mean) / sd to timm."""
    reference = timm.create_model("convnext_atto")
    path = save(reference.state_dict(), tmp_path / "w.pt")
    network = build("smp-fpn", in_channels=6, encoder="tu-convnext_atto", encoder_weights=path)
    grey = torch.rand(1, 1, 16, 16)
    mean, sd = map(statistics.fmean, (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    torch.testing.assert_close(
        encoder_of(network).model.stem_0(((grey - 0.5) / 0.25).expand(-1, 6, -1, -1)),
        reference.stem[0](((grey - mean) / sd).expand(-1, 3, -1, -1)),
    )


@pytest.mark.parametrize("encoder", ["tu-tf_efficientnet_lite0", "resnet18"])
def test_a_file_of_other_names_in_the_same_order(tmp_path: Path, encoder: str) -> None:
    """As of packages that call timm's ``conv_stem`` ``_conv_stem``."""
    saved = timm.create_model(encoder.removeprefix("tu-")).state_dict()
    renamed = {f"{i}.{name.split('.')[-1]}": x for i, (name, x) in enumerate(saved.items())}
    path = save(renamed, tmp_path / "weights.pth")
    own = encoder_of(build("smp-unet", encoder=encoder, encoder_weights=path)).state_dict()
    for name in list(own)[1:]:  # the stem is adapted
        assert torch.equal(own[name], saved[name.removeprefix("model.")]), name


def test_a_file_of_another_encoder(tmp_path: Path) -> None:
    path = save(weights_of("mobilenet_v2"), tmp_path / "weights.safetensors")
    for encoder in ("mit_b0", "tu-resnet10t", "tu-convnext_atto"):
        assert path in refusal("smp-fpn", encoder=encoder, encoder_weights=path)


@pytest.mark.parametrize(
    ("encoder", "lacking", "prefix"),
    [
        ("tu-resnet10t", "layer4.0.conv2.weight", ""),
        ("tu-resnet10t", "layer3.0.bn1.running_var", ""),
        ("tu-tf_efficientnet_lite0", "blocks.2.1.bn2.running_var", "_"),
    ],
)
def test_a_file_without_one_tensor_under_timm_s_names_or_others(
    tmp_path: Path, encoder: str, lacking: str, prefix: str
) -> None:
    """timm itself loads such a file without a word."""
    state = weights_of(encoder)
    del state[lacking]
    path = save({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "w.pt")
    text = refusal("smp-unet", encoder=encoder, encoder_weights=path)
    assert f"tensors do not fit or are absent: model.{lacking}" in text


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_broken_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    for content in (b"no weights", b"\x80\x02cos\nsystem\n."):
        path.write_bytes(content)
        assert str(path) in refusal("smp-unet", encoder="tu-resnet10t", encoder_weights=str(path))


def test_an_absent_file_and_an_unknown_set() -> None:
    assert "No such file" in refusal("smp-unet", encoder_weights="nowhere/w.pt")
    assert "'imagenet', 'ssl', 'swsl'" in refusal("smp-unet", encoder_weights="imagnet")
    text = refusal("smp-unet", encoder="tu-resnet10t", encoder_weights="ssl")
    assert "timm has only 'imagenet'" in text


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, which stands in for the hub: offline, the client reads only it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet10t"])
def test_weights_that_the_hub_lacks_are_an_error_that_says_what_to_do(encoder: str) -> None:
    text = refusal("smp-unet", encoder=encoder, encoder_weights="imagenet")
    assert "model.encoder_weights: 'imagenet' cannot be loaded" in text
    assert "a file (.safetensors" in text


@pytest.mark.parametrize(("encoder", "stem", "key"), ENCODERS)
def test_weights_of_the_hub_are_loaded(hub: Path, encoder: str, stem: str, key: str) -> None:
    published = smp.encoders.encoders["mobilenet_v2"]["pretrained_settings"]["imagenet"]
    revision, saved = published["revision"], weights_of(encoder)
    is_timm_s = encoder.startswith("tu-")
    repository = "timm/resnet10t.c3_in1k" if is_timm_s else published["repo_id"]
    folder = hub / f"models--{repository.replace('/', '--')}"
    save(saved, folder / "snapshots" / revision / "model.safetensors")
    (folder / "snapshots" / revision / "config.json").write_text("{}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(revision)
    network = build("smp-fpn", encoder=encoder, encoder_weights="imagenet")
    assert torch.equal(encoder_of(network).state_dict()[stem + key], saved[key])
    assert loaded_weights(network) == "imagenet"
