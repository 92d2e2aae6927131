"""What a user does to a lab: it is created, candidates are submitted, promoted by hand, cancelled."""
