"""Pictures and pages about what was built; each is imported only by the command that writes it."""
