"""vLLM 0.33's own protocol classes decode our answers, and know every key in them.

Needs the modules (tests/clients/fetch-vllm.sh, or VLLM=an unpacked wheel); skipped, and says so, where they are not.
"""
import json
import os
import urllib.error

import openai.types.responses
import pydantic
import pytest
import trackside

FOLDER = os.environ.get("VLLM", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="vLLM's protocol modules are not here: tests/clients/fetch-vllm.sh fetches them")

STORY = [{"role": "user", "content": "Tell me a story about a signal."}]
CHAT = {"model": "builtin", "messages": STORY, "max_completion_tokens": 12, "temperature": 0}
TEXT = {"model": "builtin", "prompt": "Once there was a", "max_tokens": 12, "temperature": 0}
IDS = {"model": "builtin", "token_ids": [5, 6, 7], "sampling_params": {"max_tokens": 5, "temperature": 0}}
RESPONSE = {"model": "builtin", "input": "Tell me a story.", "max_output_tokens": 12, "temperature": 0}
MESSAGE = {"model": "builtin", "messages": STORY, "max_tokens": 12, "temperature": 0}
SCHEMA = {"type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}}, "required": ["zone"], "additionalProperties": False}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture(scope="session")
def vllm():
    import vllm_protocol
    return vllm_protocol.load(FOLDER)


# A request whose class asks vLLM's own `SamplingParams`, for which there is a stand-in only.
UNREADABLE = None
# name -> (path, body, request class, answer class)
WHOLE = {
    "a chat": ("/v1/chat/completions", CHAT, "chat.ChatCompletionRequest", "chat.ChatCompletionResponse"),
    "a chat with log-probabilities": ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 3}, "chat.ChatCompletionRequest", "chat.ChatCompletionResponse"),
    "three chats": ("/v1/chat/completions", {**CHAT, "n": 3, "temperature": 1, "seed": 5, "return_token_ids": True}, "chat.ChatCompletionRequest", "chat.ChatCompletionResponse"),
    "a completion": ("/v1/completions", TEXT, "completion.CompletionRequest", "completion.CompletionResponse"),
    "a completion with log-probabilities": ("/v1/completions", {**TEXT, "logprobs": 2, "echo": True}, "completion.CompletionRequest", "completion.CompletionResponse"),
    "completions of several prompts": ("/v1/completions", {**TEXT, "prompt": ["Once", "There"], "n": 2, "temperature": 1}, "completion.CompletionRequest", "completion.CompletionResponse"),
    "tokens of a text": ("/tokenize", {"model": "builtin", "prompt": "Once there was", "return_token_strs": True}, "tokenize.TokenizeCompletionRequest", "tokenize.TokenizeResponse"),
    "tokens of a chat": ("/tokenize", {"model": "builtin", "messages": STORY}, "tokenize.TokenizeChatRequest", "tokenize.TokenizeResponse"),
    "tokens in, tokens out": ("/inference/v1/generate", IDS, "generate.GenerateRequest", "generate.GenerateTokensResponse"),
    "tokens in, text out": ("/inference/v1/generate", {**IDS, "output_mode": "text"}, UNREADABLE, "generate.GenerateTextResponse"),
    "tokens with log-probabilities": ("/inference/v1/generate", {**IDS, "sampling_params": {"max_tokens": 5, "temperature": 0, "logprobs": 2, "prompt_logprobs": 1}},
                                      "generate.GenerateRequest", "generate.GenerateTokensResponse"),
    "a rendered chat": ("/v1/chat/completions/render", CHAT, "chat.ChatCompletionRequest", "generate.GenerateRequest"),
    "a response": ("/v1/responses", RESPONSE, "responses.ResponsesRequest", "responses.ResponsesResponse"),
    "a response that was cut": ("/v1/responses", {**RESPONSE, "max_output_tokens": 3}, "responses.ResponsesRequest", "responses.ResponsesResponse"),
    "a message": ("/v1/messages", MESSAGE, "anthropic.AnthropicMessagesRequest", "anthropic.AnthropicMessagesResponse"),
    "a message that must call": ("/v1/messages", {**MESSAGE, "max_tokens": 200, "tools": [{"name": "now", "input_schema": SCHEMA}], "tool_choice": {"type": "tool", "name": "now"}},
                                 "anthropic.AnthropicMessagesRequest", "anthropic.AnthropicMessagesResponse"),
    "a count": ("/v1/messages/count_tokens", {"model": "builtin", "messages": STORY}, "anthropic.AnthropicCountTokensRequest", "anthropic.AnthropicCountTokensResponse"),
    "a chat that must call": ("/v1/chat/completions", {**CHAT, "max_completion_tokens": 200, "tool_choice": "required", "tools": [{"type": "function", "function": {"name": "now", "parameters": SCHEMA}}]},
                              "chat.ChatCompletionRequest", "chat.ChatCompletionResponse"),
    "a batch of chats": ("/v1/chat/completions/batch", {**CHAT, "messages": [STORY, STORY]}, "chat.BatchChatCompletionRequest", "chat.ChatCompletionResponse"),
    "a response as ids": ("/v1/responses/render", {"model": "builtin", "input": "Tell me a story."}, "responses.ResponsesRequest", "generate.GenerateRequest"),
    "a chat of ids": ("/v1/chat/completions/derender", {"model": "builtin", "chat_request": CHAT, "generate_response": {
        "request_id": "r", "choices": [{"index": 0, "token_ids": [5, 6, 7], "finish_reason": "length"}]}}, "generate.DerenderChatRequest", "chat.ChatCompletionResponse"),
    "completions of ids": ("/v1/completions/derender", {"model": "builtin", "generate_responses": [{
        "request_id": "r", "choices": [{"index": 0, "token_ids": [5, 6, 7], "finish_reason": "length"}]}]}, "generate.DerenderCompletionRequest", "completion.CompletionResponse"),
    "text of tokens": ("/detokenize", {"model": "builtin", "tokens": [5, 6, 7]}, "tokenize.DetokenizeRequest", "tokenize.DetokenizeResponse"),
}
STREAMS = {
    "a chat": ("/v1/chat/completions", {**CHAT, **USAGE}, "chat.ChatCompletionStreamResponse"),
    "three chats": ("/v1/chat/completions", {**CHAT, **USAGE, "n": 3, "temperature": 1, "return_token_ids": True}, "chat.ChatCompletionStreamResponse"),
    "a chat with log-probabilities": ("/v1/chat/completions", {**CHAT, **USAGE, "logprobs": True, "top_logprobs": 2}, "chat.ChatCompletionStreamResponse"),
    "a completion": ("/v1/completions", {**TEXT, **USAGE}, "completion.CompletionStreamResponse"),
    "a completion with log-probabilities": ("/v1/completions", {**TEXT, **USAGE, "logprobs": 2}, "completion.CompletionStreamResponse"),
    "tokens in, tokens out": ("/inference/v1/generate", {**IDS, **USAGE}, "generate.GenerateTokensStreamResponse"),
    "tokens in, text out": ("/inference/v1/generate", {**IDS, **USAGE, "output_mode": "text"}, "generate.GenerateTextStreamResponse"),
}


