"""The experiments of the sources, run by ``bmrs reproduce``."""
