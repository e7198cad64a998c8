"""Everything that is decided: flows, plans, the life of a run, evidence. It awaits nothing."""
