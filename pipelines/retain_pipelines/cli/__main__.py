"""``python -m retain_pipelines.cli`` is the command ``retain``."""

from retain_pipelines.cli.app import main

if __name__ == "__main__":
    main()
