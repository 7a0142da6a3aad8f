"""A run's configuration: typed, strict, read from YAML."""
