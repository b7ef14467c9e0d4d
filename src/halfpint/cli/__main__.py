"""`python -m halfpint.cli` is the command line too."""

from halfpint.cli import main

main(prog_name="halfpint")
