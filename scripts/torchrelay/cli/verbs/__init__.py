"""One file per verb, named after it; `cli.main` loads only the one that is called."""
