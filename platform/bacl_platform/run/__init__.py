"""Runs of a plan on Ray: which job starts where and when."""
