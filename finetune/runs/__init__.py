"""Settings x folds x seeds: what decides a run, its rows, and a finished one's clips."""
