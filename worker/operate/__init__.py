"""Operate feeds: see their books, change their settings, remove them, look after dead letters."""
