"""Collections are made, opened, searched, and refuse vectors of another kind."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from datetime import date
from functools import partial
from typing import Any

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from taskvec.core import Encoder
from taskvec.core.errors import (
    DimensionError,
    FingerprintError,
    InputError,
    SchemaError,
    StoreError,
    TaskError,
)
from taskvec.integrations.qdrant import (
    AsyncTaskvecCollection,
    Document,
    Explanation,
    Hit,
    TaskvecCollection,
    searching,
    settings,
)
from taskvec.integrations.qdrant.creating import (
    CLIENT_HAS_METADATA,
    SETTINGS_POINT,
    check_quantization,
)
from taskvec.integrations.qdrant.ingesting import point_id
from taskvec.integrations.qdrant.layout import dense_vectors
from tests.embedders import StubEmbedder
from tests.qdrant_clients import URL, Clients, aclients, clients

TEXTS = {
    "files": "open the file and read the list. close the file",
    "json": "parse the json string. return the value or an error",
    "threads": "lock the thread and write to the queue",
    "time": "the date and time as a number",
}
YEARS = {name: 2020 + number for number, name in enumerate(TEXTS)}
DOCUMENTS = [
    Document(name, text, {"year": YEARS[name], "lang": "en" if number % 2 else "de"})
    for number, (name, text) in enumerate(TEXTS.items())
]
ASKED = "read the json file"


def sentences(text: str) -> list[str]:
    return text.split(". ")


@pytest.fixture
def qdrant() -> Iterator[Clients[QdrantClient]]:
    with clients() as made:
        yield made


@pytest.fixture
async def aqdrant() -> AsyncIterator[Clients[AsyncQdrantClient]]:
    async with aclients() as made:
        yield made


@pytest.fixture
def filled(qdrant: Clients[QdrantClient], encoder: Encoder) -> TaskvecCollection:
    """All documents with their sentences, at 8 and 32 dims, with words."""
    made = TaskvecCollection.create(
        qdrant.client, qdrant.name(), embedder=encoder, dims=(32, 8), sparse="bm25"
    )
    made.ingest(DOCUMENTS, splitter=sentences)
    return made


def stored(client: QdrantClient, name: str) -> dict[tuple[str, int], models.Record]:
    records, _ = client.scroll(name, limit=1_000, with_vectors=True)
    found = [record for record in records if record.id != SETTINGS_POINT]
    return {(r.payload["document_id"], r.payload["chunk"]): r for r in found}


def expected(encoder: Encoder, dim: int, asked: str = ASKED) -> dict[tuple[str, int], float]:
    """What each chunk must score, made by the core alone."""
    query = encoder.encode(asked, task="retrieval.query", dim=dim)
    scores: dict[tuple[str, int], float] = {}
    for name, text in TEXTS.items():
        spans = []
        for sentence in sentences(text):
            start = text.index(sentence)
            spans.append((start, start + len(sentence)))
        rows = encoder.encode_chunks(text, spans, task="retrieval.passage", dim=dim)
        scores |= {(name, i): float(row @ query) for i, row in enumerate(rows)}
    return scores


def places(hits: list[Hit]) -> list[tuple[str, int]]:
    return [(hit.document_id, hit.chunk) for hit in hits]


def ranked(scores: dict[tuple[str, int], float]) -> list[tuple[str, int]]:
    return sorted(scores, key=lambda place: -scores[place])


def test_every_dim_of_a_chunk_is_what_the_core_makes(
    filled: TaskvecCollection, qdrant: Clients[QdrantClient], encoder: Encoder
) -> None:
    points = stored(qdrant.client, filled.name)
    text = TEXTS["files"]
    for dim in (8, 32):
        rows = encoder.encode_chunks(text, [(0, 31), (33, 47)], task="retrieval.passage", dim=dim)
        made = [points["files", number].vector[f"d{dim}"] for number in range(2)]
        np.testing.assert_allclose(made, rows, atol=1e-5)


def test_the_largest_dim_ranks_with_the_querys_own_task(
    filled: TaskvecCollection, encoder: Encoder
) -> None:
    scores = expected(encoder, 32)
    hits = filled.search(ASKED, hybrid=False)
    assert places(hits) == ranked(scores)
    for hit in hits:
        assert hit.score == pytest.approx(scores[hit.document_id, hit.chunk], abs=1e-5)


def test_a_hit_knows_where_it_comes_from(filled: TaskvecCollection) -> None:
    for hit in filled.search(ASKED):
        text = TEXTS[hit.document_id]
        assert text[slice(*hit.span)] == hit.text == sentences(text)[hit.chunk]
        assert hit.metadata["year"] == YEARS[hit.document_id]
        assert hit.id == point_id(hit.document_id, hit.chunk)
        assert not hit.scores


def test_few_candidates_leave_out_what_the_small_dim_ranks_low(
    filled: TaskvecCollection, encoder: Encoder
) -> None:
    chosen = ranked(expected(encoder, 8))[:2]
    full = expected(encoder, 32)
    wanted = sorted(chosen, key=lambda place: -full[place])
    assert places(filled.search(ASKED, 2, candidates=2, hybrid=False)) == wanted


def test_three_dims_are_searched_one_after_the_other(
    qdrant: Clients[QdrantClient], encoder: Encoder
) -> None:
    made = TaskvecCollection.create(
        qdrant.client, qdrant.name(), embedder=encoder, dims=[8, 16, 32]
    )
    made.ingest(DOCUMENTS, splitter=sentences)
    told = made.search(ASKED, 1, candidates=3, explain=True)
    assert [(s.name, s.limit, s.found) for s in told.stages[1:]] == [
        ("d8", 3, 3),
        ("d16", 3, 3),
        ("d32", 1, 1),
    ]
    chosen = ranked(expected(encoder, 8))[:3]
    full = expected(encoder, 32)
    assert places(told.hits) == [max(chosen, key=lambda place: full[place])]


def test_one_dim_needs_no_second_stage(qdrant: Clients[QdrantClient], encoder: Encoder) -> None:
    made = TaskvecCollection.create(qdrant.client, qdrant.name(), embedder=encoder, dims=(16,))
    made.ingest(DOCUMENTS, splitter=sentences)
    assert places(made.search(ASKED)) == ranked(expected(encoder, 16))
    assert made.dims == (16,)


def test_by_default_a_small_and_the_full_dim_are_stored(
    qdrant: Clients[QdrantClient], encoder: Encoder
) -> None:
    made = TaskvecCollection.create(qdrant.client, qdrant.name(), embedder=encoder)
    assert (made.dims, made.late_chunking, made.hybrid) == ((16, 32), True, False)
    assert repr(made) == f"TaskvecCollection({made.name!r}, dims=(16, 32))"


def test_chunks_are_read_alone_without_late_chunking(
    qdrant: Clients[QdrantClient], encoder: Encoder
) -> None:
    made = TaskvecCollection.create(
        qdrant.client, qdrant.name(), embedder=encoder, late_chunking=False
    )
    made.ingest(DOCUMENTS, splitter=sentences)
    alone = encoder.encode("close the file", task="retrieval.passage")
    point = stored(qdrant.client, made.name)["files", 1]
    np.testing.assert_allclose(point.vector["d32"], alone, atol=1e-5)


def test_one_task_may_serve_both_roles(qdrant: Clients[QdrantClient], encoder: Encoder) -> None:
    made = TaskvecCollection.create(
        qdrant.client, qdrant.name(), embedder=encoder, task="text-matching"
    )
    made.ingest([Document("a", "parse the json string")])
    assert made.search("parse the json string", 1)[0].score == pytest.approx(1, abs=1e-4)


def test_a_shorter_context_is_read_at_once(qdrant: Clients[QdrantClient], encoder: Encoder) -> None:
    made = TaskvecCollection.create(qdrant.client, qdrant.name(), embedder=encoder, context=20)
    made.ingest(DOCUMENTS, splitter=sentences)
    text = TEXTS["files"]
    alone = encoder.encode_chunks(text[33:], [(0, 14)], task="retrieval.passage")[0]
    point = stored(qdrant.client, made.name)["files", 1]
    np.testing.assert_allclose(point.vector["d32"], alone, atol=1e-5)


FILTERS: dict[str, tuple[Any, set[str]]] = {
    "equal": ({"lang": "en"}, {"json", "time"}),
    "one of": ({"year": [2020, 2022]}, {"files", "threads"}),
    "range": ({"year": {"gte": 2021, "lt": 2023}}, {"json", "threads"}),
    "all of them": ({"lang": "en", "year": {"gt": 2021}}, {"time"}),
    "id": ({"document_id": "json"}, {"json"}),
    "ids": ({"document_id": ["json", "time"], "year": {"gt": 2021}}, {"time"}),
    "nothing": ({}, set(TEXTS)),
    "of Qdrant": (
        models.Filter(
            must_not=[
                models.FieldCondition(key="document_id", match=models.MatchValue(value="time"))
            ]
        ),
        {"files", "json", "threads"},
    ),
}


# Before, the local engine forgets what it is asked for when it groups what it fuses.
GROUPS_FUSED = CLIENT_HAS_METADATA or URL is not None
OPTIONS: list[dict[str, Any]] = [
    {},
    {"hybrid": False},
    {"group_by_document": True, "hybrid": False},
    {"group_by_document": True} if GROUPS_FUSED else {},
]


@pytest.mark.parametrize(("given", "names"), FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("options", OPTIONS)
def test_filters_hold_in_every_kind_of_search(
    given: Any, names: set[str], options: Any, filled: TaskvecCollection
) -> None:
    hits = filled.search(ASKED, filter=given, **options)
    assert {hit.document_id for hit in hits} == names


def test_a_filter_comes_before_the_candidates_are_chosen(filled: TaskvecCollection) -> None:
    # The worst by the small dim alone.
    last = filled.search(ASKED, hybrid=False)[-1].document_id
    year = {"year": YEARS[last]}
    hits = filled.search(ASKED, 1, candidates=1, filter=year, hybrid=False)
    assert [hit.document_id for hit in hits] == [last]


def test_grouping_gives_the_best_chunk_of_each_document(
    filled: TaskvecCollection, encoder: Encoder
) -> None:
    scores = expected(encoder, 32)
    best: dict[str, tuple[str, int]] = {}
    for place in ranked(scores):
        best.setdefault(place[0], place)
    hits = filled.search(ASKED, group_by_document=True, hybrid=False)
    assert places(hits) == list(best.values())
    assert len(filled.search(ASKED, 2, group_by_document=True, hybrid=False)) == 2


def test_a_hybrid_search_fuses_both_ranks(filled: TaskvecCollection, encoder: Encoder) -> None:
    told = filled.search("number", explain=True)
    by_words = [hit for hit in told.hits if "bm25" in hit.scores]
    assert [hit.document_id for hit in by_words] == ["time"]
    dense = ranked(expected(encoder, 32, "number"))
    for hit in told.hits:
        rank = dense.index((hit.document_id, hit.chunk))
        k = 60 if CLIENT_HAS_METADATA else 2  # which came with the same version
        wanted = 1 / (k + rank) + (1 / k if hit in by_words else 0)
        assert hit.score == pytest.approx(wanted, abs=1e-6)


def test_rare_words_weigh_more(filled: TaskvecCollection) -> None:
    told = filled.search("the number", explain=True)
    words = {hit.document_id: hit.scores["bm25"] for hit in told.hits if "bm25" in hit.scores}
    assert max(words, key=lambda name: words[name]) == "time"
    assert len(words) > 1


def test_a_hybrid_search_without_words_is_a_dense_one(filled: TaskvecCollection) -> None:
    assert filled.search("?!") == filled.search("?!", hybrid=False)


def test_explaining_tells_stages_and_scores_before_and_after(
    filled: TaskvecCollection, encoder: Encoder
) -> None:
    told = filled.search(ASKED, 2, hybrid=False, explain=True)
    assert isinstance(told, Explanation)
    assert [(s.name, s.dim, s.limit, s.found) for s in told.stages] == [
        ("encode", 32, None, 1),
        ("d8", 8, 200, 6),
        ("d32", 32, 2, 2),
    ]
    assert all(stage.time_s > 0 for stage in told.stages)
    assert str(told).splitlines()[1].startswith("d8: ")
    plain = filled.search(ASKED, 2, hybrid=False)
    assert places(told.hits) == places(plain)
    before, after = expected(encoder, 8), expected(encoder, 32)
    for hit in told.hits:
        place = (hit.document_id, hit.chunk)
        wanted = {"d8": before[place], "d32": after[place]}
        assert hit.scores == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "last"),
    [({}, "fusion"), ({"group_by_document": True, "hybrid": False}, "groups")],
)
def test_an_explained_search_finds_the_same(
    options: Any, last: str, filled: TaskvecCollection
) -> None:
    told = filled.search(ASKED, 3, explain=True, **options)
    assert told.stages[-1].name == last
    plain = filled.search(ASKED, 3, **options)
    assert [(hit.id, hit.score) for hit in told.hits] == [(hit.id, hit.score) for hit in plain]


BAD_SEARCHES: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"text": 3}, "text is int: expected str"),
    "no k": ({"k": None}, "k is None: expected a whole number at least 1"),
    "k": ({"k": 0}, "k is 0: expected a whole number at least 1"),
    "endless": ({"oversampling": float("inf")}, "oversampling is inf"),
    "candidates": ({"candidates": 2}, "candidates is 2: expected a whole number at least 10"),
    "oversampling": ({"oversampling": 0.5}, "oversampling is 0.5: expected a number at least 1"),
    "no number": ({"oversampling": "2"}, "oversampling is '2'"),
    "filter": ({"filter": ["en"]}, "filter is list"),
}


@pytest.mark.parametrize(("options", "message"), BAD_SEARCHES.values(), ids=BAD_SEARCHES)
def test_searches_that_mean_nothing_are_refused(
    options: dict[str, Any], message: str, filled: TaskvecCollection
) -> None:
    with pytest.raises(InputError, match=message):
        filled.search(**{"text": ASKED, **options})


@pytest.mark.skipif(URL is not None, reason="servers group what they fuse")
def test_grouping_what_an_old_local_engine_would_get_wrong_is_refused(
    filled: TaskvecCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "HAS_RRF_K", False)
    with pytest.raises(InputError, match=r"needs qdrant-client 1\.16 or newer: give hybrid=False"):
        filled.search(ASKED, group_by_document=True)
    assert filled.search(ASKED)


def test_hybrid_search_without_words_stored_is_refused(qdrant: Clients[QdrantClient]) -> None:
    made = TaskvecCollection.create(qdrant.client, qdrant.name(), embedder=StubEmbedder())
    with pytest.raises(InputError, match="create the collection with 'bm25'"):
        made.search("x", hybrid=True)


def test_opening_finds_what_was_stored(
    filled: TaskvecCollection, qdrant: Clients[QdrantClient], encoder: Encoder
) -> None:
    opened = TaskvecCollection.open(qdrant.client, filled.name, embedder=encoder)
    assert opened.dims == (8, 32)
    assert opened.hybrid
    assert opened.search(ASKED) == filled.search(ASKED)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "passage task": ({"passage_task": "separation"}, "passage '.*', not '"),
    "query task": ({"query_task": None}, "query '.*', not '"),
    "both": ({"task": "text-matching"}, "query .*, passage "),
}


@pytest.mark.parametrize(("options", "message"), OTHERS.values(), ids=OTHERS)
def test_other_tasks_are_refused_when_opening_and_creating(
    options: Any,
    message: str,
    filled: TaskvecCollection,
    qdrant: Clients[QdrantClient],
    encoder: Encoder,
) -> None:
    with pytest.raises(FingerprintError, match=message):
        TaskvecCollection.open(qdrant.client, filled.name, embedder=encoder, **options)
    with pytest.raises(FingerprintError, match=message):
        TaskvecCollection.create(
            qdrant.client,
            filled.name,
            embedder=encoder,
            dims=(8, 32),
            sparse="bm25",
            **options,
        )


def test_another_model_is_refused(filled: TaskvecCollection, qdrant: Clients[QdrantClient]) -> None:
    with pytest.raises(FingerprintError, match="the model was trained for"):
        TaskvecCollection.open(qdrant.client, filled.name, embedder=StubEmbedder())
    name = qdrant.name()
    TaskvecCollection.create(qdrant.client, name, embedder=StubEmbedder())
    with pytest.raises(
        FingerprintError, match=r"passage 'stub/.*: the query and the passage task, or the model,"
    ):
        TaskvecCollection.open(qdrant.client, name, embedder=StubEmbedder(name="retrained"))


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "dims": ({"dims": (16,)}, r"dims \(8, 16\), not \(16,\)"),
    "late chunking": ({"late_chunking": False}, "late_chunking True, not False"),
    "context": ({"context": 50}, "context 16000, not 50"),
    "sparse": ({"sparse": "bm25"}, "sparse None, not 'bm25/1'"),
}


@pytest.mark.parametrize(("options", "message"), SETTINGS.values(), ids=SETTINGS)
def test_creating_with_other_settings_is_refused(
    options: Any, message: str, qdrant: Clients[QdrantClient]
) -> None:
    name = qdrant.name()
    TaskvecCollection.create(qdrant.client, name, embedder=StubEmbedder())
    with pytest.raises(FingerprintError, match=message):
        TaskvecCollection.create(qdrant.client, name, embedder=StubEmbedder(), **options)


QUANTIZED = list(itertools.permutations(("scalar", "binary", None), 2))


@pytest.mark.parametrize(("kept", "asked"), QUANTIZED)
async def test_creating_with_another_quantisation_is_refused(
    kept: Any, asked: Any, aqdrant: Clients[AsyncQdrantClient]
) -> None:
    name, embedder = aqdrant.name(), StubEmbedder()
    create = partial(AsyncTaskvecCollection.create, aqdrant.client, name, embedder=embedder)
    await create(quantization=kept)
    with pytest.raises(SchemaError, match=f"has quantization {kept!r}, not {asked!r}: give"):
        await create(quantization=asked)
    assert (await create(quantization=kept)).name == name
    assert (await AsyncTaskvecCollection.open(aqdrant.client, name, embedder=embedder)).name == name


def test_a_quantisation_that_create_cannot_ask_for_is_the_users_own() -> None:
    chosen = models.ProductQuantizationConfig(compression=models.CompressionRatio.X16)
    given = models.ProductQuantization(product=chosen)
    params = models.VectorParams(size=8, distance=models.Distance.COSINE, quantization_config=given)
    check_quantization("docs", 8, dense_vectors((8,), "scalar"), {"d8": params})


def test_creating_again_opens_and_loses_nothing(
    filled: TaskvecCollection, qdrant: Clients[QdrantClient], encoder: Encoder
) -> None:
    again = TaskvecCollection.create(
        qdrant.client, filled.name, embedder=encoder, dims=(8, 32), sparse="bm25"
    )
    assert again.search(ASKED) == filled.search(ASKED)


def test_a_collection_of_something_else_is_refused(qdrant: Clients[QdrantClient]) -> None:
    params = models.VectorParams(size=8, distance=models.Distance.COSINE)
    for metadata in (None, {"taskvec_collection": {"dims": 3}}, {"taskvec_collection": "mine"}):
        name = qdrant.name()
        options = {"metadata": metadata} if CLIENT_HAS_METADATA else {}
        qdrant.client.create_collection(name, params, **options)
        for method in (TaskvecCollection.create, TaskvecCollection.open):
            with pytest.raises(SchemaError, match="was not made by TaskvecCollection"):
                method(qdrant.client, name, embedder=StubEmbedder())


def test_a_collection_is_opened_by_its_alias(
    filled: TaskvecCollection, qdrant: Clients[QdrantClient], encoder: Encoder
) -> None:
    alias = models.CreateAlias(collection_name=filled.name, alias_name=f"{filled.name}_now")
    qdrant.client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    opened = TaskvecCollection.open(qdrant.client, alias.alias_name, embedder=encoder)
    assert opened.search(ASKED) == filled.search(ASKED)


def test_opening_what_does_not_exist_says_so(qdrant: Clients[QdrantClient]) -> None:
    with pytest.raises(StoreError, match="'nothing' does not exist: make it with create"):
        TaskvecCollection.open(qdrant.client, "nothing", embedder=StubEmbedder())


def test_the_small_vector_is_searched_and_the_large_one_lies_on_disk(
    qdrant: Clients[QdrantClient],
) -> None:
    for quantization, shown in (("scalar", "scalar"), ("binary", "binary"), (None, None)):
        name = qdrant.name()
        TaskvecCollection.create(
            qdrant.client, name, embedder=StubEmbedder(), quantization=quantization, sparse="bm25"
        )
        params = qdrant.client.get_collection(name).config.params
        small, full = params.vectors["d8"], params.vectors["d16"]
        assert (small.on_disk, full.on_disk) == (quantization is not None, True)
        assert full.hnsw_config == models.HnswConfigDiff(m=0)
        assert small.hnsw_config is None
        if shown is None:
            assert small.quantization_config is None
        else:
            assert getattr(small.quantization_config, shown).always_ram
        assert full.quantization_config is None
        assert params.sparse_vectors["bm25"].modifier == models.Modifier.IDF


BAD_OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "dim": ({"dims": (8, 100)}, DimensionError, "unknown dim 100 in dims"),
    "dims": ({"dims": 8}, InputError, "dims is 8: expected some of"),
    "no dims": ({"dims": ()}, InputError, r"dims is \(\): expected"),
    "task": ({"query_task": "nope"}, TaskError, "nope"),
    "quantization": ({"quantization": "4bit"}, InputError, "use None, 'scalar' or 'binary'"),
    "sparse": ({"sparse": "splade"}, InputError, "use None or 'bm25'"),
    "index": ({"payload_indexes": {"year": "int"}}, InputError, "unknown payload index 'int'"),
    "indexes": ({"payload_indexes": ["year"]}, InputError, "payload_indexes is list"),
    "context": ({"context": 0}, InputError, "context is 0"),
    "retries": ({"retries": -1}, InputError, "retries is -1"),
    "no retries": ({"retries": None}, InputError, "retries is None"),
    "name": ({"name": ""}, InputError, "name is ''"),
}


@pytest.mark.parametrize(("options", "kind", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_are_refused_before_anything_is_made(
    options: dict[str, Any],
    kind: type[Exception],
    message: str,
    qdrant: Clients[QdrantClient],
    encoder: Encoder,
) -> None:
    name = qdrant.name()
    with pytest.raises(kind, match=message):
        TaskvecCollection.create(
            **{"client": qdrant.client, "name": name, "embedder": encoder, **options}
        )
    assert not qdrant.client.collection_exists(name)


async def test_the_wrong_kind_of_client_is_refused(
    qdrant: Clients[QdrantClient], aqdrant: Clients[AsyncQdrantClient]
) -> None:
    with pytest.raises(InputError, match="AsyncQdrantClient: expected QdrantClient"):
        TaskvecCollection.create(aqdrant.client, "x", embedder=StubEmbedder())
    with pytest.raises(InputError, match="QdrantClient: expected AsyncQdrantClient"):
        await AsyncTaskvecCollection.create(qdrant.client, "x", embedder=StubEmbedder())


def test_dates_are_filtered_by_their_range(qdrant: Clients[QdrantClient]) -> None:
    made = TaskvecCollection.create(qdrant.client, qdrant.name(), embedder=StubEmbedder())
    made.ingest([Document(str(day), "x", {"day": date(2024, 5, day)}) for day in range(1, 6)])
    hits = made.search("x", filter={"day": {"gt": date(2024, 5, 3)}})
    assert {hit.document_id for hit in hits} == {"4", "5"}
    assert hits[0].metadata["day"].startswith("2024-05-0")


async def test_the_awaited_twin_does_the_same(
    aqdrant: Clients[AsyncQdrantClient], filled: TaskvecCollection, encoder: Encoder
) -> None:
    name = aqdrant.name()
    made = await AsyncTaskvecCollection.create(
        aqdrant.client, name, embedder=encoder, dims=(8, 32), sparse="bm25"
    )

    async def coming() -> AsyncIterator[Document]:
        for document in DOCUMENTS:
            yield document

    first = await made.ingest(coming(), splitter=sentences)
    again = await made.ingest(DOCUMENTS, splitter=sentences)
    assert (first.written, first.chunks, again.unchanged) == (4, 6, 4)
    opened = await AsyncTaskvecCollection.open(aqdrant.client, name, embedder=encoder)
    for options in (*OPTIONS[:3], {"filter": {"lang": "en"}}):
        hits = await opened.search(ASKED, **options)
        wanted = filled.search(ASKED, **options)
        assert places(hits) == places(wanted)
        assert [h.score for h in hits] == pytest.approx([h.score for h in wanted], abs=1e-5)
    told = await opened.search(ASKED, 2, explain=True)
    assert [stage.name for stage in told.stages] == ["encode", "d8", "d32", "bm25", "fusion"]
    assert await made.delete(["json", "nothing"]) == 1
    assert {hit.document_id for hit in await made.search(ASKED)} == {"files", "threads", "time"}
    with pytest.raises(FingerprintError):
        await AsyncTaskvecCollection.open(aqdrant.client, name, embedder=StubEmbedder())


def test_points_of_users_own_are_no_hits(
    filled: TaskvecCollection, qdrant: Clients[QdrantClient], encoder: Encoder
) -> None:
    vectors = {f"d{dim}": [1.0] * dim for dim in (8, 32)}
    own = models.PointStruct(id=7, vector=vectors, payload={"mine": True})
    before = filled.search(ASKED)
    qdrant.client.upsert(filled.name, [own], wait=True)
    for options in ({}, {"hybrid": False}):
        assert {hit.id for hit in filled.search(ASKED, **options)} == {hit.id for hit in before}


def test_fields_of_any_name_are_filtered(qdrant: Clients[QdrantClient]) -> None:
    made = TaskvecCollection.create(qdrant.client, qdrant.name(), embedder=StubEmbedder())
    names = ["content-type", "two words", "a/b", "a:b", "\u00fcber"]
    metadata = {**dict.fromkeys(names, "yes"), "deep": {"er": "yes"}, "many": [1, 2]}
    made.ingest([Document("a", "x", metadata), Document("b", "x", dict.fromkeys(names, "no"))])
    for name in (*names, "deep.er"):
        assert [hit.document_id for hit in made.search("x", filter={name: "yes"})] == ["a"]
    assert [hit.document_id for hit in made.search("x", filter={"many[1]": 2})] == ["a"]


def test_metadata_of_the_name_of_the_id_come_before_it(qdrant: Clients[QdrantClient]) -> None:
    made = TaskvecCollection.create(qdrant.client, qdrant.name(), embedder=StubEmbedder())
    named = [Document("a", "x", {"document_id": "b"}), Document("b", "x", {"document_id": "a"})]
    made.ingest([*named, Document("c", "x")])
    for asked, found in (("a", "b"), ("b", "a"), ("c", "c")):
        hits = made.search("x", filter={"document_id": asked})
        assert [hit.document_id for hit in hits] == [found]


@pytest.mark.skipif(URL is not None, reason="only the local engine raises ValueError")
def test_what_the_local_engine_refuses_is_told_as_a_servers_refusal(
    qdrant: Clients[QdrantClient],
) -> None:
    made = TaskvecCollection.create(qdrant.client, qdrant.name(), embedder=StubEmbedder())
    qdrant.client.delete_collection(made.name)
    with pytest.raises(StoreError, match=r"Qdrant refused: Collection .* not found"):
        made.search("x")


def test_words_that_are_counted_otherwise_are_refused_when_opening(
    filled: TaskvecCollection,
    qdrant: Clients[QdrantClient],
    encoder: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(settings.SPARSE, "bm25", "bm25/2")
    with pytest.raises(FingerprintError, match="sparse 'bm25/1', not 'bm25/2'"):
        TaskvecCollection.open(qdrant.client, filled.name, embedder=encoder)


def test_a_context_that_nobody_asked_for_is_no_reason_to_refuse(
    qdrant: Clients[QdrantClient],
) -> None:
    """Its default is another one for a model's name than for the same model, loaded."""
    for late_chunking, again in ((True, {}), (False, {"context": 99})):
        name, options = qdrant.name(), {"embedder": StubEmbedder(), "late_chunking": late_chunking}
        TaskvecCollection.create(qdrant.client, name, context=20, **options)
        made = TaskvecCollection.create(qdrant.client, name, **options, **again)
        assert made._settings.context == 20
        options["late_chunking"] = not late_chunking
        with pytest.raises(FingerprintError, match="late_chunking"):
            TaskvecCollection.create(qdrant.client, name, **options)


