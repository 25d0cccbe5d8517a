"""OpenAI's client against /v1/responses: whole, event by event, with tools, refused."""
import json

import openai
import pytest
import trackside

ANSWERS = json.loads((trackside.ROOT / "cli/builtin/answers.json").read_text())["cases"]


@pytest.fixture(scope="session")
def client(engine):
    return openai.OpenAI(base_url=f"http://{engine['address']}/v1", api_key="none", max_retries=0, timeout=60)


def ask(client, stream, **request):
    request = {"model": "builtin", "temperature": 0, "max_output_tokens": 200, **request}
    if not stream:
        return client.responses.create(**request)
    kinds, numbers, said, final = [], [], "", None
    for event in client.responses.create(**request, stream=True):
        kinds.append(event.type)
        numbers.append(event.sequence_number)
        if event.type == "response.output_text.delta":
            said += event.delta
        if event.type in ("response.completed", "response.incomplete"):
            final = event.response
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == f"response.{final.status}"
    assert numbers == list(range(len(numbers)))
    assert said == final.output_text
    return final


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", ANSWERS[:6], ids=lambda case: case["question"])
def test_responses_answer_as_transformers_does(client, case, stream):
    response = ask(client, stream, input=case["question"])
    assert (response.output_text, response.status, response.error) == (case["answer"], "completed", None)
    assert (response.usage.input_tokens, response.usage.output_tokens) == (len(case["prompt_ids"]), len(case["output_ids"]))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_was_cut_says_so(client, stream):
    response = ask(client, stream, input="Tell me a story about a signal.", max_output_tokens=5)
    assert (response.status, response.incomplete_details.reason, response.usage.output_tokens) == ("incomplete", "max_output_tokens", 5)


def test_items_are_taken_as_strings_are(client):
    question = ANSWERS[0]["question"]
    items = [{"role": "user", "content": [{"type": "input_text", "text": question}]}]
    assert ask(client, False, input=items).output_text == ask(client, False, input=question).output_text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_bad_requests_are_the_clients_exceptions(client, stream):
    for request, exception, named in [({"model": "gpt-nine"}, openai.NotFoundError, "gpt-nine"), ({"temperature": -1}, openai.BadRequestError, "temperature")]:
        with pytest.raises(exception) as raised:
            ask(client, stream, **{"input": "Hello", **request})
        assert named in raised.value.body["message"]
