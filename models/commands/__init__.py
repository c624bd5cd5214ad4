"""Commands of this room; see service.cli."""
