"""From what a user calls a backbone to a frozen module."""
