"""What sets of one file a slice have in common: a case and a number in every name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from seglab.core.errors import UserError
from seglab.data.files import same_name
from seglab.data.names import natural_key
from seglab.data.sources.base import Source
from seglab.data.volume import Patient


class SliceFiles(Source):
    """A source whose patients are stacks of files."""

    pattern: ClassVar[re.Pattern[str]]
    """Of the names: the groups are case and number."""
    example: ClassVar[str]
    """Such a name, for errors."""

    def list_patients(self, *, strict: bool) -> list[Patient]:
        """Group the files by case, in the order of their numbers; see ``Source``."""
        stacks: dict[tuple[str, str], dict[int, Path]] = {}
        for path in self.image_paths(strict):
            match = self.pattern.fullmatch(path.name)
            if match is None or (not strict and self.stands_alone(path)):
                if not strict:
                    stacks[path.stem, str(path)] = {0: path}
                continue
            case = self.patient_id(match[1]) if strict else match[1]
            stack = stacks.setdefault((case, "" if strict else str(path.parent)), {})
            other = stack.setdefault(int(match[2]), path)
            if other is not path:
                raise same_name(other, path, f"slice {match[2]} of {case}")
        if strict and not stacks:
            raise UserError(f"{self.root} holds no file named {self.example}")
        found = sorted(stacks.items(), key=lambda item: (natural_key(item[0][0]), item[0][1]))
        return [
            self.patient(case, tuple(path for _, path in sorted(stack.items())))
            for (case, _), stack in found
        ]

    def image_paths(self, strict: bool) -> Iterator[Path]:
        """The files that may be slices."""
        yield from (path for path in self._paths if path.suffix.lower() in self.suffixes)

    def stands_alone(self, path: Path) -> bool:
        """Whether one file is a stack by itself."""
        return False

    def patient_id(self, case: str) -> str:
        """What the patient is called in the set."""
        return case

    def patient(self, name: str, paths: tuple[Path, ...]) -> Patient:
        """The patient whose slices these files are."""
        return Patient(name, dict.fromkeys(self.modalities, paths), paths)

    def number(self, path: Path) -> int | None:
        """The number in a name; None where it has none."""
        match = self.pattern.fullmatch(path.name)
        return int(match[2]) if match else None
