"""Trees of categories for Forest R-CNN: construction and files."""
