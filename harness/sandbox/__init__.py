"""What confines a candidate and an agent's command: namespaces, Landlock, seccomp. Standard library alone."""
