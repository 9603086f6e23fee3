"""The ground: errors, files, locks, processes and the log. Knows nothing of models, images or jobs."""
