"""Slow references, one loop an equation: plain Python floats, written from the papers and not from our code."""
