"""The class that a Python guest's image names."""

from __future__ import annotations

import importlib
import importlib.util

from domains.kernel.guest import Guest


def load_class(spec: str) -> type[Guest]:
    """Import the guest class; ImportError, AttributeError or TypeError if there is none."""
    module_name, _, class_name = spec.rpartition(":")
    if module_name.startswith("/"):
        found = importlib.util.spec_from_file_location("guest_image", module_name)
        if found is None or found.loader is None:
            raise ImportError(f"{module_name} is no Python file")
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    else:
        module = importlib.import_module(module_name)
    guest = getattr(module, class_name)
    if not (isinstance(guest, type) and issubclass(guest, Guest)):
        raise TypeError(f"{spec} is no Guest")
    return guest
