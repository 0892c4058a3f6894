"""Training of one job, on each of its ranks."""
