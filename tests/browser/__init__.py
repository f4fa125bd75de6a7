"""A package, so that its modules may carry names that the tests of another folder carry too."""
