"""HTTP routes of the OpenAI contract; each module is one resource."""
