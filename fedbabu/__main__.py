"""`python -m fedbabu` is the command `fedbabu`."""

from fedbabu.cli import main

if __name__ == "__main__":
    main()
