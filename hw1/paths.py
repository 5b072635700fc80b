"""Where the package keeps what it reads."""

from pathlib import Path


def conf_dir() -> Path:
    """The folder of the configuration: inside an installed wheel, beside the package in a checkout.

    Absolute, since Hydra takes a relative one from the file when run as a script, and from a package when imported.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no conf/config.yaml beside or in {here}: the installation is incomplete")
