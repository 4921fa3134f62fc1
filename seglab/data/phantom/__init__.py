"""Synthetic patients with four modalities and BraTS labels, for a first run without download."""
