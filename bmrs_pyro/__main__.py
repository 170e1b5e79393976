"""``python -m bmrs_pyro`` is the ``bmrs`` command."""

from bmrs_pyro.cli import main

if __name__ == "__main__":
    main()
