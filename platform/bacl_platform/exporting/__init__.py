"""Exports of trained variants: MMDetection's own detectors, and detectors in one file."""
