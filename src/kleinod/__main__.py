"""`python -m kleinod` is the command `kleinod`."""

from kleinod.cli.main import main

if __name__ == "__main__":
    main()
