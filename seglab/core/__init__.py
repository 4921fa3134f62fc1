"""Layer 0: configuration, registries and errors. Imports nothing else of the package."""
