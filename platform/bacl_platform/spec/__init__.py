"""What users write: experiments and sweeps, read and checked."""
