"""inference: workers that take request records, run the engine and publish completions."""
