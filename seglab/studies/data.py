"""What the runs of one study share of the data: patients, caches and splits."""

from __future__ import annotations

from seglab.core.config import MODALITIES, RunConfig
from seglab.core.documents import merge
from seglab.core.errors import UserError
from seglab.core.machine import tell
from seglab.core.study import Study, resolve_study
from seglab.data.open import StudyData, lacks, open_data
from seglab.data.sources.base import Source, open_data_source


class SharedData:
    """Opens the cache of each distinct ``data`` and ``split`` block once.

    Warns as :func:`open_data` does, once of each root, and of each modality that is wrong.
    """

    def __init__(self, *, warn: bool = True) -> None:
        self._warn = warn
        self._opened: dict[str, StudyData] = {}
        self._said: set[object] = set()

    def of(self, config: RunConfig) -> StudyData:
        """Open the data of a run, or return them opened."""
        blocks = f"{config.data.model_dump_json()}{config.split.model_dump_json()}"
        key = f"{blocks}{config.model.planes}"
        if key not in self._opened:
            root = (config.data.root, config.data.source)
            found = open_data(config, warn=self._warn and root not in self._said)
            wrong = {(root, one.modality) for one in found.identity.wrong}
            if self._warn and root in self._said and wrong - self._said:
                tell(f"warning: {found.identity.reason}")
            self._said |= {root, *wrong}
            self._opened[key] = found
        return self._opened[key]


def share_patients(study: Study) -> Study:
    """Have all runs of a study use the same patients: those with every modality any run names.

    Where a patient lacks one, ``data.require`` is set for all runs, so that a run that is
    opened by itself later finds the same patients. Raises UserError where the source never has
    a modality, or patients lack one and ``data.on_bad_file`` does not skip them.
    """
    data = study.run.data
    named: set[str] = {name for config in study.arms.values() for name in config.data.modalities}
    if study.search and (domain := study.search.space.get("data.modalities")):
        named |= {name for choice in domain.choices or () for name in str(choice).split("+")}
    if named <= {*data.require} or (len(study.arms) == 1 and study.search is None):
        return study
    source = open_data_source(data)
    _refuse_foreign(study, source, named)
    lacking = {
        patient.patient_id: sorted(named - patient.images.keys())
        for patient in source.patients()
        if set(data.require) <= patient.images.keys() and named - patient.images.keys()
    }
    if data.on_bad_file == "fail":
        if lacking:
            raise lacks(lacking)
        return study
    require = [name for name in MODALITIES if name in named | {*data.require}]
    return resolve_study(merge(study.document, {"data": {"require": require}}))


def _refuse_foreign(study: Study, source: Source, named: set[str]) -> None:
    """Name a modality that the source can never have, and who asks for it."""
    foreign = [name for name in MODALITIES if name in named - {*source.modalities}]
    if not foreign:
        return
    told = f"{source.name} has no {foreign[0]} (it has {', '.join(source.modalities)})"
    for arm, config in study.arms.items():
        if foreign[0] in config.data.modalities:
            leave_out = f"arms.{arm}=null leaves it out"
            raise UserError(f"{told}: the arm {arm} asks for it; {leave_out}")
    raise UserError(f"{told}: search.space.data.modalities names it")
