"""The files of the workspace."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, field

from agentsrv.api.schemas.kinds import DepthNumber, FilePathText, SearchText
from agentsrv.workspace.files.grep import LineMatch
from agentsrv.workspace.files.walk import Entry


class ListFiles(Struct, kw_only=True, rename="camel"):
    path: FilePathText = ""
    include_files: bool = False
    max_depth: DepthNumber | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1)] = 100_000
    include_ignored: bool = False
    details: bool = False


class SearchFiles(Struct, kw_only=True, rename="camel"):
    q: SearchText | UnsetType = UNSET
    root: FilePathText = ""
    path: SearchText = ""
    include_files: bool = False
    max_depth: DepthNumber | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=5000)] = 200
    include_ignored: bool = False


class GrepFiles(Struct, kw_only=True, rename="camel"):
    q: Annotated[str, Meta(pattern=r"^[^\r\n]+\Z", max_length=1000, description="one line of text")]
    path: FilePathText = ""
    ignore_case: bool = True
    max_depth: DepthNumber | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    include_ignored: bool = False


class FileQuery(Struct, kw_only=True):
    path: FilePathText


class DeleteEntry(Struct, kw_only=True):
    path: FilePathText
    recursive: bool = False


class ArchiveDirectory(Struct, kw_only=True, rename="camel"):
    path: FilePathText = ""
    include_ignored: bool = True


class WatchDirectory(Struct, kw_only=True, rename="camel"):
    path: FilePathText = ""
    max_depth: DepthNumber | UnsetType = UNSET


class MakeDirectory(Struct, kw_only=True):
    path: FilePathText
    parents: bool = False


class MoveEntry(Struct, kw_only=True):
    source: FilePathText = field(name="from")
    target: FilePathText = field(name="to")
    overwrite: bool = False


class FileList(Struct, kw_only=True, rename="camel"):
    """`path` and `fullPath` are where it begins, or of a search what was searched for and where.

    `denied`: the server may not read that directory.
    """

    path: str
    full_path: str
    entries: list[Entry]
    count: int
    max_depth: int
    truncated: bool
    current_in_git_repo: bool
    current_git_root: str | None
    current_is_worktree: bool
    current_worktree_dir: str | None
    timestamp: str
    denied: bool | UnsetType = UNSET
    uri: str | UnsetType = UNSET


class LineList(Struct, kw_only=True, rename="camel"):
    path: str
    full_path: str
    matches: list[LineMatch]
    count: int
    truncated: bool
    timestamp: str


class FileView(Struct, kw_only=True, rename="camel"):
    path: str
    size: int
    modified_at: str
    etag: str
    timestamp: str


class UploadedFile(Struct, kw_only=True):
    path: str
    bytes: int


class FilesUploaded(Struct, kw_only=True, rename="camel"):
    path: str
    uploaded_count: int
    skipped_count: int
    files: list[UploadedFile]
    timestamp: str


class DirectoryMade(Struct, kw_only=True):
    path: str
    timestamp: str


class EntryDeleted(Struct, kw_only=True):
    path: str
    timestamp: str
    deleted: bool = True


class EntryMoved(Struct, kw_only=True):
    source: str = field(name="from")
    target: str = field(name="to")
    timestamp: str
