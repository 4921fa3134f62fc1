"""seglab: which choices really make better brain-tumour masks."""

__version__ = "0.1.0"
