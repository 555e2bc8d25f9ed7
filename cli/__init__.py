"""The `headrace` command: starts the services on one machine and talks to them over HTTP."""
