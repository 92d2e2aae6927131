"""Read models: frozen answers built from the ledger, the live file and the artefacts. They read, they never act."""
