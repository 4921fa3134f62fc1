"""Training: repeatable, resumable to the bit, honest about a loss that is no number."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel

from seglab.core.config import RunConfig
from seglab.core.errors import TrainingDiverged, UserError
from seglab.core.registry import MODELS
from seglab.data.open import open_data
from seglab.learning.device import choose_compute, fast_precision
from seglab.learning.inference import validate
from seglab.learning.training import (
    LAST,
    WEIGHTS,
    Progress,
    Trainer,
    fit,
    mean_over_scales,
    set_rate,
    sum_losses,
    train_step,
    update_average,
)
from tests.learning.trainers import Build, figures, same_weights, trainer_of


def train(config: RunConfig, folder: Path | None = None, epochs: int | None = None) -> Trainer:
    """Train so many epochs, on from what a folder holds, and save each there."""
    trainer, data = trainer_of(config)
    if folder is not None:
        trainer.resume(folder)
    for _ in itertools.islice(fit(trainer, data.split.val), epochs):
        if folder is not None:
            trainer.save(folder)
    return trainer


@pytest.mark.parametrize(
    "block",
    [
        {"schedule": {"name": "plateau", "patience": 0}, "train": {"patience": 3}},
        {"schedule": {"name": "one_cycle"}, "train": {"ema": 0.9}},
    ],
)
def test_a_resumed_run_ends_as_an_unbroken_one(
    small_config: Build, tmp_path: Path, block: dict[str, dict[str, object]]
) -> None:
    config = small_config(**block)
    whole = train(config)
    train(config, tmp_path, epochs=1)
    train(config, tmp_path, epochs=1)
    resumed = train(config, tmp_path)
    assert figures(resumed) == figures(whole)
    assert same_weights(whole, resumed)
    first, other = (trainer_of(small_config(**block, seed=x))[0] for x in (0, 1))
    assert not same_weights(first, other)


def test_the_moving_average_is_judged_and_kept_and_changes_no_step(
    small_config: Build, tmp_path: Path
) -> None:
    plain, averaged = (train(small_config(train={"epochs": 2, "ema": x})) for x in (None, 0.9))
    assert same_weights(plain, averaged)
    assert figures(plain) != figures(averaged)
    averaged.save_kept(tmp_path)
    kept = load_file(tmp_path / WEIGHTS)
    wanted = averaged.predictor.network.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in wanted.items())
    assert not all(torch.equal(kept[name], x) for name, x in plain.network.state_dict().items())


def test_soft_targets_are_the_masks_at_full_size_and_shares_below(small_config: Build) -> None:
    """To the bit; with deep supervision, and with masks for val/loss."""

    def config(size: int, soft: bool) -> RunConfig:
        keys = {"epochs": 1, "samples_per_epoch": 24, "soft_targets": soft}
        model = {"deep_supervision": True}
        return small_config(data={"image_size": size}, model=model, train=keys)

    def val_loss(trainer: Trainer, names: Sequence[str]) -> float:
        return validate(trainer.predictor, trainer.cache, names, 0.5, loss=trainer.loss)[1]

    assert same_weights(train(config(64, soft=False)), train(config(64, soft=True)))
    (hard, data), (soft, _) = (trainer_of(config(32, soft=each)) for each in (False, True))
    assert val_loss(soft, data.split.val) == val_loss(hard, data.split.val)
    trained = [next(fit(each, data.split.val))["train/loss"] for each in (hard, soft)]
    assert 0 < trained[0] != trained[1] > 0
    assert not same_weights(hard, soft)


def test_the_average_is_that_of_the_closed_form() -> None:
    """Weights 1, 2, … 40; the share kept is the smaller of 0.8 and (1 + n) / (10 + n)."""
    network = torch.nn.Linear(1, 1)
    average, expected = AveragedModel(network), 1.0
    for step in range(40):
        torch.nn.init.constant_(network.weight, step + 1)
        update_average(average, network, 0.8)
        kept = min(0.8, (1 + step) / (10 + step)) if step else 0
        expected = kept * expected + (1 - kept) * (step + 1)
    assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)


def test_scales_of_deep_supervision_count_half_of_the_finer_one() -> None:
    def loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        assert logits.shape == masks.shape
        return logits.mean()

    masks = torch.zeros(2, 1, 4, 4)
    logits = torch.tensor([3.0, 5.0, 7.0]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    assert mean_over_scales(loss, logits, masks).item() == pytest.approx((3 + 2.5 + 1.75) / 1.75)
    assert mean_over_scales(loss, logits[:, :1], masks).item() == 3


def test_fp16_trains_as_fp32_does_and_takes_up_a_run_of_it(
    small_config: Build, tmp_path: Path
) -> None:
    """With scaled gradients, as on a GPU without bf16; with deep supervision."""
    model = {"deep_supervision": True, "residual": True, "norm": "instance"}
    full, half = (
        small_config(model=model, train={"epochs": 2, "samples_per_epoch": 24, "precision": x})
        for x in ("fp32", "fp16")
    )
    losses = [train(config).progress.history[-1]["train/loss"] for config in (full, half)]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    train(full, tmp_path, epochs=1)
    assert train(half, tmp_path).progress.epoch == 2


def test_a_gpu_without_bf16_computes_in_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    for index, (capability, expected) in enumerate(
        [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((6, 1), "fp32")]
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert fast_precision(torch.device("cuda", 90 + index)) == expected


def test_training_learns(small_config: Build) -> None:
    rows = figures(train(small_config(train={"epochs": 12})))
    assert rows[-1]["train/loss"] < 0.6 * rows[0]["train/loss"]
    assert max(row["val/dice"] for row in rows) > 0.3


def progress_of(*dices: float) -> Progress:
    return Progress([{"epoch": i, "val/dice": dice} for i, dice in enumerate(dices, 1)])


def test_many_small_gains_add_up_to_a_better_epoch() -> None:
    rising = [0.5 + 0.004 * epoch for epoch in range(20)]
    assert max(progress_of(*rising[:n]).waited(0.005) for n in range(1, 21)) == 1
    progress = progress_of(*rising, 0.5, 0.5, 0.5)
    assert progress.waited(0.005) == 1 + 3
    assert progress.best_epoch == 20


def test_an_epoch_without_a_dice_is_no_better_and_the_best_only_where_none_has_one() -> None:
    nan = math.nan
    assert progress_of(nan, 0.3, nan, 0.3).best_epoch == 2
    assert progress_of(nan, nan).best_epoch == 2
    assert [progress_of(*[nan] * n).waited(0) for n in (1, 2, 3)] == [0, 1, 2]


@pytest.mark.parametrize(("keep", "patience"), [("last", None), ("best", None), ("last", 1)])
def test_the_weights_kept_are_those_of_the_epoch_named(
    small_config: Build, tmp_path: Path, keep: str, patience: int | None
) -> None:
    config = small_config(train={"epochs": 6, "keep": keep, "patience": patience})
    trainer, data = trainer_of(config)
    weights = {}
    for _ in fit(trainer, data.split.val):
        trainer.save(tmp_path)
        state = trainer.network.state_dict()
        weights[trainer.progress.epoch] = {key: value.clone() for key, value in state.items()}
    again, _ = trainer_of(config)
    assert again.resume(tmp_path)
    again.load_kept(tmp_path)
    dices = [row["val/dice"] for row in trainer.progress.history]
    takes_best = keep == "best" or len(dices) < 6  # patience stopped it
    expected = 1 + dices.index(max(dices)) if takes_best else len(dices)
    assert again.kept_epoch == expected
    state = again.network.state_dict()
    assert all(torch.equal(state[key], value) for key, value in weights[expected].items())


def test_a_compiled_network_trains_as_an_eager_one(
    small_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def compile_(network: torch.nn.Module, *, dynamic: bool) -> Callable[..., torch.Tensor]:
        return lambda images: (sizes.append(len(images)), network(images))[1]

    monkeypatch.setattr(torch, "compile", compile_)
    block = {"samples_per_epoch": 20, "epochs": 1}
    eager, whole = (train(small_config(train={**block, "compile": x})) for x in (False, True))
    assert sizes == [8, 8]  # the smaller last batch is not worth a second compilation
    assert figures(eager) == figures(whole)
    assert same_weights(eager, whole)


def test_a_machine_that_cannot_compile_says_so(
    small_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(*_: object) -> None:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=no_compiler))
    with pytest.raises(UserError, match=r"train\.compile: .*no C compiler"):
        train(small_config(train={"compile": True}))


def test_a_budget_of_seconds_ends_within_an_epoch_and_anneals_the_rate(small_config: Build) -> None:
    """An epoch that would take many times the budget: what was seen is counted, not planned."""
    config = small_config(
        train={"epochs": 1000, "samples_per_epoch": 10**6, "max_seconds": 1.0},
        schedule={"name": "one_cycle"},
    )
    trainer, data = trainer_of(config)
    (metrics,) = fit(trainer, data.split.val)
    assert trainer.is_over
    assert 8 <= trainer.progress.images < 10**6
    assert metrics["lr"] < config.optim.lr / 2


def test_training_patients_without_tumour_are_refused(small_config: Build) -> None:
    config = small_config(data={"slices": "tumour"})
    data = open_data(config)
    drawn = data.split.train[:2]
    for name in drawn:
        data.cache.by_id[name].tumour_px[:] = 0
    with pytest.raises(UserError, match=r"train\.patients: none of the 2 drawn has tumour"):
        Trainer(config, data.cache, drawn, choose_compute(config.train))


def test_a_loss_that_is_no_number_names_step_and_patients(small_config: Build) -> None:
    trainer, data = trainer_of(small_config())
    whole, steps = trainer.loss, iter(range(10**6))
    trainer.loss = lambda logits, mask: whole(logits, mask) * (1 if next(steps) < 1 else math.inf)
    with pytest.raises(TrainingDiverged, match=r"epoch 1, step 2, in a batch of Phantom_"):
        next(fit(trainer, data.split.val))


def test_of_losses_read_together_the_first_that_is_no_number_is_named(small_config: Build) -> None:
    trainer, _ = trainer_of(small_config())
    values = [1.0, math.nan, 2.0, math.inf]
    unread = [(torch.tensor(value), [f"patient {i}"]) for i, value in enumerate(values)]
    with pytest.raises(TrainingDiverged, match=r"loss is nan at epoch 1, step 8, .* patient 1"):
        sum_losses(trainer, unread, last_step=9)
    assert sum_losses(trainer, [unread[0], unread[2]], last_step=1) == 3.0


@pytest.mark.parametrize("name", [LAST, WEIGHTS])
def test_a_damaged_checkpoint_is_named_and_a_pickle_with_code_not_run(
    small_config: Build, tmp_path: Path, name: str
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "owned",))

    trainer, _ = trainer_of(small_config(train={"keep": "best"}))
    trainer.save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for content in (whole[: len(whole) // 2], pickle.dumps(Evil())):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            trainer.resume(tmp_path) if name == LAST else trainer.load_kept(tmp_path)
    assert not (tmp_path / "owned").exists()


SLOW = [pytest.param(e.name, marks=pytest.mark.slow) for e in MODELS if e.name != "unet"]


def take_a_step(config: RunConfig) -> None:
    """The loss and all gradients are finite, the logits have the mask's shape, weights move."""
    trainer, _ = trainer_of(config)
    trainer.network.train()
    set_rate(trainer, 0)
    before = {name: value.clone() for name, value in trainer.network.named_parameters()}
    batch = next(trainer.batches.epoch(0))
    assert trainer.network(batch.images).shape == batch.masks.shape
    loss = train_step(trainer, batch)
    assert loss.isfinite()
    moved = 0
    for name, value in trainer.network.named_parameters():
        assert value.grad is None or value.grad.isfinite().all(), name
        assert value.isfinite().all(), name
        moved += not torch.equal(value, before[name])
    assert moved > len(before) / 2


@pytest.mark.parametrize("name", [*SLOW, "unet"])
def test_network(name: str, small_config: Build) -> None:
    small = {"base_channels": 4, "depth": 3} if name == "unet" else {}
    take_a_step(small_config(model={"name": name, **small}, train={"batch_size": 2}))


def test_one_image_a_batch_is_refused_before_the_first_step(small_config: Build) -> None:
    upernet = {"name": "smp-upernet"}
    for train in ({"batch_size": 1}, {"batch_size": 4, "samples_per_epoch": 1}):
        with pytest.raises(UserError, match=r"train\.batch_size: model 'smp-upernet'"):
            trainer_of(small_config(model=upernet, train=train))
    take_a_step(small_config(train={"batch_size": 1}))
