"""Fuzzing of everything that reads a file of somebody else; see ``python -m tests.fuzz --help``."""
