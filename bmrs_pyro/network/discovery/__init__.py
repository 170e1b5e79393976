"""Finding the structures that can be removed: tracing, proposal, verification on copies."""
