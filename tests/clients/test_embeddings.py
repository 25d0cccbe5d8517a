"""OpenAI's Python client against an engine that embeds: the vectors of sentence-transformers, in the form that the client asks for by itself
(base64) and as numbers."""
import json
import math

import openai
import pytest
import trackside

MODEL = trackside.ROOT / "tests/fixtures/models/qwen3-embedding"
CASES = json.loads((MODEL / "vectors.json").read_text())["cases"]


@pytest.fixture(scope="module")
def client():
    with trackside.running("engine", "--model", str(MODEL), "--port", "0", "--no-kv-events") as bound:
        trackside.until("an engine that is ready", lambda: trackside.ready(bound["address"]))
        yield openai.OpenAI(base_url=f"http://{bound['address']}/v1", api_key="none", max_retries=0, timeout=60)


def normalised(vector):
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector]


def alike(one, other):
    return len(one) == len(other) and max(abs(a - b) for a, b in zip(one, other)) < 1e-4


@pytest.mark.parametrize("form", [openai.NOT_GIVEN, "float"])
def test_vectors_are_those_of_sentence_transformers(client, form):
    answer = client.embeddings.create(model="qwen3-embedding", input=[case["text"] for case in CASES], encoding_format=form)
    assert [one.index for one in answer.data] == list(range(len(CASES)))
    for one, case in zip(answer.data, CASES):
        assert alike(one.embedding, normalised(case["vector"]))
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(len(case["ids"]) for case in CASES)


def test_ids_are_texts(client):
    answer = client.embeddings.create(model="qwen3-embedding", input=CASES[2]["ids"])
    assert alike(answer.data[0].embedding, normalised(CASES[2]["vector"]))


def test_sizes_that_the_model_was_not_trained_for_are_refused(client):
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model="qwen3-embedding", input="a", dimensions=8)


def test_nothing_is_generated(client):
    with pytest.raises(openai.NotFoundError, match="embeds"):
        client.chat.completions.create(model="qwen3-embedding", messages=[{"role": "user", "content": "a"}])
    assert [model.id for model in client.models.list()] == ["qwen3-embedding"]
