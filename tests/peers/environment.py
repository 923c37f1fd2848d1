"""The throw-away Python environment that every comparison here runs its peers in: `requirements.txt`, from PyPI, in a folder that goes with them."""

import pathlib
import subprocess
import venv

HERE = pathlib.Path(__file__).parent
# Without its extras, whose versions pip's resolver does not get together; requirements.txt has what its steps import.
DATATROVE = "datatrove==0.10.1"


def python(given, folder):
    """The interpreter of the environment `given`, or of a new one in `folder`."""
    if given:
        return given
    environment = pathlib.Path(folder) / "environment"
    venv.create(environment, with_pip=True)
    found = environment / "bin" / "python"
    install = [found, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--no-deps", DATATROVE], check=True)
    subprocess.run([*install, "-r", HERE / "requirements.txt"], check=True)
    return found


def add_option(parser):
    parser.add_argument("--python", type=pathlib.Path, help="the interpreter of an environment that has the peers already")
