"""Prints a greeting, its arguments and one environment variable."""

import os
import sys

from wit_world import exports


class Run(exports.Run):
    def run(self) -> None:
        print("Hello from Python", *sys.argv[1:])
        if "COLOUR" in os.environ:
            print("COLOUR is", os.environ["COLOUR"])
