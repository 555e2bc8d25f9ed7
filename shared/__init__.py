"""What the services agree on: topics, messages, batch states, stores, and how processes live and stop."""
