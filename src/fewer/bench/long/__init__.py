"""Long-context tasks: made from real text (texts, tasks), run under many plans (measure), shown (tables)."""
