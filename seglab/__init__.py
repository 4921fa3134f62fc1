"""seglab: which choices really make better brain-tumour masks."""

import os

__version__ = "0.1.0"

# Threads that spin while they wait take the cores away from the process they wait for as soon
# as two processes share a machine. Read once, by the OpenMP runtime, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
