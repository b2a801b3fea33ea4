"""`python -m objstore` is the command line."""

from objstore.cli import main

if __name__ == "__main__":
    main()
