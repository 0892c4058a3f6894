"""Sweeps: which trials train, go on or stop, on Ray Tune."""
