"""Lets `python -m torchrelay` run the command line."""

from torchrelay.cli import main

main()
