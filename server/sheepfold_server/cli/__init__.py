"""The `sheepfold` command: starts the roles, creates and steers jobs, shows what goes on."""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process; exits with 0, 1 (it failed) or 2 (it was refused)."""
    from sheepfold_server.cli.app import app

    app(prog_name="sheepfold")
