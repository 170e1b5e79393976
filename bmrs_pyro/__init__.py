"""bmrs_pyro."""
