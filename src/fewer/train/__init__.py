"""Training small parts on a frozen model: what to ask it (texts), what it said (said), and a trainer for each drafter."""
