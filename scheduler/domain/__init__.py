"""Words of the lab: plain frozen types, standard library only."""
