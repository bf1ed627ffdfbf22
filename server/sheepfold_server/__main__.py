"""`python -m sheepfold_server` is `sheepfold`."""

from sheepfold_server.cli import main

if __name__ == "__main__":
    main()
