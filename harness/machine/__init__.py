"""The facts of this machine, and what is wrong with it for measuring."""
