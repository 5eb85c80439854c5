"""``python -m viz``: the same as the command ``viz``."""

from viz.cli import main

if __name__ == "__main__":
    main()
