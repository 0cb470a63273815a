"""Checks, before anything is installed, that this machine has what make needs of it.

    python3 tools/machine.py [tests]

It ends with status 1 and one line that names what is missing and the packages that hold it. Any Python may
run it, even one that is too old for the rest: hence the old syntax.
"""

# ruff: noqa: UP031

import sys

#: The oldest and the newest Python that setup.py admits.
OLDEST, NEWEST = (3, 11), (3, 13)


def wrong_python():
    """Says which Python is needed where this one is not; otherwise an empty string."""
    here = tuple(sys.version_info[:2])
    if OLDEST <= here <= NEWEST:
        return ""
    bounds = "Python %d.%d to %d.%d, and this is %d.%d" % (OLDEST + NEWEST + here)
    return "attribeam needs %s; name another: make PYTHON=python3.12" % bounds


def has_module(name):
    """Returns whether a module of Python's own is there: Debian has some of them in packages of their own."""
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def has_library(name):
    """Returns whether the dynamic linker finds a library; True where it cannot be asked."""
    try:
        import ctypes
    except ImportError:
        return True
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def missing_parts(for_tests):
    """Lists what is missing, each with the package of Debian and Ubuntu that holds it."""
    found = []
    if not has_module("ensurepip"):
        found.append(("the module ensurepip", "python%d.%d-venv" % tuple(sys.version_info[:2])))
    # LightGBM's wheel needs it of the machine; scikit-learn's and XGBoost's bring their own.
    if for_tests and sys.platform == "linux" and not has_library("libgomp.so.1"):
        found.append(("the library libgomp.so.1", "libgomp1"))
    return found


def main(arguments):
    """Prints one line where something is missing; returns the exit status."""
    line = wrong_python()
    if not line:
        missing = missing_parts("tests" in arguments)
        if missing:
            names = " and ".join(name for name, _ in missing)
            packages = " ".join(package for _, package in missing)
            line = "this machine lacks %s; on Debian and Ubuntu: apt install %s" % (names, packages)
    if line:
        sys.stderr.write(line + "\n")
    return 1 if line else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
