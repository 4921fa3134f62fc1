"""What a user can correct: exit code 2, one line that names the culprit, no traceback."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest

from tests.blackbox.commands import Ended, call, write_files

AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])

MISTAKES = {
    "key": ("run_experiment.py single.yaml trian.epochs=1", "trian train"),
    "loss": ("run_experiment.py single.yaml loss=dicee", "dicee dice"),
    "model": ("run_experiment.py single.yaml model.name=unett", "unett unet"),
    "augmentation": ("run_experiment.py single.yaml augment=miror", "miror mirror"),
    "option of a loss": ("run_experiment.py single.yaml loss.name=dice loss.smoth=1", "smoth"),
    "baseline arm": ("run_experiment.py ablation.yaml baseline=bcee", "bcee bce_dice"),
    "key of an arm": ("run_experiment.py ablation.yaml arms.bce.optim.lrr=1", "lrr bce"),
    "range of epochs": ("run_experiment.py single.yaml train.epochs=0", "train.epochs 0"),
    "fractions": ("run_experiment.py single.yaml split.fractions=[1,1,1]", "fractions 3"),
    "a seed twice": ("run_experiment.py ablation.yaml seeds=[0,0]", "seeds 0"),
    "no YAML": ("run_experiment.py broken.yaml", "broken.yaml"),
    "key of a space": ("sweep.py sweep.yaml search.space.optim.lrr.low=1 "
                       "search.space.optim.lrr.high=2", "optim.lrr"),
    "value": ("run_experiment.py single.yaml train.epochs=soon", "train.epochs soon"),
    "source": ("run_experiment.py single.yaml data.source=brats", "brats brats-h5"),
    "channel": ("run_experiment.py single.yaml data.channel=4", "data.channel 4"),
    "modality": ("run_experiment.py single.yaml data.modalities=[flare]", "modalities flare flair"),
    "no value": ("run_experiment.py single.yaml nonsense", "nonsense"),
    "empty root": ("run_experiment.py single.yaml data.root=empty", "empty"),
    "absent root of a search": ("sweep.py sweep.yaml data.root=nowhere", "nowhere"),
    "absent root": ("run_experiment.py single.yaml data.root=nowhere", "nowhere"),
    "too few patients": ("run_experiment.py single.yaml data.root=two", "two 2 3"),
    "files of another source": ("seglab data prepare --source brats-nifti --root two", "two"),
    "patients of a phantom": ("seglab data phantom --out x --patients 0", "patients 0"),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the experiment files, an empty data set and one of two patients."""
    folder = tmp_path_factory.mktemp("mistakes")
    write_files(folder, phantoms)
    (folder / "broken.yaml").write_text("name: [broken\n")
    for name in ("empty", "two"):
        (folder / name).mkdir()
    for path in phantoms.rglob("volume_[12]_slice_*.h5"):
        shutil.copy(path, folder / "two")
    return folder


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_line_and_leaves_nothing(place: Path, mistake: str) -> None:
    line, words = MISTAKES[mistake]
    before = sorted(place.rglob("*"))
    ended = call(place, *line.split()).refused(*words.split(), lines=1)
    assert ended.out == ""
    assert sorted(place.rglob("*")) == before


def write_nifti(phantoms: Path, out: Path, volumes: int) -> None:
    """Write the FLAIR and the labels 1, 2, 4 of some phantoms as BraTS volumes."""
    (folder,) = {path.parent for path in phantoms.rglob("volume_1_slice_*.h5")}
    for number in range(1, volumes + 1):
        stack = [h5py.File(folder / f"volume_{number}_slice_{index}.h5") for index in range(12)]
        flair = np.stack([file["image"][..., 0] for file in stack], -1)
        planes = np.stack([file["mask"][...] for file in stack], -2)
        grey = np.round(200 * (flair - flair.min((0, 1)))).astype(np.int16)
        write_patient(out, number, grey, (planes @ np.array([1, 2, 4])).astype(np.uint8))


def write_patient(out: Path, number: int, flair: np.ndarray, labels: np.ndarray) -> None:
    folder = out / f"BraTS20_Training_{number:03d}"
    folder.mkdir(parents=True)
    for part, values in (("flair", flair), ("seg", labels)):
        volume(values)(folder / f"{folder.name}_{part}.nii.gz")


