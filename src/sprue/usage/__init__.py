"""What users ask for: the request log, redaction at ingest, and ranking by compute spent."""
