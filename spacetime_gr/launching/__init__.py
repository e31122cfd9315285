"""Starting a run on one machine or on many: commands for the launchers, and what a rank needs before it trains."""
