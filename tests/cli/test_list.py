"""``list`` names everything a YAML can say, also what a user added."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor
from torch.nn.functional import softplus

from seglab.cli.main import main
from seglab.core.config import RunConfig, flatten
from seglab.core.registry import AUGMENTATIONS, LOSSES, MODELS
from seglab.tracking.connect import open_store

NAME = "logistic_of_a_test"


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    capsys.readouterr()
    assert main(["list", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_everything_that_a_run_is_made_of_has_one_line(
    capsys: pytest.CaptureFixture[str], small_config: Callable[..., RunConfig]
) -> None:
    summaries = dict(line.split(maxsplit=1) for line in listed(capsys) if line.startswith(" "))
    components = {"name", "seed", "model", "loss", "augment"}
    keys = [key for key in flatten(small_config().to_dict()) if key.split(".")[0] not in components]
    names = [entry.name for registry in (MODELS, LOSSES, AUGMENTATIONS) for entry in registry]
    assert {*names, *keys} <= summaries.keys()
    assert min(map(len, summaries.values())) > 10


def test_choices_defaults_and_encoders_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    training = "\n".join(listed(capsys, "training"))
    assert "(constant | plateau | cosine | one_cycle)" in training
    assert "default=cosine" in training
    encoders = "\n".join(listed(capsys, "encoders"))
    assert "resnet18" in encoders
    assert "imagenet" in encoders
    assert "tu-NAME" in encoders


@pytest.fixture
def own_loss() -> None:
    @LOSSES.register(NAME)
    def logistic(*, weight: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
        """Logistic loss, as a user would add one."""
        return lambda logits, mask: weight * (softplus(logits) - logits * mask).mean()


@pytest.mark.usefixtures("own_loss")
def test_one_decorated_function_is_a_loss_that_a_yaml_names(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = [line for line in listed(capsys, "losses") if NAME in line]
    assert line.endswith("Logistic loss, as a user would add one")
    known = json.loads("\n".join(listed(capsys, "losses", "--json")))
    assert known["losses"][NAME]["options"] == {"weight": 1.0}
    tiny.write_text(f"{tiny.read_text()}loss: {{name: {NAME}, weight: 2.0}}\n")
    assert main(["run", str(tiny), "train.epochs=1"]) == 0
    (run,) = open_store().find_runs()
    assert (run.params["loss.name"], run.params["loss.weight"]) == (NAME, "2.0")
    assert main(["run", str(tiny), "loss.weigth=2"]) == 2
    assert "did you mean 'loss.weight'" in capsys.readouterr().err.splitlines()[-1]
