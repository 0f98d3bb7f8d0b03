"""What people read of a run: Markdown, LaTeX, CSV, JSON, figures; texts, never arithmetic."""
