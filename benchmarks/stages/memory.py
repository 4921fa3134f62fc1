"""How much more memory a large set takes than a small one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

from benchmarks import training_memory
from benchmarks.material import Material
from benchmarks.phantoms import repeat_cache
from benchmarks.stage import Goal, Measurement, stage
from seglab.data.cache import Cache
from seglab.studies.data import open_data

SMALL_SET = 100


@stage("memory", "memory", "MB", goal=Goal(1_000, at_most=True, unit="MB"))
def memory(material: Material) -> Measurement:
    """Memory that training on all slices takes beyond training on 100, against the cache's size."""
    once = material.config()
    # Of any patient: how much memory it takes is all that is learnt.
    cache, full = Cache(open_data(once).cache.path), material.scale.full_set
    large = repeat_cache(cache, material.scratch / "large", full)
    small = repeat_cache(cache, material.scratch / "small", SMALL_SET)
    path = material.scratch / "memory.yaml"
    path.write_text(yaml.safe_dump(once.to_dict()), encoding="utf-8")
    peaks = [_peak_mb(path, folder) for folder in (small, large)]
    growth, cache_mb = max(peaks[1] - peaks[0], 0.1), Cache(large).bytes / 1e6
    note = f"{peaks[0]:,.0f} MB for {SMALL_SET} slices, {peaks[1]:,.0f} MB for {full:,}"
    return Measurement(growth, cache_mb, growth / cache_mb, note)


def _peak_mb(config: Path, cache: Path) -> float:
    command = [sys.executable, "-m", training_memory.__name__, str(config), str(cache)]
    root = Path(training_memory.__file__).parents[1]
    done = subprocess.run(command, check=True, cwd=root, stdout=subprocess.PIPE)
    return float(json.loads(done.stdout)["peak_mb"])
