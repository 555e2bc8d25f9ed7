"""collector: folds the completions log into result files, each line exactly once."""
