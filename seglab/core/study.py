"""What one YAML asks for: a run, an ablation (arms × seeds) or a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from seglab.core.blocks import Block, PositiveInt, validate
from seglab.core.config import RunConfig, flatten
from seglab.core.documents import merge, parse_overrides, read_document
from seglab.core.errors import UserError, unknown_name
from seglab.core.factors import FACTOR_KEYS, Design, with_arms
from seglab.core.search import Range, Search

STUDY_KEYS = (
    *("seeds", "baseline", "margin", "arms", "budget", "tune", "search", "storage"),
    *FACTOR_KEYS,
)
POSTGRES = "postgresql+psycopg://"
TIMED_EPOCHS = 1000
"""Epochs of a run that ends by the clock."""
MARGIN = 0.01
"""Differences of Dice below it are too small to matter, unless a file says otherwise."""


class Tune(Block):
    """Nuisance parameters re-tuned for every arm, with the same number of trials each."""

    space: Annotated[dict[str, Range], Field(min_length=1)]
    trials: PositiveInt = 6


class Budget(Block):
    """What every arm of an ablation is given in equal measure."""

    per: Literal["samples", "seconds"] = "samples"
    seconds: Annotated[float, Field(gt=0)] | None = None
    """Training seconds of each run when ``per`` is ``seconds``."""

    @model_validator(mode="after")
    def _has_seconds(self) -> Budget:
        if (self.per == "seconds") != (self.seconds is not None):
            raise ValueError("'seconds' is given exactly when per: seconds")
        return self

    def apply(self, config: RunConfig) -> RunConfig:
        """Let a run end by the seconds, if there are any; warm-up keeps its share of the epochs."""
        if self.seconds is None:
            return config
        warmup = config.schedule.warmup_epochs / config.train.epochs * TIMED_EPOCHS
        timed = {"epochs": TIMED_EPOCHS, "max_seconds": self.seconds}
        return config.model_copy(
            update={
                "train": config.train.model_copy(update=timed),
                "schedule": config.schedule.model_copy(update={"warmup_epochs": warmup}),
            }
        )


@dataclass(frozen=True)
class Study:
    """A resolved YAML: every arm is a complete config, with the first seed."""

    name: str
    run: RunConfig
    arms: Mapping[str, RunConfig]
    baseline: str | None
    margin: float
    """Of equivalence, in Dice."""
    seeds: tuple[int, ...]
    budget: Budget
    tune: Tune | None
    search: Search | None
    storage: str | None
    """``postgresql+psycopg://…`` for several machines, of a search its own; None: this one only."""
    design: Design | None
    """Of the factors whose levels make the arms."""
    document: Mapping[str, Any]
    """With the arms written out."""

    @property
    def is_ablation(self) -> bool:
        """More than one run, and no search."""
        return self.search is None and (
            self.document.get("arms") is not None or len(self.seeds) > 1
        )

    @property
    def folds(self) -> tuple[int, ...]:
        """Folds that are run: all of ``split.folds``, unless ``split.fold`` names one."""
        split = self.run.split
        if split.folds is None or "fold" in (self.document.get("split") or {}):
            return (split.fold,)
        return tuple(range(split.folds))

    @property
    def reference(self) -> RunConfig:
        """The arm that the others are compared with, or the only one."""
        return self.arms[self.baseline or next(iter(self.arms))]


def load_study(path: Path, overrides: Sequence[str] = (), arms: Sequence[str] = ()) -> Study:
    """Read an experiment file with its base and overrides, and check all of it.

    Overrides are ``key.sub=value``; ``arms.NAME=null`` takes an arm out, and ``arms`` keeps only
    these. Raises a UserError that names the file or key path, the value and what is allowed.
    """
    document, laid = read_document(path), parse_overrides(overrides)
    named = laid["arms"] if isinstance(laid.get("arms"), dict) else {}
    removed = [arm for arm, override in named.items() if override is None]
    for arm in removed:
        del named[arm]
    document = merge(document, laid)
    if "seed" in laid and document.get("seeds") is not None:
        raise UserError(f"seed={laid['seed']}: the file has seeds; give seeds={laid['seed']}")
    document.setdefault("name", path.stem)
    if arms or removed:
        document = _select_arms(with_arms(document)[0], arms, removed)
    return resolve_study(document)


