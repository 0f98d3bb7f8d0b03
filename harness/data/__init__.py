"""Own the published figures that ship with the package."""
