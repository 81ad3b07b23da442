"""The page and the HTTP API: what was published, for browsers and other clients."""
