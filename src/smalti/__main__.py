"""`python -m smalti`, and so `torchrun -m smalti`."""

from smalti.app.cli import main

if __name__ == "__main__":
    main()
