"""How fast each stage is on this machine, against the way most people write it.

A stage is one decorated function in ``stages/``; what it is measured against lies in
``references/``, written as a person in no hurry would write it.
"""
