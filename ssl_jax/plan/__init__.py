"""What a step costs, before it is paid for: compiled from shapes alone."""
