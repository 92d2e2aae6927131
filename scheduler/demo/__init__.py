"""`arsched demo`: a real hill climb in a lab of its own."""
