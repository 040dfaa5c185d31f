"""``python -m shortlist_cli``: the command line."""

from shortlist_cli import main

if __name__ == "__main__":
    main()
