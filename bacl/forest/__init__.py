"""Trees of categories for Forest R-CNN: made, written and read."""
