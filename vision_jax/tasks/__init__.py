"""One task a file: `make(config, info) -> task.Task`, found by its name."""
