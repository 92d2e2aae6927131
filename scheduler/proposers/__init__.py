"""Sources of ideas: every one implements scheduler.domain.search.Proposer and is found by its entry point."""
