"""What transformers makes of the chat templates of model families, for conversations as clients send them.

    python tests/parity/template_families.py                    the committed templates
    python tests/parity/template_families.py FOLDER             any folder of *.jinja, into FOLDER/goldens.json

A conversation is put into order first as the server does it: `content: null` is empty, the arguments of a tool call are an object, an empty
`tool_calls` is absent, and parts are joined by a newline unless the template goes through them. All else is transformers' own doing. Every
clock stands at 2026-11-25 09:30 UTC.
"""
import copy
import datetime
import json
import pathlib
import sys

import jinja2
import tokenizers
import transformers
import transformers.utils.chat_template_utils as chat_template_utils

GOLDENS = pathlib.Path(__file__).parent.parent.parent / "engine" / "text" / "tests" / "goldens"
NOW = datetime.datetime(2026, 11, 25, 9, 30)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def in_order(messages, parts):
    messages = copy.deepcopy(messages)
    for message in messages:
        content = message.get("content")
        if content is None:
            message["content"] = ""
        elif isinstance(content, list):
            texts = [part if isinstance(part, str) else part["text"] for part in content]
            message["content"] = [{"type": "text", "text": text} for text in texts] if parts else "\n".join(texts)
        if not message.get("tool_calls"):
            message.pop("tool_calls", None)
        for call in message.get("tool_calls", []):
            arguments = call["function"].get("arguments")
            if isinstance(arguments, str):
                arguments = json.loads(arguments) if arguments.strip() else None
            call["function"]["arguments"] = {} if arguments is None else arguments
    return messages


def goes_through_parts(source):
    """Whether the template has a loop over a message's content, or over a variable that was set to it."""
    nodes = jinja2.nodes
    tree = chat_template_utils._compile_jinja_template("").environment.parse(source)

    def is_content(node):
        if isinstance(node, nodes.Getattr):
            return node.attr == "content"
        return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == "content"

    names = {"content"} | {assign.target.name for assign in tree.find_all(nodes.Assign) if isinstance(assign.target, nodes.Name) and is_content(assign.node)}
    return any(is_content(loop.iter) or isinstance(loop.iter, nodes.Name) and loop.iter.name in names for loop in tree.find_all(nodes.For))


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDENS / "families"
    conversations = json.loads((GOLDENS / "conversations.json").read_text())["cases"]
    chat_template_utils.datetime = Clock
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()), **TOKENS)
    lines = []
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text()
        parts = goes_through_parts(source)
        answers = {}
        for case in conversations:
            arguments = {key: case[key] for key in ("tools", "documents", "add_generation_prompt", "continue_final_message") if key in case}
            try:
                rendered = tokenizer.apply_chat_template(in_order(case["messages"], parts), chat_template=source, tokenize=False, **arguments, **case.get("kwargs", {}))
                answers[case["name"]] = rendered
            except Exception as error:
                answers[case["name"]] = {"error": str(error), "raised": type(error) is jinja2.exceptions.TemplateError}
        lines.append(json.dumps({"template": path.name, "parts": parts, "answers": answers}, ensure_ascii=False))
    body = ",\n".join(lines)
    (folder / "goldens.json").write_text(f'{{\n"transformers": "{transformers.__version__}",\n"cases": [\n{body}\n]}}\n')


main()
