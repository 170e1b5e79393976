"""The ``bmrs`` command."""

from bmrs_pyro.cli.app import main as main
