"""Drives a server by Qdrant's own Python package.

    python3 tests/clients/drive_qdrant.py URL PICTURES MODEL DIMENSION      # needs qdrant-client, numpy
"""

import sys
import threading
import uuid
import warnings
from importlib.metadata import version

import numpy
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

import checks

url, pictures, MODEL, DIMENSION = sys.argv[1], checks.Pictures(sys.argv[2]), sys.argv[3], int(sys.argv[4])
client = QdrantClient(url=url, cloud_inference=True, timeout=60)
SIZE = 5
A_UUID = "9f2f4c36-4f0a-4f6e-8d0e-2f3a55b7c001"


def image(index):
    return models.Image(image=pictures.text(index), model=MODEL)


def collection(name, vectors=None):
    """An empty collection; what stood there is gone."""
    client.delete_collection(name)
    client.create_collection(name, vectors_config=vectors or models.VectorParams(size=SIZE, distance=models.Distance.COSINE))
    return name


def of_images(name, distance=models.Distance.COSINE):
    return collection(name, models.VectorParams(size=DIMENSION, distance=distance))


def points(count):
    random = numpy.random.default_rng(0)
    rows = random.normal(size=(count, SIZE))
    return [models.PointStruct(id=i + 1, vector=row.tolist(), payload={"row": i, "even": i % 2 == 0}) for i, row in enumerate(rows)]


def refusal(status, call, *arguments, **keywords):
    """The sentence with which a call is refused, in Qdrant's envelope."""
    error = checks.raised(UnexpectedResponse, call, *arguments, **keywords)
    assert error.status_code == status, f"{error.status_code} instead of {status}: {error.content}"
    envelope = error.structured()
    assert isinstance(envelope["time"], (int, float)) and "result" not in envelope, envelope
    return envelope["status"]["error"]


def the_version_check_warns_of_nothing_but_a_client_of_long_ago():
    before = set(threading.enumerate())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        QdrantClient(url=url, cloud_inference=True)
        for thread in set(threading.enumerate()) - before:
            thread.join(30)
    # The server says 1.19; a client minds from two minor versions away.
    near = abs(int(version("qdrant-client").split(".")[1]) - 19) <= 1
    assert bool(caught) != near, [str(warning.message) for warning in caught]
    assert client.info().version == "1.19.0"


def a_server_that_is_not_there_would_be_warned_of():
    before = set(threading.enumerate())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        QdrantClient(url="http://127.0.0.1:1", timeout=5)
        for thread in set(threading.enumerate()) - before:
            thread.join(30)
    assert any("server version" in str(warning.message) for warning in caught)


def a_collection_is_made_found_listed_and_deleted():
    client.delete_collection("pets")
    assert not client.collection_exists("pets")
    assert client.create_collection("pets", vectors_config=models.VectorParams(size=4, distance=models.Distance.DOT))
    assert client.collection_exists("pets")
    assert "pets" in [each.name for each in client.get_collections().collections]
    info = client.get_collection("pets")
    assert info.config.params.vectors == models.VectorParams(size=4, distance=models.Distance.DOT)
    assert (info.status, info.points_count) == (models.CollectionStatus.GREEN, 0)
    assert client.delete_collection("pets") is True
    assert client.delete_collection("pets") is False
    assert not client.collection_exists("pets")


def a_name_that_needs_encoding_is_a_name():
    name = "Zellen, 48 px & mehr"
    collection(name)
    assert name in [each.name for each in client.get_collections().collections]
    assert client.count(name).count == 0
    assert client.delete_collection(name)


def named_vectors_are_echoed_as_they_were_made():
    vectors = {
        "photo": models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE),
        "sketch": models.VectorParams(size=3, distance=models.Distance.EUCLID),
    }
    name = collection("named", vectors)
    assert client.get_collection(name).config.params.vectors == vectors
    client.upsert(name, [models.PointStruct(id=1, vector={"photo": image(0), "sketch": [1, 2, 3]}), models.PointStruct(id=2, vector={"sketch": [1, 2, 4]})])
    hits = client.query_points(name, query=[1, 2, 3], using="sketch").points
    assert [hit.id for hit in hits] == [1, 2] and checks.near([hit.score for hit in hits], [0, 1]), hits
    hits = client.query_points(name, query=image(0), using="photo").points
    assert [hit.id for hit in hits] == [1] and hits[0].score >= 0.9999, hits
    assert "Not existing vector name" in refusal(400, client.query_points, name, query=[1, 2, 3], using="absent")
    assert "Not existing vector name" in refusal(400, client.upsert, name, [models.PointStruct(id=3, vector={"absent": [1]})])


