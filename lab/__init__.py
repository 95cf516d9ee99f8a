"""Network namespaces with real daemons in them: what the demo, the bench and the namespace tests share.

A **namespace** is a machine of the lab, a **cable** a veth pair between two of them, a **side** one
installation of nconnect (its configuration, its folders, its daemon), a **tap** a capture of one interface.
The lab is driven through the product's own commands and its control API only; nothing here is imported by
the product.
"""

import os
from pathlib import Path

from nconnect.config.proxy import EXCEPTIONS, VARIABLES

CHECKOUT = Path(__file__).parent.parent


def environment(**changes: str) -> dict[str, str]:
    """The environment of this process without proxies, because the machine's proxy is not in the lab."""
    kept = {name: text for name, text in os.environ.items() if name not in (*VARIABLES, *EXCEPTIONS)}
    return {**kept, **changes}
