"""The filters `printable` (text of an app's without what a terminal would obey) and `shortened` (its end, long lines cut).

The functions are those of module_utils/text.py."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

spec = spec_from_file_location("flaskhost_text", Path(__file__).resolve().parents[1] / "module_utils/text.py")
text = module_from_spec(spec)
spec.loader.exec_module(text)


class FilterModule:
    def filters(self):
        return {"printable": text.printable_values, "shortened": text.shortened}
