"""One module per outside thing: git, SQLite, Ray, the judge process."""
