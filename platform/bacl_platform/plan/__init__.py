"""From experiments and sweeps to the jobs that they need."""
