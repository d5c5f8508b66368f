"""`python -m router`: the same as the command `pointsman`. Floor 4; it knows only where the command line starts."""

from router.cli import main

if __name__ == "__main__":
    main()
