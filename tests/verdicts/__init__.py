"""How often verdicts are wrong, by simulation; see ``python -m tests.verdicts --help``."""
