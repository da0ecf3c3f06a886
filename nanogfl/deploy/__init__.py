"""Export of checkpoints to verified files, and benchmarks of these files."""
