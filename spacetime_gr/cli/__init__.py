"""The `spacetime-gr` command; one file per sub-command."""
