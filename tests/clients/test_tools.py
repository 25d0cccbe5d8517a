"""Tools and forms through OpenAI's client: calls that must be made, histories as agents send them, outputs that validate."""
import json
import random
from typing import Annotated

import jsonschema
import openai
import pydantic
import pytest
import trackside

TOOL = {"type": "function", "function": {"name": "set_signal", "description": "Sets a signal.", "parameters": {
    "type": "object", "properties": {"aspect": {"enum": ["stop", "caution", "clear"]}, "number": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["aspect", "number"], "additionalProperties": False}}}
STORY = [{"role": "user", "content": "Tell me a story about a signal."}]
NAMED = {"type": "function", "function": {"name": "set_signal"}}


@pytest.fixture(scope="session")
def client(door):
    return openai.OpenAI(base_url=f"http://{door}/v1", api_key="none", max_retries=0, timeout=60)


def calls(client, stream, **request):
    """[(id, name, arguments)] and why the answer ended; a stream's pieces are put together as clients do."""
    request = {"model": "builtin", "messages": STORY, "temperature": 0, "max_tokens": 200, **request}
    if not stream:
        choice = client.chat.completions.create(**request).choices[0]
        return [(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls or []], choice.finish_reason
    found, finish = {}, None
    for chunk in client.chat.completions.create(**request, stream=True):
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or []:
                parts = found.setdefault(call.index, {"id": "", "name": "", "arguments": ""})
                parts["id"] = call.id or parts["id"]
                parts["name"] += (call.function.name or "") if call.function else ""
                parts["arguments"] += (call.function.arguments or "") if call.function else ""
    return [(found[i]["id"], found[i]["name"], found[i]["arguments"]) for i in sorted(found)], finish


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("choice", [NAMED, "required"], ids=["named", "required"])
def test_a_call_that_must_be_made_is_made(client, choice, stream):
    found, finish = calls(client, stream, tools=[TOOL], tool_choice=choice, parallel_tool_calls=False)
    [(id, name, arguments)] = found
    assert id and name == "set_signal"
    jsonschema.validate(json.loads(arguments), TOOL["function"]["parameters"])
    # As vLLM and OpenAI: a call that was named ends with "stop", one that was chosen with "tool_calls".
    assert finish == ("stop" if choice is NAMED else "tool_calls")


# Arguments of an earlier call, as agents send them back -> the status of the next answer
HISTORIES = {"an object": ('{"aspect": "stop", "number": 1}', 200), "empty": ("{}", 200), "nothing": ("", 200), "null": ("null", 200), "a list": ("[1]", 400), "broken": ("{bad", 400)}


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_a_conversation_goes_on_after_a_call(client, history):
    arguments, status = history
    call = {"id": "c1", "type": "function", "function": {"name": "set_signal", "arguments": arguments}}
    messages = [*STORY, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1", "content": "done"}, *STORY]
    ask = {"model": "builtin", "messages": messages, "max_tokens": 2}
    if status == 200:
        assert client.chat.completions.create(**ask).choices[0].finish_reason
    else:
        with pytest.raises(openai.BadRequestError) as raised:
            client.chat.completions.create(**ask)
        assert "messages[1].tool_calls[0]" in raised.value.body["message"]


class Signal(pydantic.BaseModel):
    aspect: bool
    marks: list[Annotated[int, pydantic.Field(ge=0, le=99)]] = pydantic.Field(max_length=2)


def test_the_clients_own_parsing_reads_the_answer(client):
    completion = client.chat.completions.parse(model="builtin", messages=STORY, response_format=Signal, max_tokens=200, temperature=0)
    assert isinstance(completion.choices[0].message.parsed, Signal)


def schema(dice, depth=0):
    """A schema whose outputs end by themselves: everything that may repeat has a bound."""
    simple = [
        lambda: {"type": "boolean"}, lambda: {"type": "null"}, lambda: {"const": dice.choice(["x", 3, None, True])},
        lambda: {"enum": dice.sample(["stop", "clear", "Zürich", "a\"b", 1, 2.5, None], dice.randrange(1, 5))},
        lambda: {"type": "integer", "minimum": dice.randrange(-50, 0), "maximum": dice.randrange(0, 500)},
        lambda: {"type": "string", "maxLength": dice.randrange(0, 12)}, lambda: {"type": "string", "pattern": dice.choice(["^[a-f]{1,4}$", "^\\d{2}-\\d{2}$", "^(on|off)$"])},
        lambda: {"type": "string", "format": dice.choice(["time", "uuid", "ipv4"])},
        lambda: {"type": ["boolean", "null"]},
    ]
    if depth == 3:
        return dice.choice(simple)()

    def inner():
        return schema(dice, depth + 1)

    def named():
        names = dice.sample(["name", "kind", "at", "näme", "with space", "n\"q"], dice.randrange(1, 4))
        return {"type": "object", "properties": {name: inner() for name in names}, "required": dice.sample(names, dice.randrange(1, len(names) + 1)), "additionalProperties": False}
    nested = [
        named, named,
        lambda: {"type": "array", "items": inner(), "minItems": 1, "maxItems": 3},
        lambda: {"type": "array", "prefixItems": [inner(), inner()], "items": False, "minItems": 2},
        lambda: {"anyOf": [inner(), inner()]},
        lambda: {"$defs": {"part": inner()}, "type": "object", "properties": {"left": {"$ref": "#/$defs/part"}, "right": {"$ref": "#/$defs/part"}}, "required": ["left"], "additionalProperties": False}
        if depth == 0 else named(),
    ]
    return dice.choice(nested if depth == 0 or dice.random() < 0.5 else simple)()


def test_200_schemas_hold(engine):
    """Every output validates, at temperature 1, by jsonschema with its format checker."""
    for number in range(200):
        form = schema(random.Random(number))
        body = {"model": "builtin", "messages": STORY, "temperature": 1, "seed": number, "max_tokens": 1500,
                "response_format": {"type": "json_schema", "json_schema": {"name": "form", "schema": form, "strict": True}}}
        [choice] = trackside.post(engine["address"], "/v1/chat/completions", body)["choices"]
        assert choice["finish_reason"] == "stop", (number, form, choice)
        validator = jsonschema.Draft202012Validator(form, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
        validator.validate(json.loads(choice["message"]["content"]))
