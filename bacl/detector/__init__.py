"""The bank of classifiers as parts of an MMDetection detector."""
