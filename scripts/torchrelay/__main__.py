"""Lets `python -m torchrelay` run the command line."""

from torchrelay.cli.main import main

main()
