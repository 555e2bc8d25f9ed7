"""The three services; they share nothing but Kafka and the object store, and never import each other."""
