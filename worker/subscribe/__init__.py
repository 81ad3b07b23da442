"""Events back in: the Python client and the terminal view."""
