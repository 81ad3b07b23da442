"""Who may do what under deploy/access/users.acl, tried: python -m tests.deploy.access_table"""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.deploy.guarded import ACTIONS, USERS, allowed, guarded_server, pipeline, prepare


def main() -> None:
    shown = Table(box=None)
    shown.add_column("action")
    for user in USERS:
        shown.add_column(user)
    with tempfile.TemporaryDirectory() as folder, guarded_server(Path(folder)) as guarded:
        prepare(guarded)
        pipeline(guarded)
        for name, (action, _) in ACTIONS.items():
            words = ["yes" if allowed(guarded, user, action) else "-" for user in USERS]
            shown.add_row(name, *words)
    Console(width=110).print(shown)


if __name__ == "__main__":
    main()
