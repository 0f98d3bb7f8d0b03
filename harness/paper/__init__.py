"""What was published: its numbers, its ladder of protocols, its faults."""
