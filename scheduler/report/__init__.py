"""What `arsched report` writes: a page with everything, its plots, results.tsv."""
