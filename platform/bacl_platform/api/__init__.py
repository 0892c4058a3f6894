"""The Python API, which `import bacl_platform` offers and the command line calls."""
