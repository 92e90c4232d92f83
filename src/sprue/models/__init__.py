"""What a model is made of: open, stream block by block, write; one file per family."""
