"""The configuration of one training run: frozen, typed, hashed.

Paths and other keys of one machine are marked ``local`` and stay out of the hash, so that an
experiment has the same hash on every machine.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator

from seglab.core.blocks import Block, Component, Fraction, PositiveInt, Seed
from seglab.core.documents import digest
from seglab.core.errors import UserError
from seglab.core.registry import AUGMENTATIONS, LOSSES, MODELS, SOURCES

LOCAL = {"local": True}
UNSET = {"unset": True}
"""Of a key that is in the hash only where it is given, so that older configs keep their hash."""

Modality = Literal["flair", "t1", "t1ce", "t2"]
MODALITIES: tuple[Modality, ...] = ("flair", "t1", "t1ce", "t2")
"""All that a source may hold, in the order of the files of BraTS."""
Target = Literal["whole", "core", "enhancing"]
Plane = Literal["axial", "coronal", "sagittal"]
LabelConvention = Literal["auto", "brats2017", "brats2012", "brats2023", "brats2024", "binary"]
CHANNELS: dict[str, tuple[Modality, ...]] = {
    "brats-h5": MODALITIES,
    "brats-nifti": MODALITIES,
    "lgg-tif": ("t1", "flair", "t1ce"),
}
"""What the numbers of ``data.channel`` meant, a key of earlier versions."""
_NAME = re.compile(r"\w[\w .-]{0,99}")


class Model(Component):
    """A network of the model registry."""

    registry, default = MODELS, "unet"
    planes: Annotated[tuple[Plane, ...] | None, Field(json_schema_extra=UNSET)] = None
    """Train on slices of all these, axial first, and average the probabilities; None: one plane."""

    @field_validator("planes")
    @classmethod
    def _axial_and_others(cls, planes: tuple[Plane, ...] | None) -> tuple[Plane, ...] | None:
        if planes is None or (planes[:1] == ("axial",) and 1 < len(planes) == len({*planes})):
            return planes
        raise ValueError("axial comes first, then coronal, sagittal or both, once each")


class Loss(Component):
    """A loss of the loss registry."""

    registry, default = LOSSES, "bce_dice"
    of_shares: ClassVar = ("bce", "bce_dice", "dice", "focal_tversky", "jaccard", "mcc", "tversky")
    """For ``train.soft_targets``: linear in the mask, or in its counts of pixels; their value of
    shares is that of the native mask."""


class Augment(Component):
    """A pipeline of the augmentation registry."""

    registry, default = AUGMENTATIONS, "default"


class Data(Block):
    """Which files, and how they become uint8 slices."""

    source: str
    """Kind of files; ``python -m seglab list sources``."""
    root: Annotated[Path, Field(json_schema_extra=LOCAL), AfterValidator(Path.expanduser)]
    """Folder of the files; ``~`` is the user's home."""
    modalities: Annotated[tuple[Modality, ...], Field(min_length=1)] = ("flair",)
    """Input of the network, in this order; the first one is what pictures show."""
    target: Target = "whole"
    """What is segmented: all tumour, its core (without oedema), or the enhancing part."""
    labels: LabelConvention = "auto"
    """What the numbers in the segmentations mean; ``auto`` tells by values and file names."""
    require: tuple[Modality, ...] = ()
    """Use only patients that have these modalities too, to compare runs on the same patients."""
    persons: Annotated[
        Annotated[Path, AfterValidator(Path.expanduser)] | None, Field(json_schema_extra=LOCAL)
    ] = None
    """CSV with the columns ``patient``, ``person`` (who is one) and perhaps ``site``."""
    image_size: Annotated[int, Field(ge=32, le=1024)] = 128
    """Pixels along the whole (square) frame; sets the scale, cropped or not."""
    crop: Literal["brain", "none"] = "brain"
    """``brain`` drops the background around the brain; no brain or mask pixel is lost."""
    normalise: Literal["zscore", "robust", "percentile", "histogram"] = "zscore"
    """Grey values of the brain: by mean and SD, median and MAD, percentiles, or deciles mapped
    to those of a normal distribution (Nyúl)."""
    normalise_scope: Literal["auto", "slice", "volume"] = "auto"
    """``auto``: per volume where the files keep its scale, per slice where they do not."""
    plane: Annotated[Plane, Field(json_schema_extra=UNSET)] = "axial"
    """Of the slices that the network sees; masks and scores are of the files' own slices."""
    context: Annotated[int, Field(ge=0, le=3)] = 0
    """Neighbouring slices on each side given as extra channels (2.5-D)."""
    slices: Literal["all", "brain", "tumour"] = "brain"
    """Slices trained on; validation always scores every slice."""
    patients: Annotated[int, Field(ge=3)] | None = None
    """Use only the first so many patients (a quick look)."""
    on_bad_file: Literal["fail", "skip"] = "fail"
    """What a damaged file does."""
    cache: Annotated[Path, Field(json_schema_extra=LOCAL)] = Path(".cache")
    """Folder of the packed slices."""
    workers: Annotated[int, Field(ge=0, json_schema_extra=LOCAL)] = 0
    """Processes that fill the cache; 0 takes one a core."""

    @model_validator(mode="before")
    @classmethod
    def _channel_is_a_modality(cls, given: Any) -> Any:
        """Take ``channel``, a key of earlier versions, for the modality that it meant."""
        if not isinstance(given, dict) or "channel" not in given:
            return given
        rest = {key: value for key, value in given.items() if key != "channel"}
        channel, names = given["channel"], CHANNELS.get(str(given.get("source")), ())
        if channel is None:
            return rest
        if "modalities" in given or channel not in range(len(names)):
            known = ", ".join(f"{number} is [{name}]" for number, name in enumerate(names))
            raise UserError(
                f"data.channel: {channel!r} is not allowed: data.modalities took its place"
                + (f" ({known})" if known else "")
            )
        return {**rest, "modalities": [names[channel]]}

    @field_validator("modalities", "require", mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        """Take ``flair+t1ce``, as a search writes it, for a list."""
        return given.split("+") if isinstance(given, str) else given

    @field_validator("modalities", "require")
    @classmethod
    def _none_twice(cls, names: tuple[Modality, ...]) -> tuple[Modality, ...]:
        twice = [name for name in MODALITIES if names.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is named twice")
        return names

    @field_validator("source")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            return SOURCES[name].name
        except UserError as error:
            raise UserError(f"data.source: {error}") from None


class Split(Block):
    """How patients are divided."""

    seed: Seed = 0
    """Of the draw of patients; the seeds of training are another matter."""
    fractions: tuple[Fraction, Fraction, Fraction] = (0.70, 0.15, 0.15)
    """Shares of patients to train on, to validate on, and in the sealed test."""
    folds: Annotated[int, Field(ge=2, le=20)] | None = None
    """k-fold validation over train+validation; None keeps one validation part."""
    by: Annotated[Literal["patient", "site"], Field(json_schema_extra=UNSET)] = "patient"
    """``site``: no fold trains on a site that it validates on (``folds`` = sites: one left out)."""
    fold: Annotated[int, Field(ge=0)] = 0
    """Run only this fold; an ablation runs all of them where it is not given."""
    redraw: Annotated[int, Field(ge=0, json_schema_extra=UNSET)] = 0
    """Above 0: other validation patients, drawn from the training part; the former train."""

    @model_validator(mode="after")
    def _adds_up(self) -> Split:
        if abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"fractions must add up to 1, these give {sum(self.fractions):g}")
        if self.fractions[0] == 0 or self.fractions[1] == 0:
            raise ValueError("the training and the validation share must be above 0")
        if self.fold >= (self.folds or 1):
            raise ValueError(f"fold {self.fold} does not exist: there are {self.folds or 1}")
        if self.by == "site" and not self.folds:
            raise ValueError("by: site makes folds: set folds, at most the number of sites")
        if self.folds and self.redraw:
            raise ValueError("redraw: with folds every patient is validated on")
        return self


class Optim(Block):
    """The optimizer."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """Rule of the step."""
    lr: Annotated[float, Field(gt=0, le=10)] = 2e-3
    """Learning rate at its highest."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Pull of the weights towards 0; norms and biases are spared."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD (Nesterov)."""
    grad_clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of the gradient; None does not clip."""


class Schedule(Block):
    """How the learning rate moves."""

    name: Literal["constant", "plateau", "cosine", "one_cycle"] = "cosine"
    """Course of the learning rate over the training."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    """Linear warm-up of ``constant`` and ``cosine``."""
    final_lr_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the rate at its lowest; ``constant`` has none."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of ``plateau``: the step down."""
    patience: Annotated[int, Field(ge=0)] = 3
    """Of ``plateau``: epochs without a better val/dice before a step down."""


class Train(Block):
    """The loop."""

    epochs: PositiveInt = 14
    """Rounds of training, each followed by a validation."""
    batch_size: PositiveInt = 16
    """Slices a step."""
    samples_per_epoch: PositiveInt | None = None
    """Slices drawn per epoch; None draws each slice once."""
    patients: Annotated[int | None, Field(ge=1, json_schema_extra=UNSET)] = None
    """Train on so many of the training patients, drawn by ``seed``; None takes all."""
    tumour_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of tumour slices among those drawn (oversampling); None keeps their own."""
    patience: PositiveInt | None = None
    """Epochs without a better val/dice before the run stops early; None never stops."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """How much better counts as better."""
    keep: Literal["last", "best"] = "last"
    """Weights that are judged and kept: of the last epoch, or of the best val/dice of all, which
    is optimistic on the patients it was chosen on. Where ``patience`` stopped a run, the best."""
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    """Training time after which no further step is taken (equal-seconds budgets)."""
    ema: Annotated[float | None, Field(gt=0, lt=1, json_schema_extra=UNSET)] = None
    """Judge and keep the weights' exponential moving average, which keeps this share of itself at
    each step (0.999; less at first); None takes the weights of the last step."""
    soft_targets: Annotated[bool, Field(json_schema_extra=UNSET)] = False
    """Train on the share of each pixel that is tumour; val/loss and scores stay those of masks."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """``auto``: bf16 where the device is faster in it, else fp16 on a GPU with tensor cores."""
    compile: bool = False
    """``torch.compile`` the network: one to two minutes that only a long run on a GPU repays."""
    device: Annotated[
        str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", json_schema_extra=LOCAL)
    ] = "auto"
    """``auto``: a GPU where there is one (CUDA, then Apple's), else the processor."""
    threads: Annotated[int, Field(ge=0, json_schema_extra=LOCAL)] = 0
    """Processor threads; 0 takes every core this process may use."""


class Evaluation(Block):
    """How probabilities become masks during training."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability above which a pixel is tumour."""
    overlays: Annotated[int, Field(ge=0, le=50)] = 3
    """Patients drawn from each of best, median and worst."""


class RunConfig(Block):
    """All that decides one training run."""

    name: str
    """Of the experiment that MLflow files the run under."""
    seed: Seed = 0
    data: Data
    split: Split = Split()
    model: Model = Field(default_factory=lambda: Model(name=Model.default))
    loss: Loss = Field(default_factory=lambda: Loss(name=Loss.default))
    augment: Augment = Field(default_factory=lambda: Augment(name=Augment.default))
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()

    @field_validator("name")
    @classmethod
    def _for_an_experiment(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            allowed = "letters, digits, spaces, '.', '_' and '-', at most 100"
            raise ValueError(f"a name is made of {allowed}, and begins with a letter, digit or '_'")
        return name

    @model_validator(mode="after")
    def _one_kind_of_planes(self) -> RunConfig:
        if self.model.planes and self.data.plane != "axial":
            raise UserError(f"model.planes: data.plane is {self.data.plane}; leave one of the two")
        return self

    @model_validator(mode="after")
    def _loss_of_shares(self) -> RunConfig:
        if self.train.soft_targets and self.loss.name not in Loss.of_shares:
            told = f"loss.name={self.loss.name} is not known to take shares"
            choices = ", ".join(Loss.of_shares)
            raise UserError(f"train.soft_targets: {told}; choose one of: {choices}")
        return self

    @property
    def input_channels(self) -> int:
        """Channels of the network's input: every modality with its neighbouring slices."""
        return len(self.data.modalities) * (2 * self.data.context + 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a runnable YAML holds them."""
        return self.model_dump(mode="json")

    def hash(self) -> str:
        """Twelve hex digits over everything that can change the result, and nothing else."""
        meaning = without_local(self)
        meaning.pop("name")
        meaning["data"]["persons"] = None  # its path once counted; others keep their hash
        return digest(meaning)[:12]


def without_local(block: BaseModel) -> dict[str, Any]:
    """Dump ``block`` without keys of this machine only, and without ``UNSET`` ones not given."""
    dumped = block.model_dump(mode="json")
    fields = dict(type(block).model_fields)
    if isinstance(block, Component):
        fields |= block.registry[block.name].options.model_fields
    for key, field in fields.items():
        value = getattr(block, key)
        extra = field.json_schema_extra
        marks = extra if isinstance(extra, dict) else {}
        if marks.get("local") or (marks.get("unset") and value == field.default):
            del dumped[key]
        elif isinstance(value, BaseModel):
            dumped[key] = without_local(value)
    return dumped


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into ``{"a.b": value}``, as MLflow params and overrides name them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return flat


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys in which nested mappings differ, sorted, with the value of each; None where absent."""
    before, after = flatten(old), flatten(new)
    pairs = {key: (before.get(key), after.get(key)) for key in sorted(before | after)}
    return {key: (one, other) for key, (one, other) in pairs.items() if one != other}
