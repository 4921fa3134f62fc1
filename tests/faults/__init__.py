"""Faults injected into real commands: each must end as if nothing had happened."""
