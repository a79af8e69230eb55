"""Which room to import for a type of model: what a room below needs of one above, without its name.

Rooms that read models stand below the rooms that build classes of their own and cannot name them. The
package enters their names here (`monosem/__init__.py`), and a room that is imported enters its classes.
"""

import importlib

MODEL_HOMES: dict[str, str] = {}
"""Modules, by what the types of their models begin with."""


def import_home(model_type: str) -> None:
    """Import the module whose models have a type that begins as this one, if there is one."""
    for begins, home in MODEL_HOMES.items():
        if model_type.startswith(begins):
            importlib.import_module(home)
