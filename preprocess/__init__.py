"""Scripts that prepare text and target tables; each has ``--help``."""
