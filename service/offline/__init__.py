"""Detection in one's own process: ``stmixer detect`` and ``import stmixer``. The same Stream and sampling as served."""
