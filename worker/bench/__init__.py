"""``mien bench``: what a worker makes of this machine, beside decoding and a naive loop."""
