"""One test file a chapter, named like its module: unit tests, panels, seeded faults (FAULTS)."""
