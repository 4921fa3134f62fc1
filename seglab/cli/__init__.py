"""Layer 6: the command line. Parsing and printing; the work is done below."""
