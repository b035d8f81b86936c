"""Videos to a feature store."""
