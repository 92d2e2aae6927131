"""What `arsched report` writes: the progress plot, results.tsv, the totals."""
