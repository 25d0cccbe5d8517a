"""vLLM's own protocol classes, without vLLM: its protocol modules are loaded as they are, and what else they import is a stand-in.

vLLM wants torch; its request and answer bodies are plain pydantic. `load(folder)` takes an unpacked wheel (tests/clients/fetch-vllm.sh), puts a
finder in front of Python's own for everything below `vllm`, and gives the modules. A stand-in's attributes are `Any` as types and do
nothing as functions, so that a field of such a type takes any value: what vLLM checks with classes from elsewhere is not checked here.
"""
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import pathlib
import sys
import types
import typing

# Loaded as they are: they need pydantic, openai and the standard library, besides each other.
REAL = {
    "vllm.exceptions", "vllm.logprobs", "vllm.envs",
    "vllm.entrypoints.serve.engine.protocol", "vllm.entrypoints.serve.tokenize.protocol", "vllm.entrypoints.serve.lora.protocol",
    "vllm.entrypoints.generate.base.protocol", "vllm.entrypoints.openai.chat_completion.protocol", "vllm.entrypoints.openai.completion.protocol",
    "vllm.entrypoints.openai.responses.protocol", "vllm.entrypoints.anthropic.protocol", "vllm.entrypoints.scale_out.token_in_token_out.protocol",
}


class StandIn(types.ModuleType):
    """Any name is there."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        # Functions are called while the modules load (loggers, defaults), classes stand in annotations.
        return typing.Any if name[0].isupper() else lambda *_, **__: None


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def find_spec(self, name, path, target=None):
        if name.split(".")[0] not in ("vllm", "openai_harmony"):
            return None
        if name in REAL:
            file = self.folder / (name.replace(".", "/") + ".py")
            return importlib.util.spec_from_file_location(name, file)
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        pass


def load(folder):
    """{short name: module}"""
    sys.meta_path.insert(0, Finder(folder))
    names = {
        "engine": "vllm.entrypoints.serve.engine.protocol", "chat": "vllm.entrypoints.openai.chat_completion.protocol",
        "completion": "vllm.entrypoints.openai.completion.protocol", "tokenize": "vllm.entrypoints.serve.tokenize.protocol",
        "responses": "vllm.entrypoints.openai.responses.protocol", "anthropic": "vllm.entrypoints.anthropic.protocol",
        "generate": "vllm.entrypoints.scale_out.token_in_token_out.protocol",
    }
    return types.SimpleNamespace(**{short: importlib.import_module(name) for short, name in names.items()})
