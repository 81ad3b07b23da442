"""The import that users write: ``from mien import push, events``."""

from worker.capture.push import push
from worker.subscribe.events import events

__all__ = ["events", "push"]
