"""Imports every fault, so that it registers itself."""

import tests.faults.copies
import tests.faults.disks
import tests.faults.kills
import tests.faults.mishaps
import tests.faults.stores  # noqa: F401
