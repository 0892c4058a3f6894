"""The store: finished jobs, unfinished ones and prepared datasets."""
