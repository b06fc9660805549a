"""The agent's TUF client as the conformance suite of The Update Framework calls it, over HTTP:

pytest tuf_conformance --entrypoint "PYTHON tests/conformance_client.py"     (docs/signing.md says how)
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from milonga_agent.errors import Untrusted
from milonga_agent.trust import Client
from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher


def main() -> int:
    """Run one of init, refresh and download; the exit code says whether all went well."""
    parser = argparse.ArgumentParser()
    for name in ("--metadata-dir", "--target-dir"):
        parser.add_argument(name, type=Path)
    for name in ("--metadata-url", "--target-base-url"):
        parser.add_argument(name, default="")
    parser.add_argument("--target-name", action="append", default=[])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("init").add_argument("trusted_root", type=Path)
    verbs.add_parser("refresh")
    verbs.add_parser("download")
    given = parser.parse_args()
    # The device keeps it beside the metadata as well: all trust begins there, at every start.
    root = given.metadata_dir / "root.json"
    if given.verb == "init":
        shutil.copyfile(given.trusted_root, root)
        return 0
    try:
        client = Client(given.metadata_dir, root.read_bytes(), Urllib3Fetcher(), given.metadata_url)
        client.refresh()
        for name in given.target_name:
            signed = client.target(name)
            client.updater.target_dir = str(given.target_dir)
            if not client.updater.find_cached_target(signed):
                client.updater.download_target(signed, target_base_url=given.target_base_url)
    except (Untrusted, DownloadError, RepositoryError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
