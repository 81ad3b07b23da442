"""The wire contract in Python: generated messages, the codec, keys, scripts, the connection."""
