"""How fast each stage is on this machine, against the way most people write it."""
