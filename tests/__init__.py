"""The tests: a package, so that test files can import what they share."""
