"""The image as it is run: built by `make test-image`, which needs root and takes minutes, so `make test` leaves it out.

tests/test_entrypoint.py tries the script's steps without an image.
"""
