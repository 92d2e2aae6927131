"""Ray: the pool of slots, one actor per slot, joining and starting a cluster."""
