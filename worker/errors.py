"""What can go wrong, as a tree. Each error's text is one sentence for the person who can mend it.

MienError
├── SettingsError        a setting or an argument has a value that cannot be used
│   └── FeedNameError    a feed's name breaks the contract's rule
├── SourceError          a video source cannot be opened, or ended before its end
│   └── SourceLost       a camera or URL broke off or fell silent: open it again
├── ServerError          the Redis or Valkey server refused what we asked
│   ├── ServerUnavailable    it cannot be reached, or the connection broke: try again
│   ├── ServerFull           it has no memory left for a write: try again later
│   ├── NotPermitted         our user may not do this: the operator's rules say so
│   └── SessionSuperseded    another writer pushes to the feed now
├── EntryError           an entry of a frame stream cannot become a picture: a dead letter
├── ModelError           a model file is missing, corrupt or lacks its metadata
└── DataError            a training data set is missing or malformed

Foreign exceptions (redis, av, onnxruntime, protobuf) are translated where they first appear.
"""

from __future__ import annotations


class MienError(Exception):
    """Base of all errors that the command line prints as one sentence."""


class SettingsError(MienError):
    """A setting or an argument has a value that cannot be used."""


class FeedNameError(SettingsError):
    """A feed's name breaks the contract's rule."""


class SourceError(MienError):
    """A video source cannot be opened, or ended before its end."""


class SourceLost(SourceError):
    """A camera or URL broke off or fell silent; it may come back."""


class ServerError(MienError):
    """The server refused what we asked."""


class ServerUnavailable(ServerError):
    """The server cannot be reached, or the connection broke before its answer."""


class ServerFull(ServerError):
    """The server has reached its memory limit."""


class NotPermitted(ServerError):
    """The server's rules for our user (ACL) do not permit this."""


class SessionSuperseded(ServerError):
    """A later writer session has taken the feed over."""


class EntryError(MienError):
    """A stream entry cannot become a picture.

    ``reason`` is a short constant for the dead letter: ``not-a-frame``, ``wrong-feed``, ``bad-id``,
    ``empty``, ``unsupported``, ``too-large``, ``size-mismatch``, ``corrupt``; ``analysis-failed``
    for a picture at which the models stumble, ``poison`` for one that ends worker after worker.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class ModelError(MienError):
    """A model file is missing, corrupt or lacks its metadata."""


class DataError(MienError):
    """A training data set is missing or malformed."""


CANNOT_BIND = (OSError, UnicodeError)
"""What is raised for an address that cannot be listened at; the latter: no host has such a name."""


def reason(error: OSError | UnicodeError) -> str:
    """What is wrong, without its number."""
    return getattr(error, "strerror", None) or str(error)
