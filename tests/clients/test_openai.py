"""OpenAI's Python client against the engine alone and against the gateway: the same answers, usage and errors through both doors."""
import json

import openai
import pytest
import trackside

# Greedy answers of Hugging Face transformers to the built-in model.
ANSWERS = json.loads((trackside.ROOT / "cli/builtin/answers.json").read_text())["cases"]
STORY = [{"role": "user", "content": "Tell me a story about a signal."}]


@pytest.fixture(scope="session")
def client(door):
    return openai.OpenAI(base_url=f"http://{door}/v1", api_key="none", max_retries=0, timeout=60)


def ask(client, stream, **request):
    """One chat, whole or streamed: (text, finish_reason, usage)."""
    request = {"model": "builtin", "temperature": 0, "max_tokens": 200, **request}
    if not stream:
        answer = client.chat.completions.create(**request)
        assert answer.object == "chat.completion" and answer.choices[0].message.role == "assistant"
        return answer.choices[0].message.content, answer.choices[0].finish_reason, answer.usage
    text, finish, usage, roles = "", None, None, []
    for chunk in client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}):
        assert chunk.object == "chat.completion.chunk"
        if not chunk.choices:
            assert usage is None, "usage is told once"
            usage = chunk.usage
            continue
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        roles += [choice.delta.role] if choice.delta.role else []
        assert finish is None, "nothing follows the chunk that says why the answer ended"
        finish = choice.finish_reason
    assert roles == ["assistant"], "the role is told once, first"
    return text, finish, usage


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case["question"])
def test_chat_answers_as_transformers_does(client, case, stream):
    text, finish, usage = ask(client, stream, messages=[{"role": "user", "content": case["question"]}])
    assert (text, finish) == (case["answer"], "stop")
    prompt, made = len(case["prompt_ids"]), len(case["output_ids"])
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (prompt, made, prompt + made)


# What is asked for beside the messages -> (how the text relates to the whole story, finish_reason, completion tokens or None)
LIMITS = {
    "a length": ({"max_tokens": 5}, str.startswith, "length", 5),
    "the newer name of the length": ({"max_completion_tokens": 7, "max_tokens": openai.omit}, str.startswith, "length", 7),
    "a stop string": ({"stop": ["signal"]}, lambda story, text: text == story.split("signal")[0], "stop", None),
    "the earliest of two stop strings": ({"stop": ["rails", "quiet line"]}, lambda story, text: text == story.split("quiet line")[0], "stop", None),
    "a stop string that stays": ({"stop": ["signal"], "extra_body": {"include_stop_str_in_output": True}},
                                 lambda story, text: text == story.split("signal")[0] + "signal", "stop", None),
    "a stop string that never comes": ({"stop": ["locomotives of Peru"]}, str.__eq__, "stop", None),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_an_answer_ends_where_it_is_told(client, limit, stream):
    request, holds, finish, made = limit
    story, _, _ = ask(client, False, messages=STORY)
    text, reason, usage = ask(client, stream, messages=STORY, **request)
    assert holds(story, text), (story, text)
    assert reason == finish
    assert made in (None, usage.completion_tokens)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", ANSWERS[:3], ids=lambda case: case["question"])
@pytest.mark.parametrize("as_ids", [False, True], ids=["text", "ids"])
def test_completions_take_text_and_ids(client, case, as_ids, stream):
    prompt = case["prompt_ids"] if as_ids else f"<|im_start|>user\n{case['question']}<|im_end|>\n<|im_start|>assistant\n"
    answer = client.completions.create(model="builtin", prompt=prompt, max_tokens=200, temperature=0, stream=stream)
    text = "".join(chunk.choices[0].text for chunk in answer if chunk.choices) if stream else answer.choices[0].text
    assert text == case["answer"]


def test_a_seed_repeats_and_temperature_varies(client):
    def draw(seed):
        return ask(client, False, messages=[{"role": "user", "content": "Describe the colour of a new idea"}], temperature=2.0, seed=seed, max_tokens=24)[0]
    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(5)}) > 1


def test_models_are_listed(client):
    assert [model.id for model in client.models.list().data] == ["builtin"]


# Request -> (exception of the client, HTTP status, what the message names)
REFUSALS = {
    "an unknown model": ({"model": "gpt-nine"}, openai.NotFoundError, 404, "gpt-nine"),
    "a prompt beyond the context": ({"messages": [{"role": "user", "content": "track " * 4000}]}, openai.BadRequestError, 400, "2048"),
    "no messages": ({"messages": []}, openai.BadRequestError, 400, "messages"),
    "a negative length": ({"max_tokens": -1}, openai.BadRequestError, 400, "max_tokens"),
    "a negative temperature": ({"temperature": -1}, openai.BadRequestError, 400, "temperature"),
    "top_p beyond one": ({"top_p": 1.5}, openai.BadRequestError, 400, "top_p"),
    "a role of the wrong type": ({"messages": [{"role": 7, "content": "x"}]}, openai.BadRequestError, 400, ""),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_bad_requests_are_the_clients_exceptions(client, refusal, stream):
    request, exception, status, named = refusal
    with pytest.raises(exception) as raised:
        client.chat.completions.create(**{"model": "builtin", "messages": STORY, **request}, stream=stream)
    assert raised.value.status_code == status
    assert named in raised.value.body["message"]
    assert raised.value.body["code"] == status
    # Nobody else is disturbed: the next request is answered.
    assert ask(client, stream, messages=STORY, max_tokens=4)[1] == "length"


def test_a_client_that_goes_away_frees_the_engine(engine):
    client = openai.OpenAI(base_url=f"http://{engine['address']}/v1", api_key="none", max_retries=0)
    stream = client.completions.create(model="builtin", prompt="Once there was", max_tokens=1900, temperature=0, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()

    def value(name):
        lines = trackside.get(engine["address"], "/metrics")[1].splitlines()
        return [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{")]
    trackside.until("an engine without requests", lambda: value("vllm:num_requests_running") == [0.0])
    assert value("vllm:kv_cache_usage_perc") == [0.0]
