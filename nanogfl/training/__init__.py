"""Training: label assignment, losses, and the training run."""
