"""Exchange: what is in a store to and from the files of other programs, and to and from one file that holds it all."""