async def test_awaited_searches_at_once_do_not_mix(
    aqdrant: Clients[AsyncQdrantClient], encoder: Encoder
) -> None:
    made = await AsyncTaskvecCollection.create(aqdrant.client, aqdrant.name(), embedder=encoder)
    await made.ingest(DOCUMENTS, splitter=sentences)
    asked = [f"list {i} of the queue" for i in range(20)]
    answers = await asyncio.gather(*(made.search(text) for text in asked))
    for text, hits in zip(asked, answers, strict=True):
        assert places(hits) == ranked(expected(encoder, 32, text))


@pytest.mark.parametrize(
    ("dims", "given", "wanted"),
    [
        ((8, 16), None, {"rescore": False}),
        ((8, 16), 1, {"rescore": False}),
        ((8, 16), 3, {"rescore": True, "oversampling": 3.0}),
        ((16,), None, {"rescore": True, "oversampling": 2.0}),
        ((16,), 1, {"rescore": True, "oversampling": 1.0}),
    ],
)
def test_quantised_vectors_give_no_score(
    dims: tuple[int, ...], given: float | None, wanted: dict[str, Any]
) -> None:
    """A larger dim compares what they choose, or the same one unquantised."""
    kept = settings.Settings("query", "passage", dims, True, 1, None, None)
    wish = searching.wish_of(
        kept,
        ASKED,
        3,
        filter=None,
        group_by_document=False,
        hybrid=None,
        candidates=None,
        oversampling=given,
        local=False,
    )
    request = searching._Plan(wish, kept, np.ones(dims[-1], dtype=np.float32)).request()
    prefetch = request.get("prefetch")
    params = prefetch.params if prefetch else request["search_params"]
    assert params.quantization.model_dump(exclude_none=True) == {"ignore": False, **wanted}
    assert not prefetch or prefetch.limit == 200
