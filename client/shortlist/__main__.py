"""``python -m shortlist``: the command line."""

from shortlist._cli import main

if __name__ == "__main__":
    main()
