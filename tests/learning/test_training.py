"""Training: repeatable, resumable to the bit, honest about a loss that is no number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seglab.core.config import RunConfig
from seglab.core.errors import TrainingDiverged, UserError
from seglab.core.registry import LOSSES
from seglab.learning.checkpoint import load_state, random_state, save_state, set_random_state
from seglab.learning.device import choose_compute
from seglab.learning.training import BEST, LAST, EpochResult, Trainer, _advance, fit
from seglab.studies.data import StudyData, open_data

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
            trainer.save(folder, is_best=result.is_best)
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


@pytest.mark.parametrize("is_from_gpu", [True, False])
def test_the_generator_of_a_gpu_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_from_gpu: bool
) -> None:
    # torch.cuda's two functions, with a generator of the processor in the place of the GPU's.
    generator, gpu = torch.Generator(), torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _: generator.get_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, _: generator.set_state(state))
    save_state(tmp_path / LAST, random_state(gpu if is_from_gpu else torch.device("cpu")))
    here, there = torch.rand(5), torch.rand(5, generator=generator)
    state = load_state(tmp_path / LAST)
    assert state is not None
    set_random_state(state, gpu)
    assert torch.equal(torch.rand(5), here)
    assert torch.equal(torch.rand(5, generator=generator), there) == is_from_gpu


def test_training_learns(small_config: Build) -> None:
    _, results = train(small_config(train={"epochs": 12}))
    assert results[-1].metrics["train/loss"] < 0.6 * results[0].metrics["train/loss"]
    assert max(r.metrics["val/dice"] for r in results) > 0.3


def test_early_stopping_waits_for_patience_and_no_longer(small_config: Build) -> None:
    # No epoch can be better by 2: the first counts as best, then patience runs out.
    _, results = train(small_config(train={"epochs": 9, "patience": 2, "min_delta": 2.0}))
    assert [r.is_last for r in results] == [False, False, True]


def test_many_small_gains_add_up_to_a_better_epoch(small_config: Build) -> None:
    trainer, _ = trainer_of(small_config(train={"epochs": 50, "patience": 3, "min_delta": 0.005}))
    for epoch in range(20):
        _advance(trainer, {"val/dice": 0.5 + 0.004 * epoch})
    assert not trainer.progress.stopped
    for _ in range(3):
        _advance(trainer, {"val/dice": 0.5})
    assert trainer.progress.stopped
    assert trainer.progress.best_epoch == 20


def test_the_best_weights_are_those_of_the_best_epoch(small_config: Build, tmp_path: Path) -> None:
    config = small_config(train={"epochs": 5})
    trainer, data = trainer_of(config)
    best = {}
    for result in fit(trainer, data.split.val):
        trainer.save(tmp_path, is_best=result.is_best)
        if result.is_best:
            best = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    trainer.load_best(tmp_path)
    assert all(torch.equal(v, best[k]) for k, v in trainer.network.state_dict().items())
    dices = [row["val/dice"] for row in trainer.progress.history]
    assert trainer.progress.best_epoch == 1 + dices.index(max(dices))


def test_seconds_can_be_the_budget(small_config: Build) -> None:
    _, results = train(small_config(train={"epochs": 500, "max_seconds": 0.01}))
    assert len(results) == 1
    assert results[0].is_last


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


def test_a_loss_that_is_no_number_names_step_and_patients(small_config: Build) -> None:
    if "explodes" not in LOSSES:

        @LOSSES.register("explodes")
        def explodes(*, after: int = 1) -> Callable[..., torch.Tensor]:
            """Is infinite after some steps."""
            steps = iter(range(10**6))

            def loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
                return logits.mean() * (float("inf") if next(steps) >= after else 1.0)

            return loss

    with pytest.raises(TrainingDiverged, match=r"epoch 1, step 2, in a batch of BraTS20_Training"):
        train(small_config(loss={"name": "explodes"}))


@pytest.mark.parametrize("name", [LAST, BEST])
def test_a_damaged_checkpoint_is_named(small_config: Build, tmp_path: Path, name: str) -> None:
    trainer, _ = trainer_of(small_config())
    trainer.save(tmp_path, is_best=True)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=name):
        trainer.resume(tmp_path) if name == LAST else trainer.load_best(tmp_path)


def test_weights_of_another_network_are_refused(small_config: Build, tmp_path: Path) -> None:
    trainer, _ = trainer_of(small_config())
    trainer.save(tmp_path, is_best=True)
    other, _ = trainer_of(small_config(model={"base_channels": 8}))
    with pytest.raises(UserError, match="another network"):
        other.load_best(tmp_path)


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


def test_an_absent_gpu_is_refused(small_config: Build) -> None:
    if torch.cuda.device_count() > 7:
        pytest.skip("this machine has it")
    with pytest.raises(UserError, match=r"train\.device: cuda:7"):
        choose_compute(small_config(train={"device": "cuda:7"}).train)
