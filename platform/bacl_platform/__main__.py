"""`python -m bacl_platform`: the `bacl` command where it is not installed as a program."""

from bacl_platform.cli.main import main

if __name__ == "__main__":
    main()
