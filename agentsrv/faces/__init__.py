"""Other protocols in front of the same services: each file is one, and holds no rule of its own."""