@pytest.fixture(scope="module")
def sound(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sound set of each format."""
    folder = tmp_path_factory.mktemp("sound")
    write_nifti(phantoms, folder / "nifti", 4)
    return {"brats-h5": phantoms, "brats-nifti": folder / "nifti"}


Spoil = Callable[[Path], object]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(path: Path) -> None:
    path.write_text("no")


def dataset(name: str, values: np.ndarray | None) -> Spoil:
    """Put other values, or none, in the place of an h5 slice's image or mask."""

    def spoil(path: Path) -> None:
        with h5py.File(path, "a") as file:
            del file[name]
            if values is not None:
                file[name] = values

    return spoil


def volume(values: np.ndarray) -> Spoil:
    return lambda path: nib.save(nib.Nifti1Image(values, AFFINE), path)


VOLUME = (64, 64, 12)
NAN = np.full(VOLUME, np.nan, np.float32)
H5, FLAIR, SEG = "volume_4_slice_5.h5", "BraTS20_Training_002_flair", "BraTS20_Training_002_seg"
DAMAGED: dict[str, tuple[str, Spoil]] = {
    "truncated h5": (H5, truncate),
    "text as h5": (H5, text),
    "h5 without mask": (H5, dataset("mask", None)),
    "h5 with NaN": (H5, dataset("image", np.full((64, 64, 4), np.nan))),
    "h5 mask of another shape": (H5, dataset("mask", np.zeros((32, 64, 3), np.uint8))),
    "h5 image of three channels": (H5, dataset("image", np.zeros((64, 64, 3)))),
    "truncated NIfTI": (FLAIR, truncate),
    "text as NIfTI": (FLAIR, text),
    "NIfTI with NaN": (FLAIR, volume(NAN)),
    "NIfTI mask of another shape": (SEG, volume(np.zeros((64, 64, 9), np.uint8))),
    "NIfTI mask of label 77": (SEG, volume(np.full(VOLUME, 77, np.uint8))),
    "NIfTI without mask": (SEG, Path.unlink),
}
SKIPPED = {"truncated h5": 8 * 12, "truncated NIfTI": 3 * 12}
"""Slices that are left where the damaged patient may be skipped."""


def copy_of(sets: Mapping[str, Path], name: str, out: Path, spoil: Spoil) -> str:
    """Copy the set that has files of this name, and spoil those; returns its source."""
    source = "brats-h5" if name.endswith(".h5") else "brats-nifti"
    shutil.copytree(sets[source], out)
    for path in out.rglob(name if source == "brats-h5" else f"{name}.nii.gz"):
        spoil(path)
    return source


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_named_by_prepare_and_check(
    sound: dict[str, Path], tmp_path: Path, damage: str
) -> None:
    name, spoil = DAMAGED[damage]
    source = copy_of(sound, name, tmp_path / "set", spoil)
    of_set = ("--source", source, "--root", "set", "--json")
    assert call(tmp_path, "seglab", "data", "prepare", *of_set).refused(name).out == ""
    checked = call(tmp_path, "seglab", "data", "check", *of_set)
    assert checked.status == 2
    assert "Traceback" not in checked.err
    told = checked.json
    named = [bad["file"] + bad["reason"] for bad in told["bad_files"]] + told["missing_files"]
    assert any(name in text for text in named)
    if damage in SKIPPED:
        skipped = call(tmp_path, "seglab", "data", "prepare", *of_set, "--on-bad-file", "skip")
        assert skipped.good().json["slices"] == SKIPPED[damage]


def train(folder: Path, source: str) -> Ended:
    write_files(folder, folder / "set")
    return call(folder, "run_experiment.py", "single.yaml", f"data.source={source}")


def without_tumour(path: Path) -> None:
    volume(np.zeros(nib.load(path).shape, np.uint8))(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "spoil", "word"), [(H5, truncate, H5), ("*_seg", without_tumour, "tumour")]
)
def test_training_tells_what_it_cannot_be_done_on(
    sound: dict[str, Path], tmp_path: Path, name: str, spoil: Spoil, word: str
) -> None:
    train(tmp_path, copy_of(sound, name, tmp_path / "set", spoil)).refused(word)


@pytest.mark.slow
def test_copies_of_one_head_without_tumour_are_told(tmp_path: Path) -> None:
    stream, shape = np.random.default_rng(0), (72, 72, 24)
    y, x, z = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    head = (x / 0.8) ** 2 + (y / 0.9) ** 2 + (z / 1.1) ** 2 < 1
    for number in range(8):
        grey = np.where(head, 300 + 40 * stream.standard_normal(shape), 0).astype(np.int16)
        write_patient(tmp_path / "set", number, grey, np.zeros(shape, np.uint8))
    train(tmp_path, "brats-nifti").refused()


@pytest.fixture
def offered(phantoms: Path, tmp_path: Path) -> Path:
    """A sound scan, and beside it what cannot be predicted: all in ``bad``."""
    write_nifti(phantoms, tmp_path / "scan", 1)
    (scan,) = tmp_path.rglob("*_flair.nii.gz")
    (mask,) = tmp_path.rglob("*_seg.nii.gz")
    bad = tmp_path / "bad"
    (bad / "empty").mkdir(parents=True)
    for name in ("text.nii.gz", "notes.txt"):
        text(bad / name)
    (bad / "short_flair.nii.gz").write_bytes(scan.read_bytes()[:2000])
    mask.rename(bad / "labels.nii.gz")
    volume(NAN)(bad / "nan_flair.nii.gz")
    volume(np.zeros(VOLUME, np.int16))(bad / "black_flair.nii.gz")
    volume(np.zeros((*VOLUME, 3), np.int16))(bad / "four_flair.nii.gz")
    return tmp_path


@pytest.mark.slow
def test_predict_names_what_it_cannot_and_does_the_rest(phantoms: Path, offered: Path) -> None:
    write_files(offered, phantoms)
    trained = call(offered, "run_experiment.py", "single.yaml", "train.epochs=1", "--json")
    run_id = trained.good().json["runs"][0]["run_id"]
    bad = [*sorted((offered / "bad").iterdir()), offered / "absent.nii"]
    (scan,) = (offered / "scan").rglob("*.nii.gz")
    inputs, out = [str(path) for path in (*bad, scan)], str(offered / "masks")
    ended = call(offered, "seglab", "predict", run_id, *inputs, "--out", out, "--json")
    assert ended.status == 2
    assert "Traceback" not in ended.err
    assert [Path(one["input"]).name for one in ended.json["outputs"]] == [scan.name]
    failed = {Path(one["input"]).name: one["reason"] for one in ended.json["failed"]}
    assert failed.keys() == {path.name for path in bad}
    assert all(failed.values())
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(bad)
    assert all(any(path.name in line for line in errors) for path in bad)
