"""Layer 4: what people ask for — a run, an ablation, a search, a promotion, a report."""
