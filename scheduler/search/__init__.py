"""A search: ideas asked for while runs train, under one budget, until its claim is measured."""
