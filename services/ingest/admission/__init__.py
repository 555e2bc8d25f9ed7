"""Requests that come through the log: checked, made unique, and handed to the workers."""
