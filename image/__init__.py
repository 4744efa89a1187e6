"""Builds the container's image (`make image`) and knows how to do so where no engine is (image/build.py)."""
