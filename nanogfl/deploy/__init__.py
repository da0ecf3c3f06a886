"""From a checkpoint to one proven file."""
