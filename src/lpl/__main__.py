"""`python -m lpl`, the form that `accelerate launch -m` takes."""

from .cli import main

if __name__ == "__main__":
    main()
