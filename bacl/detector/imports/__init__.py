"""Trained detectors of other projects as a bank with one variant: a file for each source."""
