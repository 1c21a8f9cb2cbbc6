"""One script a study: runs from configs, reports from result files."""