def _select_arms(
    document: Mapping[str, Any], wanted: Sequence[str], removed: Sequence[str]
) -> dict[str, Any]:
    """Keep some of the arms; where the baseline is not among them, the first takes its place."""
    known = {str(name): override for name, override in (document.get("arms") or {}).items()}
    if not known:
        raise UserError(f"the file has no arms, so none is named '{[*wanted, *removed][0]}'")
    for name in (*wanted, *removed):
        if name not in known:
            raise unknown_name("arm", name, known)
    kept = {name: known[name] for name in wanted or known if name not in removed}
    without = () if str(document.get("baseline")) in kept else ("baseline",)
    return {key: value for key, value in document.items() if key not in without} | {"arms": kept}


def resolve_study(document: Mapping[str, Any]) -> Study:
    """Build a ``Study`` from plain values, as a YAML or a logged config holds them."""
    document, design = with_arms(document)
    shared = {key: value for key, value in document.items() if key not in STUDY_KEYS}
    seeds = _seeds(document, shared)
    shared["seed"] = seeds[0]
    run = validate(RunConfig, shared, also=(*STUDY_KEYS, "base"))
    arms = _arms(document.get("arms"), shared, run)
    budget = validate(Budget, document.get("budget") or {}, "budget.")
    search = validate(Search, document["search"], "search.") if document.get("search") else None
    storage = search.storage if search else document.get("storage")
    if storage is not None and not str(storage).startswith(POSTGRES):  # may hold a password
        key = "search.storage" if search else "storage"
        raise UserError(f"{key}: it is an address {POSTGRES}HOST/DATABASE, or null: this machine")
    margin = MARGIN if document.get("margin") is None else document["margin"]
    if not isinstance(margin, float) or not 0 < margin < 1:
        raise UserError(f"margin: {margin!r} is not a difference of Dice between 0 and 1")
    study = Study(
        name=run.name,
        run=budget.apply(run),
        arms={name: budget.apply(config) for name, config in arms.items()},
        baseline=_baseline(document.get("baseline"), arms),
        margin=margin,
        seeds=seeds,
        budget=budget,
        tune=validate(Tune, document["tune"], "tune.") if document.get("tune") else None,
        search=search,
        storage=storage,
        design=design,
        document=document,
    )
    if search and len(arms) > 1:
        raise UserError("a file has 'arms' or 'search', not both")
    if study.tune and len(arms) < 2:
        raise UserError("tune: needs two or more 'arms' to compare; 'search' is for one config")
    known = flatten(run.to_dict())
    for kind, block in (("search", search), ("tune", study.tune)):
        for key, domain in (block.space if block else {}).items():
            if key == "data.target":
                raise UserError(
                    f"{kind}.space.data.target: runs of another target are scored against another "
                    "truth; write one file a target"
                )
            if not domain.when and key not in known:  # with it, each choice is checked later
                raise UserError(f"{kind}.space: {unknown_name('key', key, known)}")
    return study


def build_run(values: Mapping[str, Any]) -> RunConfig:
    """Validate one run's config; a UserError names the key, its value and the choices."""
    return validate(RunConfig, dict(values))


def _seeds(document: Mapping[str, Any], shared: Mapping[str, Any]) -> tuple[int, ...]:
    given = document.get("seeds", [shared.get("seed", 0)])
    seeds = given if isinstance(given, list) else [given]
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UserError(f"seeds: {given!r} is not a list of whole numbers from 0, at least one")
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise UserError(f"seeds: {seed} is given twice; a repeated seed is no new evidence")
    return tuple(seeds)


def _arms(given: Any, shared: Mapping[str, Any], run: RunConfig) -> dict[str, RunConfig]:
    if given is None:
        return {run.name: run}
    if not isinstance(given, dict) or not given:
        raise UserError("arms: expected 'name: {key: value}' entries, one an arm")
    arms: dict[str, RunConfig] = {}
    twins: dict[str, str] = {}
    for name, override in ((str(name), override or {}) for name, override in given.items()):
        if not isinstance(override, dict):
            raise UserError(f"arms.{name}: expected a mapping of keys to override")
        barred = set(override) & {"name", "seed", "split", *STUDY_KEYS}
        if barred:
            raise UserError(f"arms.{name}: '{min(barred)}' is the study's, not an arm's")
        try:
            arms[name] = build_run(merge(shared, override))
        except UserError as error:
            raise UserError(f"arms.{name}: {error}") from None
        twin = twins.setdefault(arms[name].hash(), name)
        if twin != name:
            raise UserError(f"arms.{name} is the same config as arms.{twin}: nothing to compare")
    return arms


def _baseline(given: Any, arms: Mapping[str, RunConfig]) -> str | None:
    if given is None:
        return next(iter(arms)) if len(arms) > 1 else None
    if str(given) not in arms:
        raise unknown_name("baseline arm", given, arms)
    return str(given)
