"""The docker target: containers on one machine."""
