"""Universal labels: what a training clip is taught to answer."""
