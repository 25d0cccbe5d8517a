"""Anthropic's Python client against the engine: messages whole and streamed, tools, counts, errors."""
import json

import anthropic
import pytest
import trackside

ANSWERS = json.loads((trackside.ROOT / "cli/builtin/answers.json").read_text())["cases"]
STORY = [{"role": "user", "content": "Tell me a story about a signal."}]
# A tool whose arguments end by themselves, whatever the model is.
TOOL = {"name": "set_signal", "description": "Sets a signal.", "input_schema": {
    "type": "object", "properties": {"aspect": {"enum": ["stop", "caution", "clear"]}, "number": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["aspect", "number"], "additionalProperties": False}}


@pytest.fixture(scope="session")
def client(engine):
    return anthropic.Anthropic(base_url=f"http://{engine['address']}", api_key="none", max_retries=0, timeout=60)


def ask(client, stream, **request):
    # The client's newest version has no argument for the temperature; servers still take it.
    request = {"model": "builtin", "max_tokens": 200, "extra_body": {"temperature": 0}, **request}
    if not stream:
        return client.messages.create(**request)
    with client.messages.stream(**request) as events:
        pieces = "".join(events.text_stream)
        message = events.get_final_message()
    assert pieces == "".join(block.text for block in message.content if block.type == "text")
    return message


def text(message):
    return "".join(block.text for block in message.content)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", ANSWERS[:6], ids=lambda case: case["question"])
def test_messages_answer_as_transformers_does(client, case, stream):
    message = ask(client, stream, messages=[{"role": "user", "content": case["question"]}])
    assert (text(message), message.stop_reason, message.role, message.type) == (case["answer"], "end_turn", "assistant", "message")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (len(case["prompt_ids"]), len(case["output_ids"]))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_message_ends_where_it_is_told(client, stream):
    story = text(ask(client, False, messages=STORY))
    short = ask(client, stream, messages=STORY, max_tokens=5)
    assert story.startswith(text(short)) and (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 5)
    cut = ask(client, stream, messages=STORY, stop_sequences=["signal"])
    assert (text(cut), cut.stop_reason, cut.stop_sequence) == (story.split("signal")[0], "stop_sequence", "signal")


def test_tokens_are_counted_as_they_run(client):
    counted = client.messages.count_tokens(model="builtin", messages=STORY, system="Be brief.").input_tokens
    assert counted == ask(client, False, messages=STORY, system="Be brief.", max_tokens=1).usage.input_tokens


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_tool_that_must_be_called_is_called(client, stream):
    message = ask(client, stream, messages=STORY, tools=[TOOL], tool_choice={"type": "tool", "name": "set_signal"})
    [call] = [block for block in message.content if block.type == "tool_use"]
    assert message.stop_reason == "tool_use" and call.name == "set_signal" and call.id
    assert call.input["aspect"] in ("stop", "caution", "clear") and 1 <= call.input["number"] <= 9 and len(call.input) == 2
    # Its result is taken, and the conversation goes on.
    history = [*STORY, {"role": "assistant", "content": [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.input}]},
               {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "done"}]}]
    assert ask(client, stream, messages=history, max_tokens=4).stop_reason in ("max_tokens", "end_turn")


# request -> (exception, what its message names)
REFUSALS = {
    "an unknown model": ({"model": "claude-nine"}, anthropic.NotFoundError, "claude-nine"),
    "no messages": ({"messages": []}, anthropic.BadRequestError, "messages"),
    "a temperature beyond its range": ({"extra_body": {"temperature": 9.0}}, anthropic.BadRequestError, "temperature"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_bad_requests_are_the_clients_exceptions(client, refusal, stream):
    request, exception, named = refusal
    with pytest.raises(exception) as raised:
        ask(client, stream, **{"messages": STORY, **request})
    assert raised.value.body["type"] == "error" and named in raised.value.body["error"]["message"]
