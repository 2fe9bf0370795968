"""Loss, optimizer, one step, one loop."""
