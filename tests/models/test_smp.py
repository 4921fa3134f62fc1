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
import torchvision
from safetensors.torch import load_file, save_file
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


class TestSize:
    @pytest.mark.parametrize("name", SMP)
    def test_every_architecture_takes_any_size_and_any_channels(self, name: str) -> None:
        network = build(name, 40, in_channels=6).eval()
        with torch.no_grad():
            assert network(torch.zeros(1, 6, 40, 72)).shape == (1, 1, 40, 72)

    @pytest.mark.parametrize("encoder", ["tu-swin_tiny_patch4_window7_224", "tu-convnext_atto"])
    def test_transformers_and_others_of_timm_take_any_size(self, encoder: str) -> None:
        network = build("smp-fpn", 80, encoder=encoder).eval()
        with torch.no_grad():
            assert network(torch.zeros(1, 1, 80, 80)).shape == (1, 1, 80, 80)

    def test_without_padding_it_is_refused(self) -> None:
        text = refusal("smp-fpn", 240, pad=False)
        assert "data.image_size" in text
        assert "divisible by 32" in text
        assert "model.pad: true" in text

    def test_an_encoder_of_one_size_is_refused_at_another(self) -> None:
        assert "data.image_size" in refusal("smp-unet", encoder="tu-coatnet_pico_rw_224")


@pytest.mark.parametrize("name", ["smp-pan", "smp-deeplabv3", "smp-deeplabv3plus", "smp-upernet"])
def test_one_image_at_a_time_is_refused_as_torch_would(name: str) -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        build(name)(torch.zeros(1, 1, 64, 64))
    with pytest.raises(UserError, match=rf"train\.batch_size: model '{name}' .* 2 or more"):
        build_model(Model(name=name), 1, (64, 64), smallest_batch=1)
    build_model(Model(name="smp-unet"), 1, (64, 64), smallest_batch=1)


class TestEncoder:
    @pytest.mark.parametrize(
        ("encoder", "suggestion"),
        [("resnet19", "resnet18"), ("convnext_atto", "tu-convnext_atto"), ("tu-rsnet18", "tu-")],
    )
    def test_unknown_suggests_the_nearest(self, encoder: str, suggestion: str) -> None:
        assert f"did you mean '{suggestion}" in refusal("smp-unet", encoder=encoder)

    def test_one_that_the_architecture_cannot_use(self) -> None:
        assert "DPT cannot use 'resnet18'" in refusal("smp-dpt", encoder="resnet18")
        assert "cannot use" in refusal("smp-unet", encoder="tu-vit_tiny_patch16_224")
        assert "data.image_size" in refusal("smp-dpt", encoder="tu-vit_small_patch14_dinov2")


def save_encoder(path: Path, encoder: str, in_channels: int = 3) -> dict[str, Tensor]:
    """Write random weights of ``encoder`` to ``path``, as a stand-in for pretrained ones."""
    torch.manual_seed(11)
    if encoder.startswith("tu-"):
        state = timm.create_model(encoder[3:], in_chans=in_channels).state_dict()
    else:
        network = build("smp-pspnet", encoder=encoder, in_channels=in_channels)
        state = encoder_of(network).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return dict(state)


