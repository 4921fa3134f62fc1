"""The report of an experiment: one page, with its figures and numbers beside it."""
