"""The live file of whoever runs the queue, read: what each slot is doing. For display only; the ledger is the truth."""
