"""Quality, speed, memory, energy; intervals; the verdict; the report."""
