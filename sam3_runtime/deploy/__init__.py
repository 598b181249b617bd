"""A built variant: its configuration, its loading, its archive."""
