"""What was done, in words and formulas, from the parameters that a run logged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from seglab.core.errors import UserError
from seglab.core.registry import AUGMENTATIONS, LOSSES, MODELS
from seglab.data.identity import TITLES
from seglab.studies.report.record import Record, scored
from seglab.studies.report.tables import duration, number, short
from seglab.tracking import tags
from seglab.tracking.store import RunInfo

Params = Mapping[str, str]
TARGETS: Final = {
    "whole": "the whole tumour: every labelled part",
    "core": "the tumour core: enhancing and non-enhancing, without oedema",
    "enhancing": "the enhancing tumour",
}
NORMALISED: Final = {
    "zscore": "from 3 standard deviations below the brain's mean to 5 above it",
    "robust": "from 3 scaled median absolute deviations below the brain's median to 5 above it",
    "percentile": "from the 0.5th to the 99.5th percentile of the brain",
}
SCHEDULES: Final = {
    "constant": "constant after the warm-up",
    "plateau": "lowered by a factor of {factor} after {patience} epochs without a better Dice",
    "cosine": "warm-up over {warmup} epochs, then half a cosine down to {final} of it",
    "one_cycle": "up to its maximum and down again, to {final} of it, once over the training",
}
FORMULAS: Final = {
    "bce": "L = BCE = −mean[w·m·log p + (1 − m)·log(1 − p)], w = {pos_weight}",
    "dice": "L = 1 − (2·Σpm + s) / (Σp + Σm + s), s = {smooth}",
    "bce_dice": "L = {bce_weight}·BCE + 1 − (2·Σpm + s) / (Σp + Σm + s), s = {smooth}, where "
    "BCE = −mean[w·m·log p + (1 − m)·log(1 − p)], w = {pos_weight}",
    "jaccard": "L = 1 − (Σpm + s) / (Σp + Σm − Σpm + s), s = {smooth}",
    "tversky": "L = 1 − T, T = (TP + s) / (TP + α·FN + (1 − α)·FP + s), α = {alpha}, s = {smooth}",
    "focal_tversky": "L = (1 − T)^(1/γ), T = (TP + s) / (TP + α·FN + (1 − α)·FP + s), "
    "α = {alpha}, γ = {gamma}, s = {smooth}",
    "focal": "L = −mean[α_m·(1 − p_m)^γ·log p_m], p_m the probability given to the true class, "
    "α = {alpha} for tumour and 1 − α for the rest, γ = {gamma}",
}
"""Of losses whose formula is one line; the others have their summary."""
SYMBOLS: Final = (
    "p: predicted probability of a pixel, m: 1 in the true mask and 0 outside; sums run over a "
    "{pool}"
)


def method(record: Record, run: RunInfo) -> dict[str, dict[str, str]]:
    """Heading → what is said under it, a fact a line; unknown facts are empty."""
    params = {key: "" if value == "null" else value for key, value in run.params.items()}
    describe = (_preprocessing, _network, _loss, _augmentation, _training)
    told = [one(params, run) for one in describe]
    headings = ("Preprocessing", "Network", "Loss", "Augmentation", "Training")
    machine = (record.read_json(run, "environment.json") or {}).get("machine", {})
    spent = run.metrics.get("cost/train_seconds")
    hardware = {
        "device": run.tags.get(tags.DEVICE, ""),
        "processor": f"{machine.get('processor', '')}, {machine.get('cores', '?')} cores",
        "arithmetic": {"bf16": "bfloat16 where it is safe, else float32"}.get(
            run.tags.get(tags.PRECISION, ""), "float32"
        ),
        "training time": duration(spent) + ", without validation" if spent else "",
    }
    return dict(zip(headings, told, strict=True)) | {"Hardware and time": hardware}


def modalities(params: Params) -> list[str]:
    """Names of the inputs; runs of earlier versions had FLAIR only."""
    names: list[str] = _parsed(params.get("data.modalities")) or ["flair"]
    return [TITLES.get(name, name) for name in names]


def _parsed(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except ValueError:
        return None


def _preprocessing(params: Params, run: RunInfo) -> dict[str, str]:
    side, context = params.get("data.image_size", "?"), int(params.get("data.context") or 0)
    scope = "each slice" if params.get("data.normalise_scope") == "slice" else "each volume"
    auto = " (each slice where the files hold slices)"
    scope += auto if params.get("data.normalise_scope") == "auto" else ""
    planes = _parsed(params.get("model.planes")) or [params.get("data.plane", "axial")]
    sliced = "" if planes == ["axial"] else f"; {', '.join(planes)} slices"
    near = f", with {context} neighbouring slice{'s'[: context > 1]} on each side as channels"
    return {
        "input": " and ".join(modalities(params)) + (near if context else ", one slice") + sliced,
        "resolution": f"the whole frame scaled to {side} × {side} pixels"
        + (", cut to the brain" if params.get("data.crop") == "brain" else ""),
        "intensity": f"{NORMALISED.get(params.get('data.normalise', ''), '')}, taken from {scope}, "
        "in 255 levels",
        "slices used": {
            "all": "every slice",
            "brain": "slices with brain",
            "tumour": "slices with tumour",
        }.get(params.get("data.slices", ""), ""),
    }


def _options(params: Params, block: str) -> dict[str, str]:
    start = f"{block}."
    return {k.removeprefix(start): short(v) for k, v in params.items() if k.startswith(start)}


def _summary(registry: Any, name: str) -> str:
    try:
        return str(registry[name].summary)
    except UserError:  # a name of an earlier version
        return name


def _settings(options: Mapping[str, str], *without: str) -> str:
    return ", ".join(f"{k} = {v}" for k, v in options.items() if v and k not in without)


def _network(params: Params, run: RunInfo) -> dict[str, str]:
    options = _options(params, "model")
    return {
        "architecture": _summary(MODELS, options.get("name", "")),
        "settings": _settings(options, "name", "planes"),
        "initial weights": {"none": "random"}.get(w := run.tags.get(tags.WEIGHTS, ""), w),
        "parameters": number(run.metrics.get("cost/parameters_m", math.nan) * 1e6, ",.0f"),
        "operations": number(run.metrics.get("cost/gflops_per_image"), ".3g")
        + " billion floating-point operations to segment a slice",
    }


def _loss(params: Params, run: RunInfo) -> dict[str, str]:
    options = _options(params, "loss")
    name = options.get("name", "")
    formula = FORMULAS.get(name, "")
    try:
        formula = formula.format_map(options)
    except KeyError:  # an option that earlier versions did not have
        formula = ""
    counts = ", TP = Σpm, FP = Σp(1 − m), FN = Σ(1 − p)m" if "TP" in formula else ""
    where = SYMBOLS.format(pool={"image": "slice"}.get(options.get("pool", ""), "batch")) + counts
    return {
        "loss": _summary(LOSSES, name),
        "formula": formula,
        "where": where if formula else "",
        "settings": "" if formula else _settings(options, "name"),
    }


def _augmentation(params: Params, run: RunInfo) -> dict[str, str]:
    options = _options(params, "augment")
    name = options.get("name", "")
    return {"augmentation": _summary(AUGMENTATIONS, name), "settings": _settings(options, "name")}


def _training(params: Params, run: RunInfo) -> dict[str, str]:
    get = params.get
    clip, share, stop = get("optim.grad_clip"), get("train.tumour_fraction"), get("train.patience")
    drawn, seconds = get("train.samples_per_epoch"), get("train.max_seconds")
    schedule = SCHEDULES.get(get("schedule.name", ""), get("schedule.name", "")).format(
        factor=get("schedule.factor"),
        patience=get("schedule.patience"),
        warmup=short(get("schedule.warmup_epochs")),
        final=short(get("schedule.final_lr_fraction")),
    )
    name = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD with Nesterov momentum"}
    kept = run.metrics.get("val/kept_epoch")
    return {
        "optimizer": f"{name.get(get('optim.name', ''), '')}, weight decay "
        f"{short(get('optim.weight_decay'))}"
        + (f", gradients clipped to a norm of {short(clip)}" if clip else ""),
        "learning rate": f"{short(get('optim.lr'))} at its highest; {schedule}",
        "batch": f"{get('train.batch_size')} slices",
        "epochs": f"{get('train.epochs')}, of {drawn or 'all'} slices each"
        + (f", {float(share):.0%} of them with tumour" if share else "")
        + (f"; ended after {seconds} s of training" if seconds else ""),
        "early stopping": f"after {stop} epochs without a better validation Dice"
        if stop
        else "none",
        "weights used": f"of epoch {kept:.0f}" if kept else "",
        "seed": run.tags.get(tags.SEED, ""),
    }


def limits(record: Record, run: RunInfo | None, test: Mapping[str, Any] | None) -> list[str]:
    """What the result does not say."""
    params = run.params if run else {}
    count = test["frozen"]["dice"]["patients"] if test else 0
    runs = len(scored(record))
    told = {
        "The data are synthetic: nothing here holds for patients.": bool(record.notice),
        f"{count} test patient{'s'[: count != 1]} of one data set: another scanner, hospital or "
        "kind of tumour may give other figures.": count > 0,
        "Nothing was tested: figures on validation patients are those of the data that choices "
        "were made on, and so optimistic.": not count,
        f"The run is the best of {runs} on the same validation patients: part of its lead there "
        "is chance.": runs > 1,
        "The kept weights are those of the best epoch on the validation patients: their "
        "validation figures are optimistic.": params.get("train.keep") == "best",
        "One division of the patients: another draw of the parts gives other figures.": params.get(
            "split.folds", "null"
        )
        == "null",
        "Slices are segmented one by one, in two dimensions: the network does not see the whole "
        "volume.": bool(run),
        "A mask is research output, not a medical device: it must not guide anyone's "
        "treatment.": True,
    }
    return [text for text, applies in told.items() if applies]


REFERENCES: Final[Mapping[str, str]] = {
    "Ronneberger 2015": "Ronneberger, Fischer, Brox: U-Net: convolutional networks for biomedical "
    "image segmentation. MICCAI 2015.",
    "Menze 2015": "Menze et al.: The multimodal brain tumor image segmentation benchmark (BRATS). "
    "IEEE TMI 34, 2015.",
    "Bakas 2018": "Bakas et al.: Identifying the best machine learning algorithms for brain tumor "
    "segmentation … in the BRATS challenge. arXiv:1811.02629.",
    "Loshchilov 2019": "Loshchilov, Hutter: Decoupled weight decay regularization. ICLR 2019.",
    "Isensee 2021": "Isensee et al.: nnU-Net: a self-configuring method for deep learning-based "
    "biomedical image segmentation. Nature Methods 18, 2021.",
    "Lin 2017": "Lin et al.: Focal loss for dense object detection. ICCV 2017.",
    "Salehi 2017": "Salehi, Erdogmus, Gholipour: Tversky loss function for image segmentation "
    "using 3D fully convolutional deep networks. MLMI 2017.",
    "Akiba 2019": "Akiba et al.: Optuna: a next-generation hyperparameter optimization framework. "
    "KDD 2019.",
    "Holm 1979": "Holm: A simple sequentially rejective multiple test procedure. Scandinavian "
    "Journal of Statistics 6, 1979.",
    "Hall 1988": "Hall: On symmetric bootstrap confidence intervals. Journal of the Royal "
    "Statistical Society B 50, 1988.",
    "Naeini 2015": "Naeini, Cooper, Hauskrecht: Obtaining well calibrated probabilities using "
    "Bayesian binning. AAAI 2015.",
    "Mehrtash 2020": "Mehrtash et al.: Confidence calibration and predictive uncertainty "
    "estimation for deep medical image segmentation. IEEE TMI 39, 2020.",
}


def references(record: Record, run: RunInfo | None) -> list[str]:
    """Works that what is shown rests on."""
    params = run.params if run else {}
    loss, data = params.get("loss.name", ""), params.get("data.source", "")
    shown = {
        "Ronneberger 2015": params.get("model.name") == "unet",
        "Menze 2015": data.startswith("brats") and not record.notice,
        "Bakas 2018": data.startswith("brats") and not record.notice,
        "Loshchilov 2019": params.get("optim.name") == "adamw",
        "Isensee 2021": loss == "bce_dice",
        "Lin 2017": loss == "focal",
        "Salehi 2017": "tversky" in loss,
        "Akiba 2019": record.sweep is not None,
        "Holm 1979": bool(record.ablations),
        "Hall 1988": bool(record.ablations or record.promotion),
        "Naeini 2015": record.promotion is not None,
        "Mehrtash 2020": record.promotion is not None,
    }
    return [text for key, text in REFERENCES.items() if shown[key]]
