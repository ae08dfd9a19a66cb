"""`python -m eramv_lab`: the command line."""

from eramv_lab.cli import main

if __name__ == "__main__":
    main()
