"""The packages of the wheel; all else is in pyproject.toml.

The shipped experiments are a folder of the repository and, in the wheel, data of `bacl_platform`:
a package without `__init__.py`, which pyproject.toml could not name beside those that are found.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(".", include=["bacl", "bacl.*"]),
        *find_packages("platform"),
        "bacl_platform.experiments",
    ]
)
