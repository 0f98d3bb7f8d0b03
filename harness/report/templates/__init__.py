"""The templates of the report's pages."""
