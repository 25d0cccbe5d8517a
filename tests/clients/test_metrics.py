"""Prometheus' own parser reads every /metrics page: engine, node agent, scheduler."""
import math

import pytest
import trackside
from prometheus_client.parser import text_string_to_metric_families

# vLLM's buckets, as dashboards expect them.
TTFT = [.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560]
BETWEEN = [.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80]
REQUEST = [.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680]
# 1, 2, 5 and their tens, up to the longest context, which is 2048 here.
TOKENS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]

# Page -> family -> (type, labels that each sample has, buckets of a histogram)
MODEL = {"model_name", "engine"}
PAGES = {
    "engine": {
        **{f"vllm:{name}": ("gauge", MODEL, None) for name in ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"]},
        "vllm:num_requests_waiting_by_reason": ("gauge", MODEL | {"reason"}, None),
        "vllm:engine_sleep_state": ("gauge", MODEL | {"sleep_state"}, None),
        "vllm:lora_requests_info": ("gauge", {"max_lora", "running_lora_adapters", "waiting_lora_adapters"}, None),
        "vllm:cache_config_info": ("gauge", {"block_size", "num_gpu_blocks", "cache_dtype", "enable_prefix_caching", "engine"}, None),
        **{f"vllm:{name}": ("counter", MODEL, None) for name in [
            "prompt_tokens", "prompt_tokens_cached", "generation_tokens", "num_preemptions", "prefix_cache_queries", "prefix_cache_hits", "external_prefix_cache_queries",
            "external_prefix_cache_hits", "mm_cache_queries", "mm_cache_hits", "corrupted_requests"]},
        "vllm:prompt_tokens_by_source": ("counter", MODEL | {"source"}, None),
        "vllm:prompt_tokens_cached_by_source": ("counter", MODEL | {"source"}, None),
        "vllm:request_success": ("counter", MODEL | {"finished_reason"}, None),
        "vllm:admission_rejections": ("counter", {"model_name", "reason"}, None),
        "vllm:time_to_first_token_seconds": ("histogram", MODEL, TTFT),
        **{f"vllm:{name}_seconds": ("histogram", MODEL, BETWEEN) for name in ["inter_token_latency", "request_time_per_output_token"]},
        **{f"vllm:{name}_seconds": ("histogram", MODEL, REQUEST) for name in [
            "e2e_request_latency", "request_queue_time", "request_inference_time", "request_prefill_time", "request_decode_time"]},
        **{f"vllm:{name}": ("histogram", MODEL, TOKENS) for name in [
            "request_prompt_tokens", "request_generation_tokens", "request_max_num_generation_tokens", "request_params_max_tokens", "request_prefill_kv_computed_tokens"]},
        "vllm:iteration_tokens_total": ("histogram", MODEL, [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]),
        "vllm:request_params_n": ("histogram", MODEL, [1, 2, 5, 10, 20]),
        "vllm:request_num_preemptions": ("histogram", MODEL, [1, 2, 3, 4, 5, 10, 20]),
        # Names of 2025, which dashboards still ask for.
        "vllm:gpu_cache_usage_perc": ("gauge", MODEL, None),
        "vllm:time_per_output_token_seconds": ("histogram", MODEL, BETWEEN),
    },
    "node": {},
    "scheduler": {},
}


def families(address):
    status, text = trackside.get(address, "/metrics")
    assert status == 200
    found = list(text_string_to_metric_families(text))
    assert found
    names = [family.name for family in found]
    assert len(set(names)) == len(names), "each family stands once"
    for family in found:
        assert family.type != "unknown", f"{family.name} has no TYPE"
        assert family.documentation, f"{family.name} has no HELP"
        series = [(sample.name, *sorted(sample.labels.items())) for sample in family.samples]
        assert len(set(series)) == len(series), f"{family.name}: a series stands twice"
        if family.type == "histogram":
            histogram_is_sound(family)
    return {family.name: family for family in found}


def histogram_is_sound(family):
    by_labels = {}
    for sample in family.samples:
        labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
        part = sample.name.removeprefix(family.name)
        by_labels.setdefault(labels, {}).setdefault(part, []).append((float(sample.labels.get("le", "nan")), sample.value))
    for parts in by_labels.values():
        edges, counts = zip(*parts["_bucket"])
        assert list(edges) == sorted(edges) and edges[-1] == math.inf
        assert list(counts) == sorted(counts) and counts[-1] == parts["_count"][0][1]
        assert len(parts["_sum"]) == 1


@pytest.mark.parametrize("page", PAGES)
def test_prometheus_reads_the_page(up, page):
    trackside.post(up["gateway"], "/v1/chat/completions", {"model": "builtin", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8})
    found = families(address_of(up, page))
    for name, (kind, labels, buckets) in PAGES[page].items():
        family = found[name]
        assert family.type == kind, name
        for sample in family.samples:
            assert labels <= set(sample.labels) | {"le"}, (name, sample.labels)
        if buckets:
            edges = {float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels}
            assert sorted(edges) == [*buckets, math.inf], name


def address_of(up, page):
    return up["engines"][0]["address"] if page == "engine" else up[{"node": "agent", "scheduler": "admin"}[page]]


def test_counters_count(up):
    """One request more: its tokens appear in the engine's counters, no more and no less."""
    def counted():
        found = families(address_of(up, "engine"))
        return {name: sum(sample.value for sample in found[f"vllm:{name}"].samples if sample.name.endswith("_total"))
                for name in ["prompt_tokens", "generation_tokens", "request_success"]}
    before = counted()
    answer = trackside.post(up["gateway"], "/v1/completions", {"model": "builtin", "prompt": "Once there was a", "max_tokens": 5, "temperature": 0,
                                                               "ignore_eos": True})
    usage = answer["usage"]
    expected = {"prompt_tokens": usage["prompt_tokens"], "generation_tokens": usage["completion_tokens"], "request_success": 1}
    trackside.until("counters that follow", lambda: counted()["request_success"] > before["request_success"])
    assert {name: value - before[name] for name, value in counted().items()} == expected
