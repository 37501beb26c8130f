"""The code on the pages of the documentation."""

import re

from support import PROJECT


def snippets(page: str) -> str:
    """The Python code of a page in docs/, all in one."""
    text = (PROJECT / "docs" / page).read_text(encoding="utf-8")
    return "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
