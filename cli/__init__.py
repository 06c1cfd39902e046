"""The command line of fewvit: options in, one library call, a table or JSON out."""