def decode(vllm, name, value):
    """By vLLM's class, and no key that it does not know, however deep."""
    module, kind = name.split(".")
    found = getattr(getattr(vllm, module), kind).model_validate(value)
    assert unknown(value, found) == []
    return found


def unknown(value, found, path=""):
    """Keys of the JSON that no field took."""
    if isinstance(found, pydantic.BaseModel) and isinstance(value, dict):
        fields = type(found).model_fields
        taken = {field.alias or name: name for name, field in fields.items()} | {name: name for name in fields}
        strange = [f"{path}.{key}" for key in value if key not in taken]
        return strange + [key for name, item in value.items() if name in taken for key in unknown(item, getattr(found, taken[name]), f"{path}.{name}")]
    if isinstance(found, (list, tuple)) and isinstance(value, list):
        return [key for i, (item, parsed) in enumerate(zip(value, found)) for key in unknown(item, parsed, f"{path}[{i}]")]
    return []


@pytest.mark.parametrize("case", WHOLE.values(), ids=WHOLE)
def test_answers_are_vllms(vllm, engine, case):
    path, body, request, answer = case
    if request is not UNREADABLE:
        decode(vllm, request, body)
    decode(vllm, answer, trackside.post(engine["address"], path, body))


@pytest.mark.parametrize("case", STREAMS.values(), ids=STREAMS)
def test_chunks_are_vllms(vllm, engine, case):
    path, body, kind = case
    events = trackside.events(engine["address"], path, body)
    assert events[-1] == "[DONE]"
    chunks = [decode(vllm, kind, json.loads(event)) for event in events[:-1]]
    assert chunks[-1].usage is not None and not chunks[-1].choices
    finishes = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert len(finishes) == body.get("n", 1)


