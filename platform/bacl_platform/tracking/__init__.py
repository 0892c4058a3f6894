"""MLflow: what is logged of jobs while they run."""
