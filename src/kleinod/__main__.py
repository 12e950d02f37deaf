"""`python -m kleinod` is `kleinod`."""

from kleinod.cli import main

if __name__ == "__main__":
    main()
