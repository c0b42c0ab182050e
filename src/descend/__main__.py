"""`python -m descend`: the command line where the script is not on the path."""

from descend.cli import main

if __name__ == "__main__":
    main()
