"""`python -m halfpint` is the `halfpint` command."""

from halfpint.cli import main

if __name__ == "__main__":
    main()
