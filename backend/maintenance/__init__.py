"""Regular upkeep: writes live counters into SQL, and deletes the rows of removed parents."""
