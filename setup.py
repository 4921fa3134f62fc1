"""What pyproject.toml cannot say: the folder of experiments is installed as part of the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["seglab*"]), "seglab.experiments"],
    package_dir={"seglab.experiments": "experiments"},
)
