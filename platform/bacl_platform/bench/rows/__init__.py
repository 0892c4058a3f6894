"""The benches, a file each: `measure(setting)` returns its rows.

A file's name is the bench's, and the first paragraph of its docstring is its help.
"""
