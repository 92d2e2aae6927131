"""What a user does to a lab, one use case a module: init, new, submit, cancel, promote, prepare."""
