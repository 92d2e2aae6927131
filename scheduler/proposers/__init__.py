"""Sources of ideas: every one implements scheduler.domain.proposal.Proposer and is found by its entry point."""
