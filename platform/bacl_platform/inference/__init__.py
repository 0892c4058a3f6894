"""Detecting with an exported variant: the detector, what it takes in and what it finds."""
