"""The page of a specialist."""
