"""One engine and one whole `up` for all tests of a run."""
import json

import pytest
import trackside


@pytest.fixture(scope="session")
def engine():
    """The engine alone: what it bound."""
    with trackside.running("engine", "--model", "builtin", "--port", "0", "--no-kv-events") as bound:
        trackside.until("an engine that is ready", lambda: trackside.ready(bound["address"]))
        yield bound


@pytest.fixture(scope="session")
def up():
    """Engine, agent, scheduler and gateway: what they bound."""
    with trackside.running("up", "--json", "--any-port") as bound:
        trackside.until("a gateway that has a model", lambda: json.loads(trackside.get(bound["gateway"], "/v1/models")[1])["data"])
        yield bound


@pytest.fixture(scope="session", params=["engine", "gateway"])
def door(request):
    """Address of something that speaks the OpenAI API: the engine alone, then the gateway of the whole."""
    if request.param == "engine":
        return request.getfixturevalue("engine")["address"]
    return request.getfixturevalue("up")["gateway"]
