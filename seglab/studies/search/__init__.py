"""Search for the best config within a budget. The only room that knows Optuna.

The study (Optuna) decides who does what; the runs (MLflow) hold what came of it.
Workers are processes that claim trials one by one. Whatever dies in between —
a worker, the parent, both, a machine — the same command goes on where they were.
"""
