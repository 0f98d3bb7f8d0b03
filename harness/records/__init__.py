"""What a run is on disk: its schema, its writer, its reader."""
