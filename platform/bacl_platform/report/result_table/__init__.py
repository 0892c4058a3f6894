"""Tables of a sweep's trials or an experiment's variants: rows, what is best, columns, files."""