class TestWeights:
    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    @pytest.mark.parametrize(("encoder", "stem", "key"), ENCODERS)
    def test_file(self, tmp_path: Path, suffix: str, encoder: str, stem: str, key: str) -> None:
        path = tmp_path / f"weights{suffix}"
        saved = save_encoder(path, encoder)
        network = build("smp-pspnet", encoder=encoder, encoder_weights=str(path))
        assert torch.equal(encoder_of(network).state_dict()[stem + key], saved[key])
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        count = sum("num_batches" not in name for name in encoder_of(network).state_dict())
        told = f"file weights{suffix}, sha256 {digest[:12]}, {count} tensors"
        assert loaded_weights(network) == told

    @pytest.mark.parametrize("channels", [1, 6])
    def test_stem_answers_a_grey_image_as_rgb_does(self, tmp_path: Path, channels: int) -> None:
        path = tmp_path / "weights.safetensors"
        saved = save_encoder(path, "mobilenet_v2")
        network = build(
            "smp-pspnet", in_channels=channels, encoder="mobilenet_v2", encoder_weights=str(path)
        )
        stem = encoder_of(network).state_dict()["features.0.0.weight"]
        grey = torch.randn(1, 1, 16, 16)
        expected = 0.25 * grey / statistics.fmean(IMAGENET_DEFAULT_STD)
        torch.testing.assert_close(
            nn.functional.conv2d(grey.expand(-1, channels, -1, -1), stem),
            nn.functional.conv2d(expected.expand(-1, 3, -1, -1), saved["features.0.0.weight"]),
        )

    def test_stem_with_a_bias_sees_what_the_weights_were_trained_on(self, tmp_path: Path) -> None:
        """A grey value x in 0 to 1 is (x - 0.5) / 0.25 to us and (x - mean) / sd to timm."""
        path = tmp_path / "weights.safetensors"
        save_encoder(path, "tu-convnext_atto")
        reference = timm.create_model("convnext_atto")
        reference.load_state_dict(load_file(path))
        network = build(
            "smp-fpn", in_channels=6, encoder="tu-convnext_atto", encoder_weights=str(path)
        )
        grey = torch.rand(1, 1, 16, 16)
        mean, sd = map(statistics.fmean, (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        torch.testing.assert_close(
            encoder_of(network).model.stem_0(((grey - 0.5) / 0.25).expand(-1, 6, -1, -1)),
            reference.stem[0](((grey - mean) / sd).expand(-1, 3, -1, -1)),
        )

    @pytest.mark.parametrize("encoder", ["tu-tf_efficientnet_lite0", "resnet18"])
    def test_other_names_in_the_same_order(self, tmp_path: Path, encoder: str) -> None:
        """As of packages that call timm's ``conv_stem`` ``_conv_stem``."""
        path = tmp_path / "weights.pth"
        saved = timm.create_model(encoder.removeprefix("tu-")).state_dict()
        renamed = {
            f"part{i}.{name.split('.')[-1]}": one for i, (name, one) in enumerate(saved.items())
        }
        torch.save(renamed, path)
        own = encoder_of(build("smp-unet", encoder=encoder, encoder_weights=str(path))).state_dict()
        stem = next(iter(own))
        for name, tensor in own.items():
            if name != stem:
                assert torch.equal(tensor, saved[name.removeprefix("model.")]), name

    def test_under_other_names_too_the_first_tensor_that_lacks_is_named(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "weights.pth"
        saved = timm.create_model("tf_efficientnet_lite0").state_dict()
        del saved["blocks.2.1.bn2.running_var"]
        torch.save({f"_{name}": tensor for name, tensor in saved.items()}, path)
        text = refusal("smp-unet", encoder="tu-tf_efficientnet_lite0", encoder_weights=str(path))
        assert "do not fit or are absent: model.blocks.2.1.bn2.running_var" in text

    def test_a_file_of_torchvision(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        saved = torchvision.models.mobilenet_v2().state_dict()
        torch.save(saved, path)
        network = build("smp-unet", encoder="mobilenet_v2", encoder_weights=str(path))
        key = "features.18.0.weight"
        assert torch.equal(encoder_of(network).state_dict()[key], saved[key])

    def test_file_of_another_encoder(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.safetensors"
        save_encoder(path, "mobilenet_v2")
        for encoder in ("mit_b0", "tu-resnet10t", "tu-convnext_atto"):
            assert str(path) in refusal("smp-fpn", encoder=encoder, encoder_weights=str(path))

    @pytest.mark.parametrize("lacking", ["layer4.0.conv2.weight", "layer3.0.bn1.running_var"])
    def test_a_file_without_one_tensor(self, tmp_path: Path, lacking: str) -> None:
        """timm itself loads such a file without a word."""
        path = tmp_path / "weights.pt"
        state = save_encoder(path, "tu-resnet10t")
        del state[lacking]
        torch.save(state, path)
        text = refusal("smp-unet", encoder="tu-resnet10t", encoder_weights=str(path))
        assert f"tensors do not fit or are absent: model.{lacking}" in text

    @pytest.mark.parametrize("content", [b"no weights", b"\x80\x02cos\nsystem\n."])
    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    def test_broken_file(self, tmp_path: Path, content: bytes, suffix: str) -> None:
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(content)
        for encoder in ("mobilenet_v2", "tu-resnet10t"):
            assert str(path) in refusal("smp-unet", encoder=encoder, encoder_weights=str(path))

    def test_absent_file_and_unknown_set(self) -> None:
        assert "No such file" in refusal("smp-unet", encoder_weights="nowhere/w.pt")
        assert "'imagenet', 'ssl', 'swsl'" in refusal("smp-unet", encoder_weights="imagnet")
        text = refusal("smp-unet", encoder="tu-resnet10t", encoder_weights="ssl")
        assert "timm has only 'imagenet'" in text


class TestHub:
    """The hub's cache stands in for the hub: offline, the client reads only it."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        return tmp_path

    @pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet10t"])
    def test_absent_weights_are_an_error_that_says_what_to_do(self, encoder: str) -> None:
        text = refusal("smp-unet", encoder=encoder, encoder_weights="imagenet")
        assert "model.encoder_weights: 'imagenet' cannot be loaded" in text
        assert "a file (.safetensors" in text

    @pytest.mark.parametrize(("encoder", "stem", "key"), ENCODERS)
    def test_cached_weights_are_loaded(
        self, cache: Path, encoder: str, stem: str, key: str
    ) -> None:
        published = smp.encoders.encoders["mobilenet_v2"]["pretrained_settings"]["imagenet"]
        timm_s = {"repo_id": "timm/resnet10t.c3_in1k", "revision": published["revision"]}
        settings = timm_s if encoder.startswith("tu-") else published
        folder = cache / f"models--{settings['repo_id'].replace('/', '--')}"
        path = folder / "snapshots" / settings["revision"] / "model.safetensors"
        saved = save_encoder(path, encoder)
        (path.parent / "config.json").write_text("{}")
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(settings["revision"])
        network = build("smp-fpn", encoder=encoder, encoder_weights="imagenet")
        assert torch.equal(encoder_of(network).state_dict()[stem + key], saved[key])
        assert loaded_weights(network) == "imagenet"
