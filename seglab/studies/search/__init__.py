"""A search for the best config within a budget: space, trials, results, confirmation."""
