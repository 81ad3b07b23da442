"""Settle: the event out and the frame gone, in one atomic step."""
