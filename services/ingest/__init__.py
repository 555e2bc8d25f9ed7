"""ingest: the OpenAI HTTP API, and the dispatcher that turns input files into request records."""
