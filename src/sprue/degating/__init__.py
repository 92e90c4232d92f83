"""The search for a smaller network: what is made of it, measured in its engine, kept on disk."""
