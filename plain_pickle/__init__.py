"""Reading pickles of numbers, text, containers and arrays without executing anything that they name."""
