"""What the runs are made of: the one place that names versions."""

from typing import Final

#: Newest first. Of each, an interpreter that is found here runs CPython's own suites.
PYTHONS: Final = ("3.13", "3.12", "3.11")

#: Peers whose sdists hold their tests. The same versions are installed.
SDISTS: Final = {"anyio": "4.16.0", "mcp": "2.3.0", "uvloop": "0.23.0"}

#: What every suite needs beside aiovfork.
EVERYWHERE: Final = (f"uvloop=={SDISTS['uvloop']}",)
#: What the peers' suites need.
FOR_PEERS: Final = (
    *EVERYWHERE,
    f"anyio=={SDISTS['anyio']}",
    f"mcp=={SDISTS['mcp']}",
    "blockbuster==1.5.29",
    "coverage==7.17.4",
    "dirty-equals==0.11",
    "inline-snapshot==0.36.1",
    "logfire==5.4.0",
    "opentelemetry-sdk==1.45.2",
    "psutil==7.2.2",
    "pytest==9.2.0",
    "pytest-examples==0.0.18",
    "pytest-mock==3.17.0",
    "pytest-timeout==2.4.0",
    "trio==0.35.0",
    "trustme==1.2.1",
    "truststore==0.10.5",
)
