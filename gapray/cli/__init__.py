"""The command line. Nothing heavy is imported before a command runs: ``gapray --help`` answers at once."""