def test_events_of_a_response_are_vllms(vllm, engine):
    """Those that carry a response are of classes of vLLM's own, the others of the OpenAI client's, as in vLLM."""
    own = {"response.created": "ResponseCreatedEvent", "response.in_progress": "ResponseInProgressEvent", "response.completed": "ResponseCompletedEvent", "response.incomplete": "ResponseIncompleteEvent"}
    theirs = pydantic.TypeAdapter(openai.types.responses.ResponseStreamEvent)
    kinds = []
    for event in map(json.loads, trackside.events(engine["address"], "/v1/responses", {**RESPONSE, "stream": True})):
        kinds.append(event["type"])
        if kind := own.get(event["type"]):
            decode(vllm, f"responses.{kind}", event)
        else:
            assert unknown(event, theirs.validate_python(event)) == []
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.incomplete"


def test_events_of_a_message_are_vllms(vllm, engine):
    events = trackside.events(engine["address"], "/v1/messages", {**MESSAGE, "stream": True})
    kinds = [decode(vllm, "anthropic.AnthropicStreamEvent", json.loads(event)).type for event in events]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"


# path, body, status
ERRORS = {
    "an unknown model": ("/v1/chat/completions", {**CHAT, "model": "gpt-nine"}, 404),
    "a value out of its range": ("/v1/completions", {**TEXT, "top_p": 2}, 400),
    "a token beyond the vocabulary": ("/v1/completions", {**TEXT, "prompt": [10 ** 6]}, 400),
    "no JSON object": ("/v1/completions", [], 400),
    "a response of an unknown model": ("/v1/responses", {**RESPONSE, "model": "gpt-nine"}, 404),
    "a response too hot": ("/v1/responses", {**RESPONSE, "temperature": -1}, 400),
    "tokens of nothing": ("/tokenize", {"model": "builtin"}, 400),
    "text of no tokens": ("/detokenize", {"model": "builtin", "tokens": "x"}, 400),
    "tokens in, out of the vocabulary": ("/inference/v1/generate", {**IDS, "token_ids": [10 ** 6]}, 400),
    "tokens in, of an unknown model": ("/inference/v1/generate", {**IDS, "model": "gpt-nine"}, 404),
}
# As above, in Anthropic's form, with its type of error
MESSAGE_ERRORS = {
    "a message of an unknown model": ("/v1/messages", {**MESSAGE, "model": "gpt-nine"}, 404, "not_found_error"),
    "a message of nothing": ("/v1/messages", {**MESSAGE, "messages": []}, 400, "invalid_request_error"),
    "a count of nothing": ("/v1/messages/count_tokens", {"model": "builtin"}, 400, "invalid_request_error"),
}


def refused(engine, path, body, status):
    with pytest.raises(urllib.error.HTTPError) as raised:
        trackside.post(engine["address"], path, body)
    assert raised.value.code == status
    return json.load(raised.value)


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_errors_are_vllms(vllm, engine, case):
    path, body, status = case
    assert decode(vllm, "engine.ErrorResponse", refused(engine, path, body, status)).error.code == status


@pytest.mark.parametrize("case", MESSAGE_ERRORS.values(), ids=MESSAGE_ERRORS)
def test_errors_of_messages_are_vllms(vllm, engine, case):
    path, body, status, kind = case
    assert decode(vllm, "anthropic.AnthropicErrorResponse", refused(engine, path, body, status)).error.type == kind


def test_the_list_of_models_is_vllms(vllm, engine):
    [card] = decode(vllm, "engine.ModelList", json.loads(trackside.get(engine["address"], "/v1/models")[1])).data
    assert (card.id, card.owned_by) == ("builtin", "vllm")
