"""Views drawn for a terminal: readable without colour and at 80 columns. Nothing here reads the ledger."""