def a_second_collection_of_a_name_is_a_conflict():
    name = collection("taken")
    sentence = refusal(409, client.create_collection, name, vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
    assert "already exists" in sentence and name in sentence, sentence


def a_collection_that_is_not_there_is_not_found():
    client.delete_collection("absent")
    point = [models.PointStruct(id=1, vector=[1.0] * SIZE)]
    for call in (
        lambda: client.get_collection("absent"),
        lambda: client.upsert("absent", point),
        lambda: client.query_points("absent", query=[1.0] * SIZE),
        lambda: client.count("absent"),
        lambda: client.retrieve("absent", [1]),
        lambda: client.delete("absent", [1]),
        # Whether there is such a collection is asked before a picture is embedded for it.
        lambda: client.query_points("absent", query=image(0)),
    ):
        sentence = refusal(404, call)
        assert sentence.startswith("Not found: Collection") and "absent" in sentence, sentence


def points_come_back_as_they_were_sent():
    name = collection("points")
    sent = points(20)
    result = client.upsert(name, sent, wait=True)
    assert result.status == models.UpdateStatus.COMPLETED
    payload = {"text": "ä", "list": [1, 2.5, None, True], "nested": {"a": {"b": []}}}
    client.upsert(name, [models.PointStruct(id=A_UUID, vector=[3, 0, 4, 0, 0], payload=payload)])
    assert client.count(name, exact=True).count == 21
    records = client.retrieve(name, [7, A_UUID, 999, 3], with_vectors=True)
    assert [record.id for record in records] == [7, A_UUID, 3]
    assert records[0].payload == {"row": 6, "even": True}
    assert records[1].payload == payload
    unit = numpy.array(sent[6].vector) / numpy.linalg.norm(sent[6].vector)
    assert checks.near(records[0].vector, unit.tolist(), 1e-6)
    assert checks.near(records[1].vector, [0.6, 0, 0.8, 0, 0], 1e-6)
    assert client.retrieve(name, [7])[0].vector is None
    assert client.retrieve(name, [7], with_payload=False)[0].payload is None
    assert client.get_collection(name).points_count == 21


def an_upsert_replaces_the_whole_point():
    name = collection("replaced")
    client.upsert(name, [models.PointStruct(id=1, vector=[1, 0, 0, 0, 0], payload={"old": True})])
    client.upsert(name, [models.PointStruct(id=1, vector=[0, 1, 0, 0, 0], payload={"new": True})])
    assert client.count(name).count == 1
    record = client.retrieve(name, [1], with_vectors=True)[0]
    assert record.payload == {"new": True} and record.vector == [0, 1, 0, 0, 0]


def a_batch_is_as_good_as_points():
    name = collection("batch")
    sent = points(6)
    batch = models.Batch(ids=[p.id for p in sent], vectors=[p.vector for p in sent], payloads=[p.payload for p in sent])
    client.upsert(name, batch)
    other = collection("no-batch")
    client.upsert(other, sent)
    ids = [p.id for p in sent]
    assert client.retrieve(name, ids, with_vectors=True) == client.retrieve(other, ids, with_vectors=True)


def neighbours_of_a_vector_come_nearest_first():
    name, sent = collection("search"), points(50)
    client.upsert(name, sent)
    rows = numpy.array([p.vector for p in sent])
    rows /= numpy.linalg.norm(rows, axis=1, keepdims=True)
    query = numpy.array([1.0, -0.5, 0.25, 0.0, 2.0])
    scores = rows @ (query / numpy.linalg.norm(query))
    order = numpy.argsort(-scores)
    hits = client.query_points(name, query=query.tolist(), limit=10).points
    assert [hit.id for hit in hits] == (order[:10] + 1).tolist()
    assert checks.near([hit.score for hit in hits], scores[order[:10]].tolist())
    assert hits[0].payload == sent[order[0]].payload and hits[0].vector is None
    later = client.query_points(name, query=query.tolist(), limit=5, offset=5).points
    assert [hit.id for hit in later] == (order[5:10] + 1).tolist()
    enough = client.query_points(name, query=query.tolist(), limit=50, score_threshold=0.5).points
    assert [hit.id for hit in enough] == [i + 1 for i in order if scores[i] >= 0.5]
    hit = client.query_points(name, query=query.tolist(), limit=1, with_payload=["even"], with_vectors=True).points[0]
    assert set(hit.payload) == {"even"} and checks.near(hit.vector, rows[order[0]].tolist(), 1e-6)
    exact = client.query_points(name, query=query.tolist(), limit=10, search_params=models.SearchParams(exact=True)).points
    assert [hit.id for hit in exact] == [hit.id for hit in hits]


def neighbours_of_a_point_leave_the_point_out():
    name, sent = collection("by-id"), points(10)
    sent.append(models.PointStruct(id=A_UUID, vector=sent[2].vector))
    client.upsert(name, sent)
    hits = client.query_points(name, query=3, limit=20).points
    assert hits[0].id == A_UUID and abs(hits[0].score - 1) < 1e-6
    assert len(hits) == 10 and 3 not in [hit.id for hit in hits]
    assert client.query_points(name, query=A_UUID, limit=1).points[0].id == 3
    assert "No point with id 77" in refusal(404, client.query_points, name, query=77)
    assert str(uuid.UUID(int=5)) in refusal(404, client.query_points, name, query=str(uuid.UUID(int=5)))


def pictures_are_stored_and_found():
    name = of_images("pictures")
    client.upsert(name, [models.PointStruct(id=i, vector=image(i), payload={"number": i}) for i in range(8)], wait=True)
    assert client.count(name).count == 8
    for index in range(8):
        hits = client.query_points(name, query=image(index), limit=8).points
        assert hits[0].id == index and hits[0].score >= 0.9999, hits[0]
        assert hits[1].score < hits[0].score - 1e-4 and hits[0].payload == {"number": index}
    stored = client.retrieve(name, [3], with_vectors=True)[0].vector
    assert abs(numpy.linalg.norm(stored) - 1) < 1e-5
    hits = client.query_points(name, query=stored, limit=1).points
    assert hits[0].id == 3 and hits[0].score >= 0.9999
    uri = models.Image(image=pictures.uri(5), model=MODEL)
    assert client.query_points(name, query=uri, limit=1).points[0].id == 5


def pictures_in_a_batch_and_among_vectors_are_stored():
    name = of_images("picture-batch")
    client.upsert(name, models.Batch(ids=[1, 2, 3], vectors=[image(1), image(2), image(3)], payloads=[{"a": 1}, {"a": 2}, {"a": 3}]))
    plain = client.retrieve(name, [1], with_vectors=True)[0].vector
    client.upsert(name, [models.PointStruct(id=10, vector=plain), models.PointStruct(id=4, vector=image(4))])
    assert client.count(name).count == 5
    hits = client.query_points(name, query=image(1), limit=2).points
    assert {hit.id for hit in hits} == {1, 10} and hits[1].score >= 0.9999, hits


def upload_points_stores_pictures_in_batches():
    name = of_images("uploaded")
    client.upload_points(name, [models.PointStruct(id=i, vector=image(i % 8)) for i in range(12)], batch_size=5, wait=True)
    assert client.count(name).count == 12


def a_broken_picture_is_refused_and_nothing_of_its_request_is_stored():
    name = of_images("broken")
    client.upsert(name, [models.PointStruct(id=1, vector=image(1))])
    # A picture past a limit too: to Qdrant every inference that fails is the request's fault.
    for what, text, _ in pictures.broken():
        bad = models.Image(image=text, model=MODEL)
        mixed = [models.PointStruct(id=2, vector=image(2)), models.PointStruct(id=3, vector=bad)]
        for call in (
            lambda: client.upsert(name, mixed),
            lambda: client.upsert(name, models.Batch(ids=[4], vectors=[bad])),
            lambda: client.query_points(name, query=bad),
        ):
            sentence = refusal(400, call)
            assert len(sentence) > 10 and "\n" not in sentence, (what, sentence)
        assert client.count(name).count == 1, what
    assert client.query_points(name, query=image(1), limit=1).points[0].id == 1


def a_picture_for_another_model_or_of_another_kind_is_refused():
    name = of_images("other-model")
    sentence = refusal(400, client.query_points, name, query=models.Image(image=pictures.text(0), model="absent"))
    assert "absent" in sentence, sentence
    sentence = refusal(400, client.query_points, name, query=models.Document(text="a cat", model=MODEL))
    assert "text" in sentence.lower() or "document" in sentence.lower(), sentence
    sentence = refusal(400, client.upsert, name, [models.PointStruct(id=1, vector=models.Image(image=7, model=MODEL))])
    assert sentence, sentence
    assert client.count(name).count == 0


def vectors_that_cannot_be_stored_are_refused_and_nothing_is():
    name = collection("refused")
    good = models.PointStruct(id=1, vector=[1.0] * SIZE)
    sentence = refusal(400, client.upsert, name, [good, models.PointStruct(id=2, vector=[1.0, 2.0])])
    assert f"expected dim: {SIZE}, got 2" in sentence, sentence
    refusal(400, client.upsert, name, [good, models.PointStruct(id=2, vector=[float("nan")] * SIZE)])
    assert "Not existing vector name" in refusal(400, client.upsert, name, [good, models.PointStruct(id=2, vector={"other": [1.0] * SIZE})])
    refusal(400, client.upsert, name, [good, models.PointStruct(id="neither number nor UUID", vector=[1.0] * SIZE)])
    assert client.count(name).count == 0
    assert f"expected dim: {SIZE}, got 1" in refusal(400, client.query_points, name, query=[1.0])


def a_limit_of_zero_and_a_size_of_zero_are_not_valid():
    name = collection("zero")
    refusal(422, client.query_points, name, query=[1.0] * SIZE, limit=0)
    client.delete_collection("none")
    refusal(422, client.create_collection, "none", vectors_config=models.VectorParams(size=0, distance=models.Distance.DOT))
    assert not client.collection_exists("none")


def deleted_points_are_gone_and_absent_ones_are_no_error():
    name = collection("deleted")
    client.upsert(name, points(5) + [models.PointStruct(id=A_UUID, vector=[1.0] * SIZE)])
    result = client.delete(name, models.PointIdsList(points=[2, A_UUID, 99]), wait=True)
    assert result.status == models.UpdateStatus.COMPLETED
    assert client.count(name).count == 4
    assert client.retrieve(name, [2, A_UUID]) == []
    assert 2 not in [hit.id for hit in client.query_points(name, query=[1.0] * SIZE, limit=10).points]


def what_is_missing_yet_says_so_in_qdrants_envelope():
    name = collection("missing")
    for call in (
        lambda: client.create_snapshot(name),
        lambda: client.facet(name, key="a"),
        lambda: client.query_points(name, query=[1.0] * SIZE, query_filter=models.Filter(must=[models.HasIdCondition(has_id=[1])])),
        lambda: client.query_points(name, query=models.RecommendQuery(recommend=models.RecommendInput(positive=[1]))),
    ):
        error = checks.raised(UnexpectedResponse, call)
        assert 400 <= error.status_code < 600 and error.structured()["status"]["error"], error


checks.run([
    the_version_check_warns_of_nothing_but_a_client_of_long_ago,
    a_server_that_is_not_there_would_be_warned_of,
    a_collection_is_made_found_listed_and_deleted,
    a_name_that_needs_encoding_is_a_name,
    named_vectors_are_echoed_as_they_were_made,
    a_second_collection_of_a_name_is_a_conflict,
    a_collection_that_is_not_there_is_not_found,
    points_come_back_as_they_were_sent,
    an_upsert_replaces_the_whole_point,
    a_batch_is_as_good_as_points,
    neighbours_of_a_vector_come_nearest_first,
    neighbours_of_a_point_leave_the_point_out,
    pictures_are_stored_and_found,
    pictures_in_a_batch_and_among_vectors_are_stored,
    upload_points_stores_pictures_in_batches,
    a_broken_picture_is_refused_and_nothing_of_its_request_is_stored,
    a_picture_for_another_model_or_of_another_kind_is_refused,
    vectors_that_cannot_be_stored_are_refused_and_nothing_is,
    a_limit_of_zero_and_a_size_of_zero_are_not_valid,
    deleted_points_are_gone_and_absent_ones_are_no_error,
    what_is_missing_yet_says_so_in_qdrants_envelope,
])
