"""OpenAI's client against /v1/responses: whole, event by event, with tools, refused."""
import json

import jsonschema
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


# A tool whose arguments end by themselves, whatever the model is.
TOOL = {"type": "function", "name": "set_signal", "description": "Sets a signal.", "strict": True, "parameters": {
    "type": "object", "properties": {"aspect": {"enum": ["stop", "caution", "clear"]}, "number": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["aspect", "number"], "additionalProperties": False}}
NAMED = {"type": "function", "name": "set_signal"}


@pytest.mark.parametrize("choice", [NAMED, "required"], ids=["named", "required"])
def test_calls_are_items_whole_and_streamed(client, choice):
    request = {"model": "builtin", "input": "Set signal 3 to stop.", "tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": False, "temperature": 0, "max_output_tokens": 200}
    [call] = client.responses.create(**request).output
    assert (call.type, call.name, call.status) == ("function_call", "set_signal", "completed") and call.call_id and call.id != call.call_id
    jsonschema.validate(json.loads(call.arguments), TOOL["parameters"])
    # The client's own accumulation of the stream, which insists on the order of events.
    deltas, kinds = "", []
    with client.responses.stream(**request) as events:
        for event in events:
            kinds.append(event.type)
            if event.type == "response.function_call_arguments.delta":
                deltas += event.delta
                assert event.snapshot == deltas
            if event.type == "response.function_call_arguments.done":
                assert (event.arguments, event.name) == (deltas, "set_signal")
        [streamed] = events.get_final_response().output
    assert (streamed.name, streamed.arguments, deltas) == (call.name, call.arguments, call.arguments)
    assert kinds[2] == "response.output_item.added" and kinds[-2:] == ["response.output_item.done", "response.completed"]
    # The conversation goes on with the call and what came of it, as the client gave them.
    items = [{"role": "user", "content": request["input"]}, call.model_dump(exclude_none=True), {"type": "function_call_output", "call_id": call.call_id, "output": "done"}]
    assert ask(client, True, input=items, max_output_tokens=4).usage.input_tokens > 0


def test_tools_that_would_have_to_run_here_are_refused(client):
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, False, input="Hello", tools=[{"type": "web_search"}])
    assert "web_search" in raised.value.body["message"]
