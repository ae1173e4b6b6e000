"""An index of videos, filled from a table or a folder, and searched by a sentence, a video or a vector."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import DEFAULT_MODEL
from ..encoder import DEFAULT_ENCODER, EncoderSpec, TextEncoder, VideoEncoder
from ..errors import InputTypeError, InputValueError, LibraryError, ModelMismatchError, VideoIndexError, brief
from ..library.sources import absolute_path, list_videos
from ..progress import Track, no_progress
from ..runtime.load import loaded_checkpoint
from ..video.limits import DEFAULT_LIMITS, Limits
from ..video.sampling import DEFAULT_SAMPLING, FrameSampling
from ..video.source import is_url
from ..weights.identity import Checkpoint, Identity
from .address import IndexAddress
from .calibration import Calibration, Calibrator
from .collection import CollectionInfo, VectorSpec
from .copies import MIN_COSINE
from .engine import Engine, open_engine
from .hit import Hit, to_hit, to_video
from .info import IndexInfo, bytes_on_disk
from .relocate import RelocateReport, drop_conflicts, make_path_change, place_changes, plan_moves
from .sync import FolderSync, SyncReport, is_gone
from .values import (
    TAG_SCORE,
    TAG_TEMPLATE,
    check_limit,
    check_min_score,
    check_output_fields,
    check_per_video,
    check_text,
    to_stored_row,
    to_vector,
)

if TYPE_CHECKING:  # at run time they need PyAV, and pyarrow, which an index on a server does not need
    from ..library.local_engine import ReportPosition
    from ..library.table import TableSpec
    from .duplicates import DuplicateReport
    from .tags import Tagged

ADD_BATCH = 2000  # rows that are checked and stored together: 4 MB of vectors


class VideoIndex:
    """An index of videos. Safe to use from several threads at once.

    The index is a collection in a local file, or on a Milvus server. Any number of processes may read and write a local
    index at once: readers see what others have written, and writers take turns. Opening an index does not create the
    collection; :meth:`create`, :meth:`add` and :meth:`sync` do.

    Args:
        uri: a local file whose name ends in ``.db``, created if it is missing; or a server, ``http(s)://HOST:PORT``,
            such as Zilliz Cloud.
        collection: name of the collection.
        token: ``USER:PASSWORD`` or a key, if the server needs one.
        encoder: which model embeds queries and new videos. If it names neither a model nor weights,
            it is the model of the vectors in the index, or ``clip_vit_b32`` for a new index.
        timeout: seconds to wait for an answer from the server, or for another process that writes to the local file.

    Raises:
        IndexUnavailableError: the server does not answer, or another process keeps the local file locked. All methods
            raise it as well.
        VideoIndexError: ``uri`` or ``collection`` is invalid, or the local file cannot be opened.
        InputTypeError, InputValueError: ``uri``, ``collection`` or ``token`` has the wrong type, or ``token`` has
            control characters.
        MissingExtraError: a package of the extra ``retrieval`` or, for a server, ``milvus`` is not installed.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str] = "./videos.db",
        collection: str = "videos",
        *,
        token: str | None = None,
        encoder: EncoderSpec = DEFAULT_ENCODER,
        timeout: float = 10.0,
    ) -> None:
        self.address = IndexAddress(os.fspath(uri) if isinstance(uri, os.PathLike) else uri, collection, token)
        self._encoder = encoder
        self._engine: Engine = open_engine(self.address, timeout)
        self._calibrator = Calibrator(self._engine, self._identify_text, lambda texts: self._text_encoder(texts))

    def __enter__(self) -> VideoIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, or the connection to the server."""
        self._engine.close()
        self._calibrator.close()

    @property
    def model(self) -> Identity | None:
        """Model and weights that computed the vectors; None for a collection that this package did not create."""
        spec = self._engine.require().spec
        return spec.model if spec else None

    @property
    def sampling(self) -> FrameSampling | None:
        """Which frames of each video are embedded; None if the collection does not exist or does not record it."""
        info = self._engine.find()
        return info.spec.sampling if info and info.spec else None

    def create(
        self,
        sampling: FrameSampling | None = None,
        *,
        table: str | os.PathLike[str] | None = None,
    ) -> None:
        """Create the collection, without videos. Does nothing if it exists.

        Args:
            sampling: which frames of each video are embedded; None for the sampling of the table or of an existing
                collection, or else for ``FrameSampling()``.
            table: table written by ``clip4clip embed``. The collection is created for its model, weights and sampling.
                None for the model of this index.

        Raises:
            ModelMismatchError: the model, weights or sampling of the encoder, the table and an existing collection
                differ.
            LibraryError: the table cannot be read.
        """
        if table is None:
            self._require_collection(self._identity, self._dim, sampling)
            return
        spec = _read_table_spec(table)
        if sampling not in (None, spec.sampling):
            raise _sampling_mismatch(f"the table {os.fspath(table)}", spec.sampling, sampling)
        self._require_collection(spec.model, spec.dim, spec.sampling)

    def add(
        self,
        videos: str | os.PathLike[str] | Iterable[Mapping[str, Any]],
        track: Track = no_progress,
    ) -> int:
        """Add videos, or replace those with the same ids. Creates the collection if it does not exist.

        A video that is cut into segments has a row for each. All rows that the index has of a video are replaced by
        those that are added, whatever their number is.

        A new collection records the sampling of the table. For rows it records ``FrameSampling()``: if they come from a
        table with another sampling, call :meth:`create` with that table first.

        If the call is interrupted, repeat it: rows that were already added are replaced by the same rows.

        Args:
            videos: a table written by ``clip4clip embed``, whose failed videos and uniform segments are left out; or
                rows with ``id``, ``path``, ``vector`` (float32, norm 1), ``model`` and ``fingerprint``. The rows of the
                segments of a video share its id as their ``video``, and have ``start`` and ``end`` in seconds. Other
                values of a row that are not None become fields to filter by. If several rows have the same id, the last
                one is used.
            track: progress callback; see :data:`clip4clip.progress.Track`. The number of rows is 0 if it is unknown.

        Returns:
            The number of videos that were added or replaced.

        Raises:
            ModelMismatchError: the vectors are from a different model than those in the index, or than the encoder.
            LibraryError: the table cannot be read.
            InputTypeError: ``videos`` is neither a table nor rows, or a vector is not numbers.
            InputValueError: a row lacks a required field, or has a field that cannot be stored; or its vector has the
                wrong length, is all zeros or is not finite.
        """
        rows, total = self._open_rows(videos)
        added: set[str] = set()
        for batch in _batches_to_add(track(rows, total, "indexing")):
            added |= self._upsert(batch, added)
        self._engine.finish()
        return len(added)

    def search(
        self,
        text: str | None = None,
        *,
        video: str | os.PathLike[str] | bytes | None = None,
        vector: np.ndarray | None = None,
        limit: int = 10,
        filter: str = "",  # noqa: A002  Milvus's word
        since: str | None = None,
        until: str | None = None,
        per_video: int | None = 1,
        min_score: float | None = None,
        output_fields: Sequence[str] = ("*",),
        limits: Limits = DEFAULT_LIMITS,
        **options: Any,
    ) -> list[Hit]:
        """Return the moments nearest to a text, a video or a vector, the nearest first. Pass exactly one of the three.

        A video that is not cut is one moment. Of several moments of a video, those that overlap a nearer one are left
        out: that share more than a quarter of the shorter one with it.

        Args:
            text: a sentence.
            video: a local path, an http(s) URL, or the bytes of a video file. Moments that look like it are found, such
                as the one that it was cut from. Each segment of a video of more than 30 seconds is searched for.
            vector: float32, with the length of the vectors in the index. It must come from the same model, which is not
                checked.
            limit: largest number of moments, up to 16,384.
            filter: condition on the fields, such as ``'duration < 60 and path like "/srv/%"'``, with dates such as
                ``'modified > "2025-06-01"'``. A field that no video has is logged as a warning.
            since: date, such as ``"2025-06-01"`` or ``"2025-06-01T14:30"``, as in filters. Only files that were last
                changed in or after this day, minute or second are found. Files of unknown date, such as those behind
                URLs, are not.
            until: likewise, for files that were last changed in or before it.
            per_video: largest number of moments of each video; None for all.
            min_score: least score of a moment, -1 to 1; None for any. How high a good match scores depends on the
                model: see :meth:`calibration`.
            output_fields: names of the fields that ``Hit.fields`` gets; ``*`` for all.
            limits: how much work decoding ``video`` may take.
            **options: passed to ``MilvusClient.search``, for a server.

        Raises:
            ModelMismatchError: the vectors in the index are from a different model, or different weights, than the
                encoder.
            VideoIndexError: the collection does not exist, or the filter is invalid, for example because it compares a
                field with a value of another kind.
            InputTypeError, InputValueError: an argument is invalid.
            VideoNotFoundError, VideoError: ``video`` cannot be read.
            UnknownNameError, WeightsNotFoundError, CheckpointError, DeviceError: the encoder cannot be loaded.
        """
        if sum(query is not None for query in (text, video, vector)) != 1:
            raise InputTypeError("pass exactly one of text, video and vector")
        _check_query(text)
        limit = check_limit(limit)
        check_per_video(per_video)
        check_min_score(min_score)
        check_output_fields(output_fields)
        condition = self._make_condition(filter, since, until)  # an error here costs no decoding
        vectors = [vector] if vector is not None else self._embed_query(text, video, limits)
        if self._engine.require().spec is None:  # in a collection of another program, each row is a video
            per_video = None
            if min_score is not None:
                raise InputValueError(
                    f"min_score is a cosine similarity, and the collection {self.address.collection!r}, which "
                    "clip4clip did not create, may have another metric: leave min_score out"
                )

        def search(query: np.ndarray) -> list[Hit]:
            hits = self._engine.search(
                query, limit, filter=condition, per_video=per_video, output_fields=output_fields, **options
            )
            # A moment that is left out because it overlaps a nearer one scores no more than that one.
            return _at_least(hits, min_score)

        if len(vectors) == 1:
            return search(vectors[0])
        from .clip_query import merge_hits

        return merge_hits(map(search, vectors), limit, per_video)

    def similar(
        self,
        id: str,  # noqa: A002
        at: float | None = None,
        *,
        limit: int = 10,
        filter: str = "",  # noqa: A002
        per_video: int | None = 1,
        min_score: float | None = None,
        since: str | None = None,
        until: str | None = None,
        output_fields: Sequence[str] = ("*",),
    ) -> list[Hit]:
        """Return the moments that look most like a video of the index, or a moment of it, the most similar first.

        The video itself is not among them. It is not decoded, and no model is loaded: its stored vectors are compared.

        Args:
            id: id of a video, or of a segment.
            at: time of the moment in the video, in seconds; None for the whole video. Then each of its segments is
                searched for, or 100 of them if there are more, and a moment gets its best score. If ``id`` is of a
                segment, None means this segment.
            limit: largest number of moments, up to 16,384.
            filter, since, until, per_video, min_score, output_fields: which moments to find; see :meth:`search`.

        Raises:
            VideoNotFoundError: the index has no video or segment with this id.
            VideoIndexError: the collection does not exist, or was not created by this package, or the filter is
                invalid.
            InputTypeError, InputValueError: an argument is invalid, or ``at`` is after the end of the video.
        """
        limit = check_limit(limit)
        check_per_video(per_video)
        check_min_score(min_score)
        check_output_fields(output_fields)
        condition = self._make_condition(filter, since, until)
        from .similar import read_moment, search_others  # imported here, as it imports a parser

        moment = read_moment(self._engine, id, at)
        results = search_others(self._engine, moment, limit, per_video, condition, output_fields)
        if len(moment.vectors) == 1:
            [hits] = results
        else:
            from .clip_query import merge_hits  # imported here, as it imports PyAV

            hits = merge_hits(results, limit, per_video)
        return _at_least(hits, min_score)

    def calibration(self, wait: bool = True) -> Calibration | None:
        """Return what the best score of a text query means in this index; None if that is unknown.

        A bank of captions is searched for, once for each state of the index. Most of them describe nothing that the
        index has, and a sentence that does scores clearly higher. The vectors of the captions are computed once for
        each model, and kept in the cache folder.

        Args:
            wait: compute what is not known yet. Otherwise, return at once what is known of an earlier state of the
                index, or None, and compute the rest in the background. What fails there is logged.

        Returns:
            The calibration; None for an empty index, and for a collection that this package did not create.

        Raises:
            ModelMismatchError: the vectors in the index are from a different model, or different weights, than the
                encoder.
            VideoIndexError: the collection does not exist.
        """
        if self._engine.require().spec is None:
            return None
        return self._calibrator.compute() if wait else self._calibrator.peek()

    def videos(
        self,
        filter: str = "",  # noqa: A002
        *,
        since: str | None = None,
        until: str | None = None,
        strict: bool = False,
    ) -> Iterator[Hit]:
        """Return an iterator over the videos, in any order, as they are when it begins. Each has the score 1.

        A video that is cut has the fields that its segments share, and their number as the field ``segments``. If there
        is a filter, only segments that match it count.

        Args:
            filter, since, until: which videos; see :meth:`search`.
            strict: raise an error for a field that no video has, rather than log a warning.

        Raises:
            VideoIndexError: the collection does not exist, or the filter is invalid.
            InputTypeError, InputValueError: an argument is invalid.
        """
        hits = self._hits(self._make_condition(filter, since, until, strict), by_video=True)
        return (to_video([*segments]) for _, segments in itertools.groupby(hits, key=lambda hit: hit.video))

    def segments(
        self,
        filter: str = "",  # noqa: A002
        *,
        since: str | None = None,
        until: str | None = None,
        strict: bool = False,
    ) -> Iterator[Hit]:
        """Return an iterator over the segments of the videos, and over the videos that are not cut.

        Arguments and errors are those of :meth:`videos`. The segments of a video may be in any order.
        """
        return self._hits(self._make_condition(filter, since, until, strict))

    def missing(
        self,
        filter: str = "",  # noqa: A002
        *,
        since: str | None = None,
        until: str | None = None,
        strict: bool = False,
        track: Track = no_progress,
    ) -> Iterator[Hit]:
        """Return an iterator over the videos whose files are gone. Videos behind URLs do not count.

        A file counts as gone only if that is certain: not if its folder may not be searched or its server does not
        answer. The files of a disk that is not mounted are gone.

        Args:
            filter, since, until, strict: which videos; see :meth:`videos`.
            track: progress callback; see :data:`clip4clip.progress.Track`. The number of videos is 0 if it is unknown.

        Raises:
            VideoIndexError, InputTypeError, InputValueError: as for :meth:`videos`.
        """
        videos = self.videos(filter, since=since, until=until, strict=strict)
        is_whole = not filter.strip() and since is None and until is None
        checked = track(videos, self.count() if is_whole else 0, "checking")
        return (hit for hit in checked if hit.path and not is_url(hit.path) and is_gone(hit.path))

    def duplicates(self, threshold: float = MIN_COSINE, *, track: Track = no_progress) -> DuplicateReport:
        """Find videos that are the same or contain each other, from their vectors and times: nothing is decoded.

        Args:
            threshold: smallest cosine of two vectors that show the same; see
                :func:`clip4clip.index.duplicates.find_duplicates`.
            track: progress callback; see :data:`clip4clip.progress.Track`.

        Raises:
            VideoIndexError: the collection does not exist, or another program created it.
            InputValueError: ``threshold`` is out of range.
        """
        from .duplicates import ROW_FIELDS, find_duplicates

        if self._engine.require().spec is None:
            raise VideoIndexError(
                f"the collection {self.address.collection!r} was not created by clip4clip: it is unknown which of its "
                "fields are vectors and times"
            )
        rows = track(self._engine.rows(ROW_FIELDS), self._engine.count(), "reading")
        return find_duplicates(rows, threshold, track)

    def info(self) -> IndexInfo:
        """Return a summary of the index. On a server, it reads all rows."""
        info = self._engine.require()
        content = self._engine.content()
        return IndexInfo(
            uri=self.address.uri,
            collection=self.address.collection,
            model=info.spec.model if info.spec else None,
            sampling=info.spec.sampling if info.spec else None,
            videos=content.videos,
            rows=content.rows,
            dim=next(iter(info.dims.values()), 0),
            fields={name: tuple(sorted(kinds)) for name, kinds in sorted(content.kinds.items())},
            bytes=bytes_on_disk(self.address.uri) if self.address.is_local else None,
        )

    def get(self, id: str) -> Hit | None:  # noqa: A002
        """Return the video or the segment with an id, with the score 1; None if the index does not have it.

        A video that is cut is returned as by :meth:`videos`.
        """
        hit = self._engine.get(id)
        if hit is None and (segments := self._engine.rows_of_video(id)):
            return to_video(segments)
        return hit

    def segments_of(self, id: str) -> list[Hit]:  # noqa: A002
        """Return the segments of a video in the order of their times, or the video itself if it is not cut.

        Args:
            id: id of the video, or of one of its segments. An unknown one has no segments.
        """
        if not (rows := self._engine.rows_of_video(id)) and (hit := self._engine.get(id)):
            rows = self._engine.rows_of_video(hit.video) or [hit]
        return sorted(rows, key=lambda hit: (hit.start or 0, hit.end or 0))

    def embed(
        self,
        text: str | None = None,
        *,
        video: str | os.PathLike[str] | bytes | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> list[np.ndarray]:
        """Return the vectors that :meth:`search` looks for: float32 arrays of shape (D,), norm 1.

        It is one vector, or one for each segment of a video of more than 30 seconds. Pass either a text or a video.

        Args:
            text, video, limits: as for :meth:`search`.

        Raises:
            ModelMismatchError, VideoIndexError, InputTypeError, InputValueError, VideoNotFoundError, VideoError: as for
                :meth:`search`.
        """
        if (text is None) == (video is None):
            raise InputTypeError("pass exactly one of text and video")
        _check_query(text)
        return self._embed_query(text, video, limits)

    def check_filter(self, filter: str) -> None:  # noqa: A002
        """Check a filter without a search.

        Raises:
            FilterError: the filter is invalid, or has a field that no video has.
        """
        self._engine.check_filter(filter, strict=True)

    def delete(self, ids: Sequence[str] = (), *, filter: str = "") -> int:  # noqa: A002
        """Remove videos or segments from the index by their ids, and those that match a filter. Their files stay.

        Args:
            ids: ids of videos, which are removed with all of their segments, or of single segments.
            filter: condition on the fields of a segment, or of a video that is not cut.

        Returns:
            The number of removed vectors: of segments, and of videos that are not cut.

        Raises:
            VideoIndexError: the collection does not exist, or the filter is invalid or has a field that no video has.
                Some servers would then delete all videos.
            InputTypeError, InputValueError: ``ids`` is invalid.
        """
        if isinstance(ids, str):
            raise InputTypeError(f"ids must be a list of ids, not the string {brief(ids)}")
        removed = self._engine.delete(ids, filter=filter)
        if removed >= ADD_BATCH:
            self._engine.finish()
        return removed

    def index_field(self, name: str) -> None:
        """Make filters on a field faster, for example if most searches have the filter ``camera == "front"``.

        The field is indexed once, also for videos that are added later. A second call does nothing.

        Args:
            name: name of the field; of ASCII letters, digits and ``_``.

        Raises:
            VideoIndexError: the collection does not exist, or is on a server, which has means of its own.
            InputTypeError, InputValueError: ``name`` is invalid, or the field cannot have an index.
        """
        self._engine.index_field(name)

    def relocate(
        self,
        old: str | os.PathLike[str],
        new: str | os.PathLike[str],
        *,
        force: bool = False,
        dry_run: bool = False,
        track: Track = no_progress,
    ) -> RelocateReport:
        """Change the paths of all videos below a folder that was moved. Their vectors and fields are kept.

        An id that is the path of its video changes, too; other ids stay. A video keeps its old path if its file is not
        at the new one, or if another video of the index has the new one. On a local index all paths change at once, or
        none; on a server, repeat a call that was interrupted.

        Args:
            old: path that the folder had, or the beginning of URLs. It may also be the path of one video. It need not
                exist, and ``/videos/a`` does not mean ``/videos/ab``.
            new: its path now.
            force: also change the paths of videos whose files are not at their new paths, such as those that another
                machine sees under other paths.
            dry_run: change nothing, and only return the report.
            track: progress callback; see :data:`clip4clip.progress.Track`.

        Raises:
            VideoIndexError: the index has no video below ``old``, or none of them can get its new path.
            InputTypeError, InputValueError: ``old`` or ``new`` is invalid, or one is a path and the other a URL.
        """
        change = make_path_change(old, new)
        rows = track(self._engine.rows(["path", "video"]), self._engine.count(), "reading")
        moves, not_found = plan_moves(rows, change, force)
        if not moves:
            raise _no_moves_error(old, new, not_found)
        taken = drop_conflicts(self._engine.rows(["path", "video"]), moves)
        if not moves:
            raise VideoIndexError(
                f"the index already has all {len(taken):,} videos below {os.fspath(old)} whose files are in "
                f"{os.fspath(new)}, such as {next(iter(taken.values()))}. To remove the old ones, use `clip4clip "
                "delete --missing`"
            )
        if not dry_run:
            self._engine.update_paths(*place_changes(moves.values()))
            self._engine.finish()
        return RelocateReport({move.path: move.new_path for move in moves.values()}, not_found, taken)

    def tags(
        self,
        labels: Sequence[str],
        *,
        template: str = TAG_TEMPLATE,
        top: int = 1,
        min_score: float | None = None,
        track: Track = no_progress,
    ) -> Iterator[Tagged]:
        """Return an iterator over all segments, and videos that are not cut, with the labels that fit best to each.

        A score is the share that a label has among all labels, by a softmax with the logit scale of the checkpoint; if
        it does not record one, the cosine similarity.

        Args:
            labels: at least two different ones.
            template: sentence with ``{}`` in the place of the label.
            top: largest number of labels of each segment.
            min_score: least score of a label; None for any.
            track: progress callback; see :data:`clip4clip.progress.Track`.

        Raises:
            ModelMismatchError: the vectors in the index are from a different model, or different weights, than the
                encoder.
            VideoIndexError: the collection does not exist.
            InputTypeError, InputValueError: an argument is invalid.
            UnknownNameError, WeightsNotFoundError, CheckpointError, DeviceError: the encoder cannot be loaded.
        """
        from .tags import Tagger  # imported here, as most commands do not need it

        self._check_model(self._engine.require(), self._identity)
        tagger = Tagger(labels, self._spec, template, top, min_score)
        return tagger(track(self._engine.rows(["*", "vector"]), self._engine.count(), "tagging"))

    def store_tags(self, tagged: Iterable[Tagged]) -> int:
        """Store tags as fields to filter by: ``label`` and ``label_score``, the best, and ``labels``, the list of all.

        They replace earlier tags. Rows whose tags are the same are not written, so a call that was interrupted can be
        repeated. When a video changes and is embedded again, its tags are removed.

        Args:
            tagged: rows of this index with their tags, such as those of :meth:`tags`.

        Returns:
            The number of rows whose tags have changed.

        Raises:
            VideoIndexError: a row has a field ``label`` or ``labels`` without ``label_score``, which is none of its
                tags. Nothing is stored then.
        """
        self._check_no_other_labels()
        changes: dict[str, dict[str, Any]] = {}
        changed = 0
        try:
            for row in tagged:
                fields = row.fields()
                if all(row.hit.fields.get(name) == value for name, value in fields.items()):
                    continue
                changes[row.hit.id] = fields
                changed += 1
                if len(changes) == ADD_BATCH:
                    batch, changes = changes, {}
                    self._engine.update_fields(batch)
        finally:
            if changes:
                self._engine.update_fields(changes)
        if changed:
            self._engine.finish()
        return changed

    def _check_no_other_labels(self) -> None:
        """Raise VideoIndexError if tags would take the place of fields that are no tags."""
        text = f"(exists label or exists labels) and not exists {TAG_SCORE}"
        row = next(iter(self._engine.rows(["label"], text)), None)
        if row is not None:
            name = "label" if "label" in row else "labels"
            raise VideoIndexError(
                f"the field {name!r} of {brief(row['id'])} is none that clip4clip has stored, and tags would replace "
                "it: add the video with another name for this field first"
            )

    def count(self) -> int:
        """Return the number of videos. On a server with videos that are cut, it reads the ids of all segments."""
        return self._engine.count_videos()

    def count_vectors(self) -> int:
        """Return the number of vectors: of segments, and of videos that are not cut."""
        return self._engine.count()

    def sync(
        self,
        folder: str | os.PathLike[str],
        sampling: FrameSampling | None = None,
        *,
        workers: int | None = None,
        retry_failed: bool = False,
        embed_moved: bool = False,
        track: Track = no_progress,
        report_position: ReportPosition | None = None,
    ) -> SyncReport:
        """Synchronise the index with a folder: add new videos, re-embed changed ones, remove deleted ones.

        Videos of other folders are left alone. Videos are compared by path: a video that was added under an id of its
        own keeps this id and its fields. If the call is interrupted, the finished part of the work is kept.

        A file that was moved within the folder, by its name, size and modification time, keeps its vectors and fields.
        A file that looks like one that is gone from another folder is left out: see :attr:`SyncReport.moved`.

        A local index remembers files that cannot be decoded, and tries them again only when they change. Other
        failures, such as files that must not be read, are tried again each time; on a server, all are.

        A folder without any video is an error, and nothing is removed, because its disk may not be mounted. A video is
        not removed either while its folder cannot be listed.

        Args:
            folder: folder to search for videos, with all folders below it.
            sampling: how each video is cut into segments, and which of its frames are embedded; None for the sampling
                of the index, or ``FrameSampling()`` for a new one.
            workers: number of videos decoded at once; None for one per core.
            retry_failed: also try files that could not be decoded before and have not changed.
            embed_moved: also embed files that look like those that are gone from other folders.
            track: progress callback; see :data:`clip4clip.progress.Track`. An item is the list of the rows of a video.
            report_position: callback for the progress within a long video; see
                :data:`clip4clip.library.local_engine.ReportPosition`.

        Raises:
            LibraryError: the folder does not exist, or has no videos.
            ModelMismatchError: the vectors in the index are from a different model, or have a different ``sampling``.
        """
        root = Path(absolute_path(folder))
        if not root.is_dir():
            raise LibraryError(f"no folder at {root}")
        report = SyncReport()
        videos = list_videos(root, unlisted=report.unlisted)
        sampling = self._require_collection(self._identity, self._dim, sampling).sampling
        work = FolderSync(self._engine, root, videos, report)
        to_embed = work.plan(retry_failed, embed_moved)
        from ..library.local_engine import embed_videos  # imported here, as it imports PyAV

        rows = embed_videos(to_embed, self._video_encoder, sampling, workers, report_position)
        work.store(track(rows, len(to_embed), "embedding"), self._identity, self._upsert)
        work.remove_gone()
        if to_embed or report.relocated or report.removed:
            self._engine.finish()
        return report

    @functools.cached_property
    def _spec(self) -> EncoderSpec:
        """The encoder, with the model of the vectors in the index if the caller chose none."""
        info = self._engine.find()
        if info is None:
            return self._encoder
        if info.spec is None:
            raise self._mismatch(info, self._encoder.model_name or DEFAULT_MODEL)
        if self._encoder.contradicts(info.spec.model):
            raise self._mismatch(info, str(self._encoder.model_name))
        return self._encoder.for_vectors_of(info.spec.model)

    @functools.cached_property
    def _checkpoint(self) -> Checkpoint:
        """The checkpoint of the encoder."""
        return self._spec.checkpoint()

    @property
    def _identity(self) -> Identity:
        """What vectors of the encoder can be compared with."""
        return self._checkpoint.identity

    def _identify_text(self) -> str:
        """Return what identifies the text tower; raise ModelMismatchError if its vectors are not those of the index."""
        self._check_model(self._engine.require(), self._identity)
        return self._spec.identify_text()

    @property
    def _dim(self) -> int:
        return self._checkpoint.config.embed_dim

    @functools.cached_property
    def _text_encoder(self) -> TextEncoder:
        encoder = self._spec.text_encoder()
        self._check_loaded(encoder)
        return encoder

    @functools.cached_property
    def _video_encoder(self) -> VideoEncoder:
        encoder = self._spec.video_encoder()
        self._check_loaded(encoder)
        return encoder

    def _check_loaded(self, encoder: TextEncoder | VideoEncoder) -> None:
        """Raise ModelMismatchError if the checkpoint was replaced between its check and the loading of an encoder."""
        checkpoint = loaded_checkpoint(encoder)
        if checkpoint is not None and checkpoint.identity != self._identity:
            raise ModelMismatchError(
                f"{checkpoint.path} was replaced while this index was open: it now has the weights "
                f"{checkpoint.fingerprint}, not {self._identity.fingerprint}. Open the index again"
            )

    def _embed_query(
        self, text: str | None, video: str | os.PathLike[str] | bytes | None, limits: Limits
    ) -> list[np.ndarray]:
        """Return the vectors to search for: several for a long video."""
        info = self._engine.require()
        if info.spec is None:
            raise ModelMismatchError(
                f"the collection {self.address.collection!r} was not created by clip4clip: it can be searched by a "
                "vector, but not by a text or a video"
            )
        self._check_model(info, self._identity)
        if text is not None:
            return [self._text_encoder(text)]
        from .clip_query import embed_clip  # imported here, as it imports PyAV

        return embed_clip(video, self._video_encoder, info.spec.sampling, limits)  # type: ignore[arg-type]

    def _hits(self, condition: str, by_video: bool = False) -> Iterator[Hit]:
        """Return an iterator over the rows that match a filter; see :meth:`clip4clip.index.engine.Engine.rows`."""
        rows = self._engine.rows(["*"], condition, by_video)
        if self._engine.require().spec is not None:
            return map(to_hit, rows)
        # In a collection of another program, each row is a video, and its fields have any meaning.
        return (
            Hit(row["id"], row.get("path", ""), 1.0, {name: row[name] for name in row if name not in ("id", "path")})
            for row in rows
        )

    def _require_collection(self, model: Identity, dim: int, sampling: FrameSampling | None) -> VectorSpec:
        """Return how the vectors of the collection are computed; create the collection if it does not exist.

        Raises:
            ModelMismatchError: the collection has a different model, or a different sampling and ``sampling`` is not
                None.
        """
        if self._encoder.contradicts(model):
            raise ModelMismatchError(
                f"the vectors are of {model}, and this index was opened for the model {self._encoder.model_name}"
            )
        if self._engine.find() is None:
            self._engine.create(VectorSpec(model, sampling or DEFAULT_SAMPLING), dim)
        info = self._engine.require()
        spec = self._check_model(info, model)
        if sampling not in (None, spec.sampling):
            raise _sampling_mismatch(f"the collection {self.address.collection!r}", spec.sampling, sampling)
        return spec

    def _check_model(self, info: CollectionInfo, model: Identity) -> VectorSpec:
        if info.spec is None or info.spec.model != model:
            raise self._mismatch(info, model)
        return info.spec

    def _mismatch(self, info: CollectionInfo, model: Identity | str) -> ModelMismatchError:
        name = repr(self.address.collection)
        if info.spec is None:
            return ModelMismatchError(
                f"the collection {name} was not created by clip4clip: its vectors cannot be compared with vectors of "
                f"{model}"
            )
        return ModelMismatchError(
            f"the collection {name} has vectors of {info.spec.model}, which cannot be compared with vectors of "
            f"{model}. Pass the model and the weights that it was made with (--model, --weights)"
        )

    def _open_rows(
        self, videos: str | os.PathLike[str] | Iterable[Mapping[str, Any]]
    ) -> tuple[Iterable[Mapping[str, Any]], int]:
        """Return rows and their number, 0 if unknown. For a table, also create the collection."""
        if isinstance(videos, str | os.PathLike):
            spec = _read_table_spec(videos)
            from ..library.table import count_rows, read_rows

            self._require_collection(spec.model, spec.dim, spec.sampling)
            return read_rows(videos), count_rows(videos)
        if isinstance(videos, Iterable) and not isinstance(videos, Mapping):
            return videos, len(videos) if isinstance(videos, Sequence) else 0
        raise InputTypeError(f"expected the path of a table or rows as dictionaries, not {brief(videos)}")

    def _upsert(self, rows: Sequence[Mapping[str, Any]], complete: Collection[str] = ()) -> set[str]:
        """Check all rows, then put them in the place of all rows of the same videos, and of those with the same ids.

        Args:
            rows: rows of videos.
            complete: ids of videos whose stored rows are kept, as they have been added before.

        Returns:
            The ids of the videos.
        """
        if not rows:
            return set()
        stored = [to_stored_row(row) for row in rows]
        dim = len(to_vector(rows[0]["vector"], None, f"the vector of {brief(rows[0]['id'])}"))
        for model, fingerprint in dict.fromkeys((row["model"], row["fingerprint"]) for row in rows):
            self._require_collection(Identity(model, fingerprint), dim, None)
        videos = {row["video"] for row in stored}
        self._engine.upsert({row["id"]: row for row in stored}, videos.difference(complete))
        return videos

    def _make_condition(self, filter: str, since: str | None, until: str | None, strict: bool = False) -> str:  # noqa: A002
        """Return a filter that also checks the dates.

        Raises:
            VideoIndexError: the filter is invalid.
            InputTypeError, InputValueError: an argument is invalid.
        """
        conditions = _date_conditions(since, until)
        self._engine.check_filter(filter, strict)  # on its own: "a) or (b" must not become a part of a valid filter
        if filter.strip():
            conditions = [f"({filter})", *conditions] if conditions else [filter]
        return " and ".join(conditions)


def _check_query(text: str | None) -> None:
    """Raise InputValueError for a text without words."""
    if isinstance(text, str) and not text.strip():
        raise InputValueError(f"the text to search for is empty: {brief(text)}")


def _at_least(hits: list[Hit], min_score: float | None) -> list[Hit]:
    return hits if min_score is None else [hit for hit in hits if hit.score >= min_score]


def _batches_to_add(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Yield rows in batches, without those of failed videos and of uniform segments.

    Successive rows of a video are in one batch.
    """
    batch: list[Mapping[str, Any]] = []
    for row in rows:
        if not isinstance(row, Mapping):
            raise InputTypeError(f"a row must be a dictionary, not {brief(row)}")
        if "vector" in row and row["vector"] is None:  # a row without this key is an error instead
            continue
        if len(batch) >= ADD_BATCH and _video_of(row) != _video_of(batch[-1]):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _video_of(row: Mapping[str, Any]) -> Any:
    return row.get("video") or row.get("id")


