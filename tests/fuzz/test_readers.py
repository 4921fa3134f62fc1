"""Every reader on a few hundred damaged files; ``python -m tests.fuzz`` runs many more."""

from __future__ import annotations

import pytest

from tests.fuzz.campaign import LARGEST_BYTES, try_one
from tests.fuzz.memory import growth
from tests.fuzz.mutate import mutant
from tests.fuzz.targets import TARGETS, refused

RUNS = 200


@pytest.mark.parametrize("name", TARGETS)
def test_sound_files_are_read(name: str) -> None:
    target = TARGETS[name]
    for seed in target.seeds():
        refused.clear()
        target.read(seed)
        # A TIFF of one channel is a scan, but no slice of the LGG set.
        assert len(refused) <= (2 if name == "tiff" else 0), refused


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_end_well_or_with_the_readers_own_error(name: str) -> None:
    def read_all() -> None:
        for number in range(RUNS):
            try_one(name, number)

    assert growth(read_all) < LARGEST_BYTES


@pytest.mark.parametrize("name", TARGETS)
def test_damage_repeats_and_hardly_ever_leaves_a_file_sound(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    mutants = [mutant(number, seeds, target.words) for number in range(100)]
    assert mutants == [mutant(number, seeds, target.words) for number in range(100)]
    assert sum(found in seeds for found in mutants) < 20
