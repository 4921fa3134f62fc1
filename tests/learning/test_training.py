"""Training: repeatable, resumable to the bit, honest about a loss that is no number."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel

from seglab.core.config import RunConfig
from seglab.core.errors import TrainingDiverged, UserError
from seglab.data.open import StudyData, open_data
from seglab.learning.device import choose_compute, fast_precision
from seglab.learning.training import (
    LAST,
    WEIGHTS,
    EpochResult,
    Progress,
    Trainer,
    fit,
    mean_over_scales,
    sum_losses,
    update_average,
)

Build = Callable[..., RunConfig]


def trainer_of(config: RunConfig) -> tuple[Trainer, StudyData]:
    data = open_data(config)
    return Trainer(config, data.cache, data.split.train, choose_compute(config.train)), data


def figures(results: list[EpochResult]) -> list[dict[str, float]]:
    return [
        {key: value for key, value in result.metrics.items() if not key.startswith("time/")}
        for result in results
    ]


def train(config: RunConfig, folder: Path | None = None, epochs: int = 99) -> tuple[Trainer, list]:
    trainer, data = trainer_of(config)
    if folder is not None:
        trainer.resume(folder)
    results = []
    for result in fit(trainer, data.split.val):
        results.append(result)
        if folder is not None:
            trainer.save(folder)
        if len(results) == epochs:
            break
    return trainer, results


def same_weights(a: Trainer, b: Trainer) -> bool:
    pairs = zip(a.network.state_dict().values(), b.network.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_the_same_seed_gives_the_same_run(small_config: Build) -> None:
    config = small_config()
    (first, results), (second, again) = train(config), train(config)
    assert figures(results) == figures(again)
    assert same_weights(first, second)
    assert figures(train(small_config(seed=1))[1]) != figures(results)


@pytest.mark.parametrize("schedule", ["plateau", "cosine", "one_cycle", "constant"])
def test_a_resumed_run_ends_as_an_unbroken_one(
    small_config: Build, tmp_path: Path, schedule: str
) -> None:
    block = {"name": schedule, "patience": 0}
    config = small_config(schedule=block, train={"patience": 3, "epochs": 4})
    whole, results = train(config)
    train(config, tmp_path, epochs=1)
    train(config, tmp_path, epochs=2)
    resumed, last = train(config, tmp_path)
    assert figures(last) == figures(results)[-len(last) :]
    assert len(last) == 1
    assert same_weights(whole, resumed)
    without_time = [
        [{k: v for k, v in row.items() if not k.startswith("time/")} for row in t.progress.history]
        for t in (whole, resumed)
    ]
    assert without_time[0] == without_time[1]


def test_the_moving_average_is_judged_kept_and_resumed_to_the_bit(
    small_config: Build, tmp_path: Path
) -> None:
    config = small_config(train={"ema": 0.9, "epochs": 2})
    whole, results = train(config)
    train(config, tmp_path, epochs=1)
    resumed, last = train(config, tmp_path)
    assert figures(last) == figures(results)[1:]
    assert same_weights(whole, resumed)
    whole.save_kept(tmp_path)
    kept = load_file(tmp_path / WEIGHTS)
    averaged = whole.predictor.network.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in averaged.items())
    assert not all(torch.equal(kept[name], one) for name, one in whole.network.state_dict().items())
    plain, others = train(small_config(train={"epochs": 2}))
    assert same_weights(plain, whole), "the average changes no step"
    assert figures(others) != figures(results)


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


def test_deep_supervision_and_half_precision_train(small_config: Build) -> None:
    """fp16 with scaled gradients, as on a GPU without bf16, is near fp32."""
    model = {"deep_supervision": True, "residual": True, "norm": "instance"}
    found = [
        train(small_config(model=model, train={"epochs": 2, "precision": precision}))[1][-1]
        for precision in ("fp32", "fp16")
    ]
    assert found[1].metrics["train/loss"] == pytest.approx(found[0].metrics["train/loss"], rel=0.1)


def test_a_run_in_another_precision_is_resumed_in_fp16(small_config: Build, tmp_path: Path) -> None:
    train(small_config(train={"epochs": 2}), tmp_path, epochs=1)
    _, results = train(small_config(train={"epochs": 2, "precision": "fp16"}), tmp_path)
    assert [result.epoch for result in results] == [2]


def test_a_gpu_without_bf16_computes_in_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    for index, (capability, expected) in enumerate(
        [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((6, 1), "fp32")]
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert fast_precision(torch.device("cuda", 90 + index)) == expected


def test_training_learns(small_config: Build) -> None:
    _, results = train(small_config(train={"epochs": 12}))
    assert results[-1].metrics["train/loss"] < 0.6 * results[0].metrics["train/loss"]
    assert max(r.metrics["val/dice"] for r in results) > 0.3


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


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("patience", [None, 1])
def test_the_weights_kept_are_those_of_the_epoch_named(
    small_config: Build, tmp_path: Path, keep: str, patience: int | None
) -> None:
    config = small_config(train={"epochs": 6, "keep": keep, "patience": patience})
    trainer, data = trainer_of(config)
    weights = {}
    for result in fit(trainer, data.split.val):
        trainer.save(tmp_path)
        state = trainer.network.state_dict()
        weights[result.epoch] = {key: value.clone() for key, value in state.items()}
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
        def run(images: torch.Tensor) -> torch.Tensor:
            sizes.append(len(images))
            return network(images)

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    train_block = {"samples_per_epoch": 20, "epochs": 1}
    eager, results = train(small_config(train=train_block))
    assert sizes == []
    whole, same = train(small_config(train={**train_block, "compile": True}))
    assert sizes == [8, 8]  # the smaller last batch is not worth a second compilation
    assert figures(same) == figures(results)
    assert same_weights(eager, whole)


def test_a_machine_that_cannot_compile_says_so(
    small_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(*_: object) -> None:
        raise RuntimeError("no C compiler")

    compile_ = partial(torch.compile, backend=no_compiler)
    monkeypatch.setattr(torch, "compile", compile_)
    with pytest.raises(UserError, match=r"train\.compile: .*no C compiler"):
        train(small_config(train={"compile": True}))


def test_a_budget_of_seconds_ends_within_an_epoch_and_anneals_the_rate(small_config: Build) -> None:
    """An epoch that would take many times the budget: what was seen is counted, not planned."""
    config = small_config(
        train={"epochs": 1000, "samples_per_epoch": 10**6, "max_seconds": 1.0},
        schedule={"name": "one_cycle"},
    )
    trainer, results = train(config)
    assert [result.is_last for result in results] == [True]
    assert 8 <= trainer.progress.images < 10**6
    assert results[0].metrics["lr"] < config.optim.lr / 2


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
def test_a_damaged_checkpoint_is_named(small_config: Build, tmp_path: Path, name: str) -> None:
    trainer, _ = trainer_of(small_config(train={"keep": "best"}))
    trainer.save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=name):
        trainer.resume(tmp_path) if name == LAST else trainer.load_kept(tmp_path)


def test_a_pickle_with_code_is_not_run(tmp_path: Path, small_config: Build) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "owned",))

    (tmp_path / LAST).write_bytes(pickle.dumps(Evil()))
    trainer, _ = trainer_of(small_config())
    with pytest.raises(UserError, match=LAST):
        trainer.resume(tmp_path)
    assert not (tmp_path / "owned").exists()
