"""What helps an author before there is anything to serve."""
