"""Experiment files resolved: configs, arms, seeds, searches, and every mistake named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from seglab.core.config import MODALITIES, without_local
from seglab.core.errors import UserError
from seglab.core.study import Study, load_study, resolve_study

DATA = "data: {source: brats-h5, root: somewhere}\n"


def load(tmp_path: Path, text: str, *overrides: str, arms: tuple[str, ...] = ()) -> Study:
    path = tmp_path / "study.yaml"
    path.write_text(DATA + text, encoding="utf-8")
    return load_study(path, overrides, arms)


def test_a_resolved_config_is_itself_a_runnable_file(tmp_path: Path) -> None:
    study = load(tmp_path, "loss: {name: tversky, alpha: 0.6}\ntrain: {epochs: 3}")
    again = resolve_study(yaml.safe_load(yaml.safe_dump(study.run.to_dict())))
    assert again.run == study.run
    assert again.run.hash() == study.run.hash()


def test_the_hash_follows_the_meaning_and_not_the_machine(tmp_path: Path) -> None:
    base = load(tmp_path, "").run.hash()
    paths = [f"data.{key}=/elsewhere" for key in ("root", "cache", "persons")]
    assert load(tmp_path, "", *paths, "train.threads=3", "name=x").run.hash() == base
    for change in ("optim.lr=0.5", "loss=dice", "seed=1", "split.seed=4", "model.depth=3"):
        assert load(tmp_path, "", change).run.hash() != base


def test_keys_that_came_later_leave_older_configs_their_hash(tmp_path: Path) -> None:
    assert load(tmp_path, "name: x").run.hash() == "04f0b3193659"  # before the keys below
    plain = load(
        tmp_path, "name: x", "model.residual=false", "train.ema=null", "train.soft_targets=false"
    ).run
    assert plain.hash() == "04f0b3193659"
    changes = ("model.residual=true", "model.activation=leaky_relu", "train.ema=0.99")
    for change in (*changes, "train.soft_targets=true"):
        assert load(tmp_path, "name: x", change).run.hash() != plain.hash()
    with pytest.raises(UserError, match=r"train\.ema: 1\.0 is not allowed"):
        load(tmp_path, "", "train.ema=1.0")


def test_losses_of_masks_take_no_shares(tmp_path: Path) -> None:
    text = "train: {soft_targets: true}\narms: {a: {}, b: {loss: focal}}"
    with pytest.raises(
        UserError, match=r"^arms\.b: train\.soft_targets: .*name=focal .*: bce, bce_d"
    ):
        load(tmp_path, text)
    assert len(load(tmp_path, text, "arms.b.loss=mcc").arms) == 2


def test_a_root_in_the_home_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    study = load(tmp_path, "", "data.root=~/brats")
    assert study.run.data.root == tmp_path / "home" / "brats"


def test_a_channel_of_an_older_config_becomes_its_modality(tmp_path: Path) -> None:
    def read(source: str, channel: str) -> tuple[str, ...]:
        overrides = (f"data.source={source}", f"data.channel={channel}")
        return load(tmp_path, "", *overrides).run.data.modalities

    assert [read("brats-h5", str(number))[0] for number in range(4)] == list(MODALITIES)
    assert [read("lgg-tif", str(number))[0] for number in range(3)] == ["t1", "flair", "t1ce"]
    assert read("brats-nifti", "null") == ("flair",)
    assert "channel" not in load(tmp_path, "", "data.channel=1").run.to_dict()["data"]


def test_modalities_with_their_neighbours_are_the_channels_of_the_network(tmp_path: Path) -> None:
    assert load(tmp_path, "", "data.modalities=t1ce").run.data.modalities == ("t1ce",)
    both = load(tmp_path, "", "data.modalities=[t1ce, flair]", "data.context=2").run
    assert both.data.modalities == ("t1ce", "flair")
    assert both.input_channels == 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data.modalities=[flair, t1c]", r"data\.modalities\.1: 't1c' is not allowed.*'t1ce'"),
        ("data.modalities=[]", r"data\.modalities: .*at least 1"),
        ("data.modalities=[t1, t2, t1]", r"data\.modalities: .*t1 is named twice"),
        ("data.target=tumour", r"data\.target: 'tumour' .*'whole', 'core' or 'enhancing'"),
        ("data.labels=brats2020", r"data\.labels: .*did you mean 'brats20"),
        ("data.channel=4", r"data\.channel: 4 .*data\.modalities .*2 is \[t1ce\]"),
        ("data={channel: 1, modalities: flair}", r"data\.channel: 1 .*took its place"),
        ("loss: dicee", r"loss\.name: unknown loss 'dicee' \(did you mean 'dice'\?\).*bce_dice"),
        ("augment: {name: flipps}", r"augment\.name.*did you mean 'flips'"),
        (
            "loss: {name: dice, smoth: 1}",
            r"unknown key 'loss\.smoth' \(did you mean 'loss\.smooth'",
        ),
        ("trian: {}", r"unknown key 'trian' \(did you mean 'train'\?\).*: arms, .*base, "),
        ("tune: {space: {optim.lr: {low: 1, high: 2}}}", r"^tune: needs two or more 'arms'"),
        ("train: {epoch: 1}", r"unknown key 'train\.epoch' \(did you mean 'train\.epochs'\?\)"),
        ("epochs: 2", r"unknown key 'epochs' \(did you mean 'train\.epochs'\?\)"),
        ("train: {epochs: many}", r"train\.epochs: 'many' is not allowed.*integer"),
        ("train: {epochs: 0}", r"train\.epochs: 0 is not allowed.*greater than or equal to 1"),
        ("optim: {name: adamv}", r"optim\.name: 'adamv'.*did you mean 'adam"),
        ("train: 3", r"train: 3 is not allowed: it is a block of keys: batch_size, .*epochs"),
        ("optim: sgd", r"optim: 'sgd' is not allowed.*optim\.name is one of: adamw, adam, sgd"),
        ("loss: [dice, bce]", r"loss: .* it is a name, or a block of a name and its options"),
        ("name: a/b", r"name: 'a/b' is not allowed: a name is made of letters, digits"),
        ("train: {device: gpu}", r"train\.device: 'gpu' is not allowed: .*auto\|cpu\|mps\|cuda"),
        ("split: {fractions: [0.8, 0.2]}", r"split\.fractions: too few values: \[0\.8, 0\.2\]"),
        ("split: {fractions: 0.7}", r"split\.fractions: 0\.7 is not allowed: it is a list"),
        ("seedz: [1]", r"unknown key 'seedz' \(did you mean 'seed'\?\).*arms, .*seeds, .*train"),
        ("split: {fractions: [1, 1, 1]}", "^split: fractions must add up to 1, these give 3$"),
        ("split: {folds: 3, fold: 3}", "fold 3 does not exist"),
        ("seeds: [0, 0]", "seeds: 0 is given twice"),
        ("seeds: []", "seeds: .* at least one"),
        ("seeds: [a]", "seeds: .* is not a list of whole numbers"),
        ("margin: 1", "margin: 1 is not a difference of Dice between 0 and 1"),
        ("arms: {}", "arms: expected"),
        ("arms: {a: {}, b: {loss: bce_dice}}", "arms.b is the same config as arms.a"),
        ("arms: {a: {}, b: {los: bce}}", r"arms\.b: unknown key 'los' \(did you mean 'loss'"),
        ("arms: {a: {}, b: {seed: 3}}", r"arms\.b: 'seed' is the study's"),
        ("arms: {a: {}, b: {loss: bce}}\nbaseline: c", "unknown baseline arm 'c'.*a, b"),
        ("train: {epochs: yes}", r"train: .*epochs: true is not a number"),
        ("optim: {grad_clip: .inf}", r"optim\.grad_clip: inf is not allowed"),
        ("loss: {name: tversky, alpha: .nan}", r"loss\.alpha: nan is not allowed"),
        ("search: {space: {}}", "search.space"),
        ("search: {space: {optm.lr: {low: 1, high: 2}}}", r"unknown key 'optm\.lr'.*optim\.lr"),
        (
            "search: {space: {optim: {lr: {lo: 1, high: 2}}}}",
            r"'search\.space\.optim\.lr\.lo' \(did you mean '.*\.low'\?\).*: choices, high, .*when",
        ),
        (
            "search: {space: {optim: {lr: 5}}}",
            r"^search\.space\.optim\.lr: 5 is not allowed: it is a block of keys: choices, high",
        ),
        (
            "storage: mysql://host/db",
            r"^storage: it is an address postgresql\+psycopg://HOST/DATAB",
        ),
        (
            "search: {storage: 'postgresql://me:word@host/db', space: {optim.lr: {choices: [1]}}}",
            r"^search\.storage: it is an address [^ ]*//HOST/DATABASE, or null: this machine$",
        ),
        ("search: {trials: 0, space: {optim.lr: {low: 1, high: 2}}}", r"search\.trials: 0"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    given = ("", text) if text.startswith("data") else (text,)
    with pytest.raises(UserError, match=said) as caught:
        load(tmp_path, *given)
    assert "\n" not in str(caught.value)


def test_arms_inherit_the_file_and_differ_where_they_say(tmp_path: Path) -> None:
    study = load(tmp_path, "train: {epochs: 2}\narms: {a: {}, b: {loss: bce}}\nseeds: [3, 4]")
    assert study.is_ablation
    assert study.baseline == "a"
    assert {arm: c.loss.name for arm, c in study.arms.items()} == {"a": "bce_dice", "b": "bce"}
    assert all(config.train.epochs == 2 for config in study.arms.values())


def test_an_override_reaches_every_arm_but_yields_to_what_an_arm_says(tmp_path: Path) -> None:
    text = "arms: {a: {}, b: {optim: {lr: 0.5}}}"
    study = load(tmp_path, text, "optim.lr=0.25", "train.epochs=1")
    assert (study.arms["a"].optim.lr, study.arms["b"].optim.lr) == (0.25, 0.5)
    assert {config.train.epochs for config in study.arms.values()} == {1}


def test_null_is_no_confirmation(tmp_path: Path) -> None:
    text = "search: {space: {optim.lr: {low: 1.e-4, high: 1.e-2}}}"
    tops = [load(tmp_path, text, *more).search for more in ((), ("search.confirm=null",))]
    assert [search and search.confirm.top for search in tops] == [2, 0]


ARMS = "arms: {a: {}, b: {loss: bce}, c: {loss: dice}}\nbaseline: b"


def test_some_arms_are_chosen_or_taken_out(tmp_path: Path) -> None:
    chosen = load(tmp_path, ARMS, arms=("c", "b"))
    assert (list(chosen.arms), chosen.baseline) == (["c", "b"], "b")
    assert load(tmp_path, ARMS, arms=("c", "a")).baseline == "c"
    without = load(tmp_path, ARMS, "arms.b=null")
    assert (list(without.arms), without.baseline) == (["a", "c"], "a")
    single = load(tmp_path, ARMS, arms=("c",))
    assert single.is_ablation, "it shares the runs of the whole ablation"
    for overrides, arms in ((), ("d",)), (("arms.d=null",), ()):
        with pytest.raises(UserError, match="unknown arm 'd'; choose one of: a, b, c"):
            load(tmp_path, ARMS, *overrides, arms=arms)


def test_a_redrawn_split_has_a_hash_of_its_own_and_others_keep_theirs(tmp_path: Path) -> None:
    base = load(tmp_path, "").run
    assert load(tmp_path, "", "split.redraw=0").run.hash() == base.hash()
    assert load(tmp_path, "", "split.redraw=1").run.hash() != base.hash()
    assert "redraw" not in without_local(base)["split"]
    with pytest.raises(UserError, match="with folds every patient"):
        load(tmp_path, "", "split.redraw=1", "split.folds=3")


def test_arms_that_are_numbers_can_be_the_baseline(tmp_path: Path) -> None:
    study = load(tmp_path, "arms: {96: {}, 128: {data: {image_size: 96}}}\nbaseline: 128")
    assert study.baseline == "128"


def test_the_input_arms_are_what_they_are_called() -> None:
    folder = Path(__file__).resolve().parents[2] / "experiments"
    arms = load_study(folder / "input.yaml").arms
    for name, config in arms.items():
        size = int(name.removeprefix("size_")) if name.startswith("size_") else 128
        assert config.data.image_size == size
        assert config.train.tumour_fraction == (0.5 if name == "half_tumour" else None)
