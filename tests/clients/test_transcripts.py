"""What models write when they call tools, in the formats that templates show, as OpenAI's client reads it, whole and streamed.

A tiny model with a template that speaks of the format writes the transcript because a choice of one text leaves it nothing else.
"""
import contextlib
import json
import shutil

import openai
import pytest
import trackside

TINY = trackside.ROOT / "tests/fixtures/models/llama"
PARAMETERS = {"type": "object", "properties": {"aspect": {"type": "string"}, "number": {"type": "integer"}}}
STORY = [{"role": "user", "content": "Set two signals."}]
CALLS = [("set_signal", {"aspect": "stop", "number": 3}), ("list_signals", {})]

# Name -> (what the template shows, what the model writes before and in its calls)
FORMATS = {
    "hermes": ("<tool_call>", 'I do.\n<tool_call>\n{"name": "set_signal", "arguments": {"aspect": "stop", "number": 3}}\n</tool_call>\n<tool_call>\n{"name": "list_signals", "arguments": {}}\n</tool_call>'),
    "llama3_json": ("<|python_tag|>", '<|python_tag|>{"name": "set_signal", "parameters": {"aspect": "stop", "number": 3}}; {"name": "list_signals", "parameters": {}}'),
    "mistral": ("[TOOL_CALLS]", 'I do.[TOOL_CALLS]set_signal[ARGS]{"aspect": "stop", "number": 3}[TOOL_CALLS]list_signals[ARGS]{}'),
    "qwen3_coder": ("<function= <parameter=", "<tool_call>\n<function=set_signal>\n<parameter=aspect>\nstop\n</parameter>\n<parameter=number>\n3\n</parameter>\n</function>\n</tool_call>\n"
                    "<tool_call>\n<function=list_signals>\n</function>\n</tool_call>"),
    "llama4_pythonic": ("<|python_start|>", '<|python_start|>[set_signal(aspect="stop", number=3), list_signals()]<|python_end|>'),
    "jamba": ("<tool_calls>", '<tool_calls>[{"name": "set_signal", "arguments": {"aspect": "stop", "number": 3}}, {"name": "list_signals", "arguments": {}}]</tool_calls>'),
}


@pytest.fixture(scope="module", params=FORMATS.items(), ids=FORMATS)
def speaker(request, tmp_path_factory):
    """(client, what the model writes)"""
    name, (shown, transcript) = request.param
    folder = tmp_path_factory.mktemp(name) / "model"
    shutil.copytree(TINY, folder)
    template = (TINY / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text("{# " + shown + " #}" + template)
    with contextlib.ExitStack() as stack:
        bound = stack.enter_context(trackside.running("engine", "--model", str(folder), "--served-model-name", "tiny", "--port", "0", "--no-kv-events"))
        trackside.until("an engine that is ready", lambda: trackside.ready(bound["address"]))
        yield openai.OpenAI(base_url=f"http://{bound['address']}/v1", api_key="none", max_retries=0, timeout=60), transcript


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_chat_reads_calls(speaker, stream):
    client, transcript = speaker
    tools = [{"type": "function", "function": {"name": name, "parameters": PARAMETERS}} for name, _ in CALLS]
    request = {"model": "tiny", "temperature": 0, "messages": STORY, "tools": tools, "max_tokens": 400, "extra_body": {"structured_outputs": {"choice": [transcript]}}}
    if stream:
        with client.chat.completions.stream(**request) as events:
            for _ in events:
                pass
            choice = events.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**request).choices[0]
    found = [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls]
    assert (found, choice.finish_reason) == (CALLS, "tool_calls")
    assert len({call.id for call in choice.message.tool_calls}) == len(CALLS)
    assert (choice.message.content or "").strip() == ("I do." if transcript.startswith("I do.") else "")
