"""Tool calls as agents really send them back, as transformers renders them: python tests/parity/tool_history.py

Into engine/serve/tests/edge/golden/tool_history.json, with templates of engine/text/tests/goldens/families and one that goes through the items
of the arguments. Case A7: what a call without arguments has is an empty object, an answer without text is empty, no calls are none.
"""
import json
import pathlib

import tokenizers
import transformers

ROOT = pathlib.Path(__file__).parent.parent.parent
FAMILIES = ROOT / "engine" / "text" / "tests" / "goldens" / "families"
OUT = ROOT / "engine" / "serve" / "tests" / "edge" / "golden" / "tool_history.json"
ITEMS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}({% for k, v in c.function.arguments.items() %}{{ k }}={{ v }};{% endfor %}){% endfor %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
TOOLS = [{"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}}]
ASK, TOLD, THANKS = {"role": "user", "content": "Time?"}, {"role": "tool", "tool_call_id": "c1", "content": "12:00"}, {"role": "user", "content": "Thanks"}
NO_ARGUMENTS = ["null", "", "{}", None, {}]


def chat(arguments, content=None):
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": arguments}}
    return [ASK, {"role": "assistant", "content": content, "tool_calls": [call]}, TOLD, THANKS]


def main():
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()), bos_token="<|begin|>", eos_token="<|im_end|>", pad_token="<|end|>", unk_token=None)
    templates = {"items": ITEMS} | {name: (FAMILIES / f"{name}.jinja").read_text() for name in ("qwen2.5", "qwen3", "smollm3", "ours-typed-tools")}
    cases = []
    for name, template in templates.items():
        render = lambda messages, **more: tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True, **more)
        expected = render(chat({}, ""), tools=TOOLS)
        assert "None" not in expected and ": null" not in expected, expected
        look = {"zone": "Zürich", "n": [1, 2.5, None]}
        none = [[ASK, {"role": "assistant", "content": "", "tool_calls": []}, THANKS], [ASK, {"role": "assistant", "content": None, "tool_calls": None}, THANKS]]
        cases += [
            {"template": name, "tools": TOOLS, "chats": [chat(arguments) for arguments in NO_ARGUMENTS], "rendered": expected},
            {"template": name, "tools": TOOLS, "chats": [chat(json.dumps(look), "I look.")], "rendered": render(chat(look, "I look."), tools=TOOLS)},
            {"template": name, "chats": none, "rendered": render([ASK, {"role": "assistant", "content": ""}, THANKS])},
        ]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    OUT.write_text(f'{{\n"transformers": "{transformers.__version__}",\n"items": {json.dumps(ITEMS)},\n"cases": [\n{lines}\n]}}\n')


main()
