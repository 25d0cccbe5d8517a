"""A subscriber as routers have it (pyzmq, msgspec structs) reads the engine's KV events in both encodings, live and by replay."""
import hashlib
import struct

import msgspec
import pytest
import trackside
import zmq

WAIT_MS = 10_000
END = b"\xff" * 8


# The published shapes: the batch is an array in both encodings, the events are arrays (vLLM to 0.23, SGLang) or maps (vLLM from 0.24).
class StoredMap(msgspec.Struct, tag="BlockStored"):
    block_hashes: list[int | bytes]
    parent_block_hash: int | bytes | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


class RemovedMap(msgspec.Struct, tag="BlockRemoved"):
    block_hashes: list[int | bytes]
    medium: str | None
    group_idx: int | None = None


class ClearedMap(msgspec.Struct, tag="AllBlocksCleared"):
    pass


class StoredArray(StoredMap, array_like=True, tag="BlockStored"):
    pass


class RemovedArray(RemovedMap, array_like=True, tag="BlockRemoved"):
    pass


class ClearedArray(ClearedMap, array_like=True, tag="AllBlocksCleared"):
    pass


class MapBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[StoredMap | RemovedMap | ClearedMap]
    data_parallel_rank: int | None = None


class ArrayBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[StoredArray | RemovedArray | ClearedArray]
    data_parallel_rank: int | None = None


BATCHES = {"map": MapBatch, "array": ArrayBatch}


def cbor_head(major, value):
    for bits, size, form in [(24, 1 << 8, ">B"), (25, 1 << 16, ">H"), (26, 1 << 32, ">I")]:
        if value < 24:
            return bytes([major << 5 | value])
        if value < size:
            return bytes([major << 5 | bits]) + struct.pack(form, value)
    raise ValueError(value)


def chain(token_ids, block_size):
    """vLLM's sha256_cbor chain over full blocks, as the integers that events carry (the last eight bytes)."""
    seed = b"vllm-none-hash"
    parent = hashlib.sha256(cbor_head(3, len(seed)) + seed).digest()
    assert parent.hex().startswith("9bd96a485ad84efd"), "the seed's hash as vLLM 0.33 gives it"
    hashes = []
    for start in range(0, len(token_ids) - block_size + 1, block_size):
        block = token_ids[start:start + block_size]
        ids = cbor_head(4, block_size) + b"".join(cbor_head(0, token) for token in block)
        parent = hashlib.sha256(b"\x83" + cbor_head(2, 32) + parent + ids + b"\xf6").digest()
        hashes.append(int.from_bytes(parent[-8:], "big"))
    return hashes


def receive(socket):
    assert socket.poll(WAIT_MS), "no message within the limit"
    return socket.recv_multipart()


def replay(context, endpoint, start):
    """[(seq, payload)] of every stored batch from `start` on."""
    with context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(endpoint)
        socket.send_multipart([b"", struct.pack(">Q", start)])
        found = []
        while True:
            empty, topic, seq, payload = receive(socket)
            assert empty == b""
            if seq == END:
                assert payload == b""
                return found
            assert topic == b"kv@test"
            found.append((int.from_bytes(seq, "big"), payload))


@pytest.mark.parametrize("encoding", BATCHES)
def test_a_subscriber_sees_the_blocks_of_a_prompt(encoding):
    arguments = ["engine", "--model", "builtin", "--port", "0", "--kv-events-port", "0", "--kv-replay-port", "0",
                 "--kv-events-encoding", encoding, "--kv-events-topic", "kv@test"]
    with trackside.running(*arguments) as bound, zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        engine = bound["address"]
        trackside.until("an engine that is ready", lambda: trackside.ready(engine))
        subscriber.linger = 0
        subscriber.subscribe("kv@test")
        subscriber.connect(bound["kv_events"])

        def complete(text):
            prompt = trackside.post(engine, "/tokenize", {"prompt": text})["tokens"]
            answer = trackside.post(engine, "/v1/completions", {"model": "builtin", "prompt": prompt, "max_tokens": 1, "temperature": 0})
            assert answer["usage"]["prompt_tokens"] == len(prompt)
            return prompt

        # A subscription takes effect some time after it is made; fresh prompts until the first batch arrives.
        tries = iter(range(1000))
        trackside.until("a batch", lambda: complete(f"{next(tries)}. A train does not look after its own rails, the wayside does.") and subscriber.poll(50))
        before = replay(context, bound["kv_replay"], 0)

        prompt = complete("The engine keeps keys and values in blocks of sixteen tokens. Two requests that begin alike share their blocks. " * 3)
        blocks = len(prompt) // 16
        assert blocks >= 3
        stored, seqs = [], []
        while sum(len(event.block_hashes) for event in stored) < blocks:
            topic, seq, payload = receive(subscriber)
            seqs.append(int.from_bytes(seq, "big"))
            assert topic == b"kv@test"
            if seqs[-1] < len(before):
                continue
            batch = msgspec.msgpack.decode(payload, type=BATCHES[encoding])
            assert batch.ts > 0 and batch.data_parallel_rank == 0
            stored += batch.events
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), "no batch is missing"

        hashes = [block for event in stored for block in event.block_hashes]
        assert hashes == chain(prompt, 16)[:blocks]
        assert [token for event in stored for token in event.token_ids] == prompt[:blocks * 16]
        parents = [event.parent_block_hash for event in stored]
        assert parents == [None, *(event.block_hashes[-1] for event in stored[:-1])]
        assert {event.block_size for event in stored} == {16}
        assert {event.lora_name for event in stored} == {None}

        # What was lost can be asked for again, from any point on, and the cached prompt stores nothing anew.
        complete_again = replay(context, bound["kv_replay"], 0)
        assert [seq for seq, _ in complete_again] == list(range(len(complete_again)))
        assert complete_again[:len(before)] == before
        assert replay(context, bound["kv_replay"], seqs[-1]) == complete_again[seqs[-1]:]
        trackside.post(engine, "/v1/completions", {"model": "builtin", "prompt": prompt, "max_tokens": 1, "temperature": 0})
        assert replay(context, bound["kv_replay"], 0) == complete_again
