"""From files and folders to scans."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from seglab.core.errors import UserError
from seglab.data.scans import h5, tif
from seglab.data.scans.base import Scan
from seglab.data.scans.nifti import NiftiScan
from seglab.data.sources.base import natural_key
from seglab.data.sources.files import walk

_NOT_A_SCAN = re.compile(r".*(_seg|segm|_mask|_pred)(\.nii(\.gz)?|\.tiff?)", re.IGNORECASE)
_OTHER_MODALITY = re.compile(r"(.+)_(?:t1|t1ce|t1gd|t2)(\.nii(?:\.gz)?)")

KINDS: dict[str, type[Scan]] = {
    ".nii": NiftiScan,
    ".nii.gz": NiftiScan,
    ".h5": h5.H5Scan,
    ".tif": tif.TifScan,
    ".tiff": tif.TifScan,
}
_SLICE_NAMES = {".h5": h5.NAME, ".tif": tif.NAME, ".tiff": tif.NAME}


def find_scans(inputs: Sequence[Path]) -> tuple[list[Scan], list[tuple[Path, str]]]:
    """Find the scans that files and folders hold; slices of one volume become one scan.

    Slices are told by their names; a TIFF of several pages is a volume, whatever its name.

    In a folder, segmentations and, beside a FLAIR, other modalities are passed over; a
    file that is named is taken as it is.

    Returns:
        scans in natural order, and (path, reason) of inputs that hold none.
    """
    files: list[Path] = []
    failed: list[tuple[Path, str]] = []
    for given in inputs:
        try:
            found = list(_in_folder(given)) if given.is_dir() else [_named(given)]
            if not found:
                raise UserError(f"{given} holds no scan ({', '.join(KINDS)})")
            files += [path for path in found if path not in files]
        except UserError as error:
            failed.append((given, str(error)))
    return _unique_names(_group(files)), failed


def suffix_of(path: Path) -> str:
    """The suffix as ``KINDS`` names it, in lower case."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def _named(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if suffix_of(path) not in KINDS:
        raise UserError(f"{path} is none of {', '.join(KINDS)}")
    return path


def _in_folder(folder: Path) -> Iterator[Path]:
    files = [path for path in walk(folder) if suffix_of(path) in KINDS]
    names = {path.name.lower() for path in files}
    for path in files:
        other = _OTHER_MODALITY.fullmatch(path.name.lower())
        beside_flair = other is not None and f"{other[1]}_flair{other[2]}" in names
        if not _NOT_A_SCAN.fullmatch(path.name) and not beside_flair:
            yield path


def _group(files: Iterable[Path]) -> list[Scan]:
    groups: dict[tuple[type[Scan], Path, str], list[Path]] = {}
    for path in files:
        kind, stack = KINDS[suffix_of(path)], _stack_of(path)
        # A file that is no slice is a group of its own: no other has its path.
        key = (kind, path, _stem(path)) if stack is None else (kind, path.parent, stack)
        groups.setdefault(key, []).append(path)
    return [
        kind(name, tuple(sorted(paths, key=lambda path: natural_key(path.name))))
        for (kind, _, name), paths in groups.items()
    ]


def _stack_of(path: Path) -> str | None:
    """Name the volume that a file is a slice of; None where it is a scan by itself."""
    pattern = _SLICE_NAMES.get(suffix_of(path))
    match = pattern.fullmatch(path.name) if pattern else None
    if match is None or (pattern is tif.NAME and tif.has_pages(path)):
        return None
    return match[1]


def _stem(path: Path) -> str:
    return path.name[: -len(suffix_of(path))]


def _unique_names(scans: list[Scan]) -> list[Scan]:
    """Name scans after their folder too where two would be written to one file."""
    names = [scan.name for scan in scans]
    distinct = [
        replace(scan, name=f"{scan.files[0].parent.name}_{scan.name}")
        if names.count(scan.name) > 1
        else scan
        for scan in scans
    ]
    taken: dict[str, int] = {}
    out = []
    for scan in distinct:
        taken[scan.name] = taken.get(scan.name, 0) + 1
        number = taken[scan.name]
        out.append(scan if number == 1 else replace(scan, name=f"{scan.name}-{number}"))
    return out
