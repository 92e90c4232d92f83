"""Which model answers which request: specialists, the router before them, the full model behind."""
