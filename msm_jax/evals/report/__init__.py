"""report.html of agent scenarios."""
