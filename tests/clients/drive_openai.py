"""Drives a server by OpenAI's own Python package.

    python3 tests/clients/drive_openai.py URL PICTURES      # needs openai, numpy
"""

import base64
import sys

import numpy
import openai

import checks

url, pictures = sys.argv[1], checks.Pictures(sys.argv[2])
client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused")
MODEL = client.models.list().data[0].id


def embed(images, **options):
    return client.embeddings.create(model=MODEL, input=images, **options)


def vector(image, **options):
    return embed(image, **options).data[0].embedding


def the_model_is_listed():
    listed = client.models.list().data
    assert [model.object for model in listed] == ["model"], listed
    assert listed[0].id and isinstance(listed[0].created, int)


def an_answer_has_the_shape_that_openai_documents():
    answer = embed([pictures.uri(0), pictures.uri(1)])
    assert (answer.object, answer.model) == ("list", MODEL), answer
    assert [(item.object, item.index) for item in answer.data] == [("embedding", 0), ("embedding", 1)]
    assert answer.usage.prompt_tokens >= 0 and answer.usage.total_tokens >= 0


def a_data_uri_and_bare_base64_are_the_same_picture():
    assert vector(pictures.uri(0)) == vector(pictures.text(0))


def an_embedding_has_unit_length():
    for index in range(8):
        assert abs(numpy.linalg.norm(numpy.array(vector(pictures.uri(index)))) - 1) < 1e-5


def both_encodings_agree_to_the_last_bit_of_f32():
    for index in range(8):
        by_default = numpy.array(vector(pictures.uri(index)), dtype=numpy.float32)
        as_floats = numpy.array(vector(pictures.uri(index), encoding_format="float"), dtype=numpy.float32)
        assert by_default.tobytes() == as_floats.tobytes(), f"picture {index}"


def base64_that_is_asked_for_is_handed_over_as_text():
    text = vector(pictures.uri(0), encoding_format="base64")
    assert isinstance(text, str)
    values = numpy.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
    assert values.tolist() == numpy.array(vector(pictures.uri(0)), dtype=numpy.float32).tolist()


def a_list_is_answered_in_its_order():
    alone = [vector(pictures.uri(index)) for index in range(8)]
    assert all(not checks.near(alone[i], alone[j]) for i in range(8) for j in range(i))
    together = embed([pictures.uri(index) if index % 2 else pictures.text(index) for index in range(8)]).data
    for index, item in enumerate(together):
        assert item.index == index
        assert checks.near(item.embedding, alone[index]), f"picture {index}"


def an_object_with_an_image_is_accepted():
    body = {"input": [{"image": pictures.text(2)}, {"image": pictures.uri(3)}]}
    answer = client.embeddings.create(model=MODEL, input="replaced", extra_body=body)
    assert checks.near(answer.data[0].embedding, vector(pictures.uri(2)))
    assert checks.near(answer.data[1].embedding, vector(pictures.uri(3)))


def a_broken_picture_is_the_requests_fault_and_is_not_sent_again():
    for what, text, status in pictures.broken():
        for images in (text, [text], [pictures.uri(0), text]):
            requests = []
            hooks = {"request": [requests.append]}
            with openai.DefaultHttpxClient(event_hooks=hooks) as http:
                strict = client.with_options(http_client=http)
                error = checks.raised(openai.APIStatusError, strict.embeddings.create, model=MODEL, input=images)
            assert error.status_code == status and isinstance(error, openai.BadRequestError) == (status == 400), (what, error)
            assert set(error.body) >= {"message", "type", "param", "code"}, (what, error.body)
            assert error.body["message"] and error.code, (what, error.body)
            assert len(requests) == 1, f"{what} was sent {len(requests)} times"


def a_broken_picture_in_a_list_is_named_by_its_place():
    bad = next(pictures.broken())[1]
    error = checks.raised(openai.BadRequestError, embed, [pictures.uri(0), pictures.uri(1), bad])
    assert "2" in f"{error.body['param']} {error.body['message']}", error.body


def an_input_that_is_no_picture_at_all_is_a_bad_request():
    for images in ([], [1, 2, 3], [[1, 2, 3]]):
        checks.raised(openai.BadRequestError, embed, images)


def a_model_that_is_not_there_is_not_found():
    error = checks.raised(openai.NotFoundError, client.embeddings.create, model="absent", input=pictures.uri(0))
    assert "absent" in error.body["message"], error.body


def a_length_that_the_model_does_not_have_is_a_bad_request():
    checks.raised(openai.BadRequestError, embed, pictures.uri(0), dimensions=3)
    assert len(vector(pictures.uri(0), dimensions=len(vector(pictures.uri(0))))) == len(vector(pictures.uri(0)))


def an_unknown_encoding_is_a_bad_request():
    checks.raised(openai.BadRequestError, embed, pictures.uri(0), encoding_format="int8")


def a_body_past_the_limit_is_refused_with_413():
    error = checks.raised(openai.APIStatusError, embed, "A" * (5 << 20))
    assert error.status_code == 413, error
    assert error.body["message"], error.body


def a_route_that_is_not_there_is_not_found_in_openais_shape():
    error = checks.raised(openai.NotFoundError, client.chat.completions.create, model=MODEL, messages=[])
    assert error.body and error.body["message"], error.body


def after_all_that_a_picture_is_still_embedded():
    assert checks.near(vector(pictures.uri(0)), vector(pictures.text(0)))


checks.run([
    the_model_is_listed,
    an_answer_has_the_shape_that_openai_documents,
    a_data_uri_and_bare_base64_are_the_same_picture,
    an_embedding_has_unit_length,
    both_encodings_agree_to_the_last_bit_of_f32,
    base64_that_is_asked_for_is_handed_over_as_text,
    a_list_is_answered_in_its_order,
    an_object_with_an_image_is_accepted,
    a_broken_picture_is_the_requests_fault_and_is_not_sent_again,
    a_broken_picture_in_a_list_is_named_by_its_place,
    an_input_that_is_no_picture_at_all_is_a_bad_request,
    a_model_that_is_not_there_is_not_found,
    a_length_that_the_model_does_not_have_is_a_bad_request,
    an_unknown_encoding_is_a_bad_request,
    a_body_past_the_limit_is_refused_with_413,
    a_route_that_is_not_there_is_not_found_in_openais_shape,
    after_all_that_a_picture_is_still_embedded,
])
