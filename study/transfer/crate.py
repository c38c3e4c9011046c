"""What an archive says of itself to others: RO-Crate 1.1 metadata, and a page for people.

https://www.researchobject.org/ro-crate/specification/1.1/ (JSON-LD with the words of schema.org).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from study.transfer.members import CRATE

SPECIFICATION = "https://w3id.org/ro/crate/1.1"
TYPES = {
    "jsonl": "application/jsonl",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
    "npz": "application/x-npz",
    "csv": "text/csv",
    "md": "text/markdown",
    "html": "text/html",
    "png": "image/png",
    "tex": "application/x-tex",
    "txt": "text/plain",
    "py": "text/x-python",
    "patch": "text/x-diff",
    "zip": "application/zip",
    "safetensors": "application/octet-stream",
}
"""Media types by ending."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """What only people can say of a study.

    Attributes:
        authors: names, or `Name <https://orcid.org/…>`.
        license: the address of a licence, or its SPDX name; empty: none is given.
    """

    title: str
    authors: Sequence[str] = ()
    license: str = ""


def crate(
    publication: Publication,
    members: Mapping[str, tuple[int, str]],
    about: Mapping[str, Any],
    spaces: Mapping[str, str],
) -> bytes:
    """The file `ro-crate-metadata.json`.

    Args:
        publication: what people say of it.
        members: size in bytes and SHA-256 of all other members, by name.
        about: the content of `study.json`.
        spaces: the folder of each space.
    """
    files = [_file(name, size, digest) for name, (size, digest) in sorted(members.items())]
    people = [_person(author) for author in publication.authors]
    actions = [_action(space, folder, about) for space, folder in spaces.items()]
    folders = [_space(folder, members) for folder in spaces.values()]
    root: dict[str, Any] = {
        "@id": "./",
        "@type": "Dataset",
        "name": publication.title,
        "description": _description(about),
        "datePublished": _date(about["changed"]),
        "hasPart": [_reference(part) for part in (*files, *folders)],
        "mentions": [_reference(action) for action in actions],
    }
    if people:
        root["author"] = [_reference(person) for person in people]
    entities = [*files, *folders, *people, _software(about), *actions]
    if publication.license:
        root["license"], entity = _license(publication.license)
        entities += entity
    descriptor = {
        "@id": CRATE,
        "@type": "CreativeWork",
        "conformsTo": {"@id": SPECIFICATION},
        "about": {"@id": "./"},
    }
    graph = {"@context": f"{SPECIFICATION}/context", "@graph": [descriptor, root, *entities]}
    return json.dumps(graph, indent=1, ensure_ascii=False).encode()


def _reference(entity: Mapping[str, Any]) -> dict[str, str]:
    return {"@id": entity["@id"]}


def _file(name: str, size: int, digest: str) -> dict[str, Any]:
    ending = name.rpartition(".")[2]
    known = {"encodingFormat": TYPES[ending]} if ending in TYPES else {}
    return {
        "@id": name,
        "@type": "File",
        "name": name.rpartition("/")[2],
        "contentSize": str(size),
        "identifier": f"sha256:{digest}",
        **known,
    }


def _person(author: str) -> dict[str, Any]:
    name, _, address = (part.strip(" >") for part in author.partition("<"))
    return {"@id": address or f"#{name.replace(' ', '-')}", "@type": "Person", "name": name}


def _license(given: str) -> tuple[dict[str, str], list[dict[str, Any]]]:
    address = given if "://" in given else f"https://spdx.org/licenses/{given}"
    return {"@id": address}, [{"@id": address, "@type": "CreativeWork", "name": given}]


def _software(about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@id": "#study",
        "@type": "SoftwareApplication",
        "name": "siamese-barlow-twins",
        "version": ", ".join(about["versions"]) or "unknown",
    }


def _space(folder: str, members: Mapping[str, Any]) -> dict[str, Any]:
    parts = [{"@id": name} for name in sorted(members) if name.startswith(folder)]
    return {"@id": folder, "@type": "Dataset", "name": folder, "hasPart": parts}


def _action(space: str, folder: str, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@id": f"#space-{space}",
        "@type": "CreateAction",
        "name": f"the trials of the space {space}, and their report",
        "instrument": {"@id": "#study"},
        "endTime": _date(about["changed"]),
        "result": {"@id": folder},
    }


def _date(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def _description(about: Mapping[str, Any]) -> str:
    trials = about["trials"]
    counts = ", ".join(f"{count} {status.lower()}" for status, count in sorted(trials.items()))
    kept = "with all that their runs keep"
    if about["lean"]:
        kept = "without features, images, weights, tracebacks and saved states, and of their predictions"
        kept += " the classes alone"
    return f"Trials of the experiment {about['experiment']}: {counts or 'none'}, {kept}."


def page(publication: Publication, about: Mapping[str, Any], file: str) -> bytes:
    """The file `README.md` of an archive named `file`."""
    studies = "".join(
        f"- `{folder}`: the report of the space `{space}`\n" for space, folder in about["folders"].items()
    )
    data = "".join(f"- {name}: `{digest}`\n" for name, digest in about["datasets"].items())
    code = "".join(f"- `{commit}`\n" for commit in about["commits"])
    return f"""# {publication.title}

{_description(about)}

{studies}- `trials.jsonl`: a line for each trial: its fields, final metrics, and how it was run
- `trials/KEY/`: the trial's metrics of each epoch (`points.parquet`) and what it kept
- `checkpoints/`, `results/`: saved states of trials that were not finished, results that were not logged yet
- `ro-crate-metadata.json`: the same for programs (RO-Crate 1.1)

Check it: `sha256sum -c SHA256SUMS`. Read it with pandas:

```python
import pandas
trials = pandas.read_json("trials.jsonl", lines=True)
```

Take its trials into a ledger of your own: `python study/merge.py {file} --output runs`. Train some again and
compare: `python study/merge.py {file} --verify 3`.

## Data (SHA-256 of the prepared images)

{data or "None was recorded."}
## Code (commits)

{code or "None was recorded."}
Changes that were not committed are in `code/code-*.patch`; `code/environment-*.txt` has the versions of all
packages.
""".encode()
