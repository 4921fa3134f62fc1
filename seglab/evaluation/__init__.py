"""Layer 1: scores, their statistics, and why a patient's mask went wrong."""
