"""Writes the fuzzers' seeds: small files, good and hostile, one folder per target. No packages needed: python3 tests/fuzz/seeds.py"""
import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).parent / "corpus"


def write(target, name, content):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


# --- gguf

def string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key, kind, value):
    return string(key) + struct.pack("<I", kind) + value


def array(kind, items):
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def tensor(name, dims, kind, offset):
    return string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, offset)


def gguf(pairs, tensors=(), data=0, version=3, counts=None):
    n_tensors, n_pairs = counts or (len(tensors), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs) + b"".join(pairs) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32 + data)


def u32(n):
    return struct.pack("<I", n)


def model(tokens):
    texts = [f"t{i}" for i in range(tokens)]
    pairs = [pair("general.architecture", 8, string("llama"))]
    for key, n in [("block_count", 1), ("context_length", 64), ("embedding_length", 32), ("feed_forward_length", 32), ("attention.head_count", 2), ("attention.head_count_kv", 1)]:
        pairs.append(pair(f"llama.{key}", 4, u32(n)))
    pairs.append(pair("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)))
    pairs += [
        pair("tokenizer.ggml.model", 8, string("gpt2")), pair("tokenizer.ggml.pre", 8, string("gpt-2")),
        pair("tokenizer.ggml.tokens", 9, array(8, [string(t) for t in texts])), pair("tokenizer.ggml.token_type", 9, array(5, [u32(1)] * tokens)),
        pair("tokenizer.ggml.merges", 9, array(8, [])), pair("tokenizer.ggml.eos_token_id", 4, u32(1)),
    ]
    tensors, at = [], 0
    shapes = [("token_embd", [32, tokens]), ("output_norm", [32])] + [(f"blk.0.{n}", d) for n, d in [
        ("attn_norm", [32]), ("attn_q", [32, 32]), ("attn_k", [32, 16]), ("attn_v", [32, 16]), ("attn_output", [32, 32]), ("ffn_norm", [32]),
        ("ffn_gate", [32, 32]), ("ffn_up", [32, 32]), ("ffn_down", [32, 32])]]
    for name, dims in shapes:
        count = dims[0] * (dims[1] if len(dims) > 1 else 1)
        matrix = len(dims) > 1
        tensors.append(tensor(name + ".weight", dims, 2 if matrix else 0, at))
        at += -(-(count // 32 * 18 if matrix else count * 4) // 32) * 32
    return gguf(pairs, tensors, at)


write("gguf", "good", model(4))
write("gguf", "huge-key", gguf([struct.pack("<Q", 1 << 48)]))
write("gguf", "empty-key", gguf([pair("", 4, u32(1))]))
write("gguf", "u8-scores", gguf([pair("tokenizer.ggml.scores", 9, array(0, [b"\1"] * 4))]))
write("gguf", "nine-dims", gguf([], [tensor("t", [1] * 9, 0, 0)]))
write("gguf", "wrapping-dims", gguf([], [tensor("t", [1 << 32, 1 << 32, 2], 0, 0)]))
write("gguf", "million-layers", gguf([pair("general.architecture", 8, string("llama")), pair("llama.block_count", 4, u32(1_000_000))]))
write("gguf", "offset-past-end", gguf([], [tensor("t", [32], 0, 1 << 40)]))
write("gguf", "nested-arrays", gguf([pair("k", 9, struct.pack("<IQ", 9, 1) * 100)]))
write("gguf", "split", gguf([pair("split.count", 2, struct.pack("<H", 2))]))
write("gguf", "sentence-piece", gguf([
    pair("general.architecture", 8, string("llama")), pair("tokenizer.ggml.model", 8, string("llama")),
    pair("tokenizer.ggml.tokens", 9, array(8, [string(t) for t in ["<unk>", "<0x0A>", "\u2581", "a", "\u2581a"]])),
    pair("tokenizer.ggml.scores", 9, array(6, [struct.pack("<f", -i) for i in range(5)])),
    pair("tokenizer.ggml.token_type", 9, array(5, [u32(k) for k in [2, 6, 1, 1, 1]]))]))


# --- safetensors

def safetensors(header, data):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + b"\0" * data


F32 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
write("safetensors", "good", safetensors({"__metadata__": {"format": "pt"}, "a": F32, "b": {"dtype": "BF16", "shape": [], "data_offsets": [16, 18]}}, 18))
write("safetensors", "huge-header", struct.pack("<Q", (1 << 64) - 1))
write("safetensors", "backwards", safetensors({"a": {**F32, "data_offsets": [16, 0]}}, 16))
write("safetensors", "hole", safetensors({"a": {**F32, "data_offsets": [16, 32]}}, 32))
write("safetensors", "wrapping", safetensors({"a": {**F32, "shape": [1 << 62, 8]}}, 16))
write("safetensors", "deep", safetensors(b'{"a":' + b"[" * 500, 0))
write("safetensors", "pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")

# --- config

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128}
write("config", "good", json.dumps(LLAMA))
write("config", "version-4", json.dumps({**LLAMA, "rope_theta": 5e5, "rope_scaling": LLAMA3}))
write("config", "version-5", json.dumps({**LLAMA, "rope_parameters": {**LLAMA3, "rope_theta": 5e5}}))
write("config", "byte-order-mark", "\ufeff" + json.dumps(LLAMA, indent=1).replace("\n", "\r\n"))
write("config", "quantised", json.dumps({**LLAMA, "quantization_config": {"quant_method": "awq"}}))
write("config", "huge-numbers", json.dumps({**LLAMA, "num_hidden_layers": 10**18, "hidden_size": 2**63}))
write("config", "negative", json.dumps({**LLAMA, "num_attention_heads": -1, "rope_theta": -1e308}))
write("config", "deep", "[" * 1000)

# --- text assets

MAGIC = b"trackside text assets 2\n"
blob = lambda raw: struct.pack("<Q", len(raw)) + raw
strings = lambda texts: struct.pack("<Q", len(texts)) + b"".join(blob(t.encode()) for t in texts)
TAIL = b"\0" * 10
TOKENIZER = {"version": "1.0", "added_tokens": [{"id": 2, "content": "<e>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}],
             "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
             "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
             "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "<e>": 2, "ab": 3}, "merges": [["a", "b"]]}}
write("text_assets", "folder", MAGIC + b"\0" + blob(json.dumps(TOKENIZER).encode()) + TAIL)
write("text_assets", "gguf", MAGIC + b"\1" + blob(b"gpt2") + b"\1" + blob(b"smollm") + strings(["a", "b", "ab"]) + struct.pack("<Q", 3) + b"\1\1\3"
      + struct.pack("<Q", 0) + strings(["a b"]) + b"\0" + TAIL)
write("text_assets", "sentence-piece", MAGIC + b"\1" + blob(b"llama") + b"\0" + strings(["<unk>", "\u2581", "a", "\u2581a"]) + struct.pack("<Q", 4) + b"\2\1\1\1"
      + struct.pack("<Q4f", 4, 0, -1, -2, -3) + strings([]) + b"\2" + TAIL)
write("text_assets", "huge-claim", MAGIC + b"\0" + struct.pack("<Q", (1 << 64) - 1))

# --- chat templates

write("chat_template", "chatml", "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
write("chat_template", "tools", "{%- if tools is not none -%}{{ tools | tojson(indent=4) }}{%- endif -%}{% for m in messages if m.tool_calls is defined %}{% for c in m.tool_calls %}{{ c.function.arguments.items() | list }}{% endfor %}{% endfor %}")
write("chat_template", "refuses", "{{ raise_exception('Conversation roles must alternate') }}")
write("chat_template", "parts", "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}{% generation %}x{% endgeneration %}")
write("chat_template", "python", "{{ strftime_now('%d %b %Y') }}{{ messages[0].content.strip().split(' ')[-1].upper() }}{{ none }}{{ true }}{{ {'a': [1.0, none]} }}")
write("chat_template", "endless", "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}")
write("chat_template", "doubling", "{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}")
write("chat_template", "recursion", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")

# --- replies: format of tools, format of thoughts, opening, text

REPLIES = [
    "<think>Which zone?</think>It is noon.", "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": 1, \"b\": \"x\"}}\n</tool_call>",
    "[TOOL_CALLS][{\"name\": \"now\", \"arguments\": {}}]", "<|python_tag|>{\"name\": \"now\", \"parameters\": {\"a\": 2}}", "[now(a=1, b='x')]",
    "<function=now>\n<parameter=a>\n3\n</parameter>\n</function>", "{\"name\": \"now\", \"arguments\": {\"c\": [1, {\"d\": null}]", "<tool_call>", "<thi", "<|channel|>analysis<|message|>Hm.<|end|>",
]
for format in range(16):
    for number, text in enumerate(REPLIES):
        if (format + number) % 5 == 0:
            write("reply", f"{format:02}-{number}", bytes([format, number % 8, format % 3]) + text.encode())

# --- requests: endpoint, body

ASK = {"model": "m", "max_tokens": 4, "temperature": 0}
STORY = [{"role": "user", "content": "ab"}]
FUNCTION = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}
REQUESTS = {
    "chat": (0, {**ASK, "messages": STORY}), "chat-stream": (0, {**ASK, "messages": STORY, "stream": True, "n": 2, "temperature": 1, "logprobs": True, "top_logprobs": 2}),
    "chat-tools": (0, {**ASK, "messages": [*STORY, {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "now", "arguments": "{}"}}]},
                                           {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "12"}]}], "tools": [FUNCTION], "tool_choice": "required"}),
    "chat-schema": (0, {**ASK, "messages": STORY, "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object", "properties": {"a": {"enum": [1, None]}}}}}}),
    "chat-template": (0, {**ASK, "messages": STORY, "chat_template": "{{ messages[0].content }}", "chat_template_kwargs": {"a": [1]}, "add_generation_prompt": False}),
    "text": (1, {**ASK, "prompt": "ab", "logprobs": 1, "echo": True, "stop": ["\n"], "logit_bias": {"5": -3}}), "texts": (1, {**ASK, "prompt": [[97], [98, 99]], "seed": -1, "top_k": 3, "min_p": 0.1}),
    "text-regex": (1, {**ASK, "prompt": "ab", "structured_outputs": {"regex": "[ab]{1,3}"}}), "text-grammar": (1, {**ASK, "prompt": "ab", "structured_outputs": {"grammar": "root ::= \"a\" | \"b\" root"}}),
    "text-extremes": (1, {**ASK, "prompt": [], "max_tokens": 2 ** 63, "temperature": -0.0, "stop_token_ids": [2 ** 31], "priority": -1, "cache_salt": "@", "truncate_prompt_tokens": -1}),
    "response": (2, {"model": "m", "input": [{"role": "user", "content": [{"type": "input_text", "text": "ab"}]}], "max_output_tokens": 4, "stream": True, "metadata": {"a": "b"}}),
    "message": (3, {"model": "m", "max_tokens": 4, "system": [{"type": "text", "text": "x"}], "messages": [*STORY, {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "now", "input": {}}]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "12"}]}]}],
                    "tools": [{"name": "now", "input_schema": {"type": "object"}}], "tool_choice": {"type": "tool", "name": "now"}, "stream": True}),
    "count": (4, {"model": "m", "messages": STORY}), "generate": (5, {"model": "m", "token_ids": [97, 98], "sampling_params": {"max_tokens": 3, "prompt_logprobs": 1}, "stream": True}),
    "tokenize": (6, {"model": "m", "prompt": "ab", "return_token_strs": True}), "tokenize-chat": (6, {"model": "m", "messages": STORY}), "detokenize": (7, {"model": "m", "tokens": [97, 255]}),
    "render": (8, {"model": "m", "messages": STORY}), "render-text": (9, {"model": "m", "prompt": "ab"}), "no-object": (0, []), "wrong-types": (0, {"model": 1, "messages": {}, "stream": "yes", "n": "2"}),
}
for name, (path, body) in REQUESTS.items():
    write("request", name, bytes([path]) + json.dumps(body).encode())
write("request", "deep", b"\x00" + b'{"messages":' + b"[" * 200)
write("request", "no-utf8", b"\x01{\"prompt\": \"\xff\xfe\"}")
