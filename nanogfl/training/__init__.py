"""Assignment, losses, and the run around them."""
