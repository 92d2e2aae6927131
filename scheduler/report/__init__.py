"""What `arsched report` writes: the page of the night, its plots, results.tsv."""