def _sampling_mismatch(owner: str, sampling: FrameSampling, other: FrameSampling | None) -> ModelMismatchError:
    return ModelMismatchError(
        f"the vectors of {owner} were made with: {sampling}. They cannot be mixed with vectors made with: {other}. Use "
        "the same frames and segments, or another collection"
    )


def _no_moves_error(
    old: str | os.PathLike[str], new: str | os.PathLike[str], not_found: Mapping[str, str]
) -> VideoIndexError:
    """Return the error for a relocation without any file at its new path."""
    if not not_found:
        return VideoIndexError(f"the index has no video below {os.fspath(old)}: `clip4clip list` shows its paths")
    return VideoIndexError(
        f"none of the {len(not_found):,} videos below {os.fspath(old)} is in {os.fspath(new)}; for example, there is "
        f"no file {next(iter(not_found.values()))}. To change their paths anyway, pass force (in a shell, --force)"
    )


def _date_conditions(since: str | None, until: str | None) -> list[str]:
    """Return conditions of a filter on the time of the last change.

    Raises:
        InputTypeError, InputValueError: ``since`` or ``until`` is not a date, or ``since`` is after ``until``.
    """
    periods = {name: _parse_date(text, name) for name, text in (("since", since), ("until", until)) if text is not None}
    if not periods:
        return []
    from .filters.parse import MTIME_FIELD  # imported here, as it imports a parser

    if len(periods) == 2 and periods["since"][0] >= periods["until"][1]:
        raise InputValueError(f"since, {since!r}, is after until, {until!r}")
    conditions = {"since": f"{MTIME_FIELD} >= {{0}}", "until": f"{MTIME_FIELD} < {{1}}"}
    return [conditions[name].format(*period) for name, period in periods.items()]


def _parse_date(text: str, name: str) -> tuple[int, int]:
    from .filters.parse import parse_date

    check_text(text, name)
    try:
        return parse_date(text)
    except ValueError as error:
        raise InputValueError(
            f'{name} is {brief(text)}, {error}: expected a date such as "2025-06-01" or "2025-06-01T14:30"'
        ) from error


def _read_table_spec(table: str | os.PathLike[str]) -> TableSpec:
    from ..library.table import TableSpec

    path = Path(table)
    if path.is_dir():
        raise LibraryError(
            f"{path} is a folder: expected a table written by `clip4clip embed`. To index a folder, use VideoIndex.sync"
        )
    if not path.is_file():
        raise LibraryError(f"there is no table at {path}: write one with `clip4clip embed SOURCE -o FILE.parquet`")
    return TableSpec.read(path)
