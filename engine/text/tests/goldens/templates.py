"""What transformers makes of chat templates that use what real ones use: python templates.py, with transformers and jinja2 installed.

The templates are our own; each shows one thing on which Jinja in Rust and Jinja in Python could differ.
"""
import json
import pathlib

import transformers
from transformers.utils.chat_template_utils import render_jinja_template

CHAT = [
    {"role": "system", "content": "  Be brief.\n"},
    {"role": "user", "content": "Grüße & <b>\"quotes\"</b> 'n' \\ \t 🚂"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "And now?"},
]
CALLS = [
    {"role": "user", "content": "Time?"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "now", "arguments": {"zone": "Europe/Zürich", "n": 2, "x": 1.0, "deep": {"a": [1, None, True]}}}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
]
TOOLS = [{"type": "function", "function": {"name": "now", "description": "The time, e.g. \"12:00\"\nin a zone.", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}}}]
DOCUMENTS = [{"title": "A", "text": "first"}, {"title": "B", "text": "second"}]

EACH = "{%% for m in messages %%}%s{%% endfor %%}"
CASES = [
    # name, template, messages, more
    ("chatml", EACH % "<|im_start|>{{ m.role }}\n{{ m['content'] }}<|im_end|>\n" + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}", CHAT, {"add_generation_prompt": True}),
    ("blocks are trimmed", "{% for m in messages %}\n    {% if m.role == 'user' %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}\n", CHAT, {}),
    ("minus signs", "a   {%- for m in messages -%}   \n {{- m.role -}}  \n{%- endfor -%}   b\n", CHAT, {}),
    ("last newline", "x\n\n", CHAT, {}),
    ("comments", "a{# gone #}\nb{#- gone -#}  c", CHAT, {}),
    ("loop", EACH % "{{ loop.index }}/{{ loop.index0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }};", CHAT, {}),
    ("loop neighbours", EACH % "{% if loop.previtem is defined %}{{ loop.previtem.role }}>{% endif %}{{ m.role }}{% if not loop.last %}>{{ loop.nextitem.role }}{% endif %};", CHAT, {}),
    ("break and continue", "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{% if loop.index == 4 %}{% break %}{% endif %}{{ m.role }}{% endfor %}", CHAT, {}),
    ("filtered loop", "{% for m in messages if m.role != 'user' %}{{ m.role }},{% else %}none{% endfor %}", CHAT, {}),
    ("namespace", "{% set ns = namespace(n=0, last='') %}" + EACH % "{% set ns.n = ns.n + 1 %}{% set ns.last = m.role %}" + "{{ ns.n }}{{ ns.last }}", CHAT, {}),
    ("slices", "{{ messages[1:]|length }}{{ messages[::-1][0].role }}{{ messages[-1].role }}{{ messages[0].content[2:4] }}", CHAT, {}),
    ("set a block", "{% set first %}<{{ messages[0].role }}>{% endset %}{{ first }}{{ first|length }}", CHAT, {}),
    ("macro", "{% macro show(m, mark='*') %}{{ mark }}{{ m.role }}{% endmacro %}" + EACH % "{{ show(m) }}{{ show(m, mark='#') }}", CHAT, {}),
    ("strip", EACH % "[{{ m.content.strip() }}][{{ m.content.lstrip() }}][{{ m.content.rstrip() }}][{{ m.content | trim }}]", CHAT, {}),
    ("split", "{{ 'a,b,,c'.split(',') }}{{ 'a b  c'.split() }}{{ 'x</think>y'.split('</think>')[-1] }}{{ 'a-b-c'.split('-', 1) }}{{ 'a-b-c'.rsplit('-', 1) }}", CHAT, {}),
    ("string methods", "{{ 'abc'.startswith('a') }}{{ 'abc'.endswith('b') }}{{ 'aXb'.replace('X', 'Y') }}{{ 'ab'.upper() }}{{ 'AB'.lower() }}{{ 'hello world'.title() }}{{ 'hello'.capitalize() }}{{ 'a'.find('b') }}{{ '-'.join(['a', 'b']) }}{{ 'aa'.count('a') }}", CHAT, {}),
    ("more string methods", "{{ 'a b  c'.rsplit() }}{{ 'a b  c'.rsplit(none, 1) }}{{ 'a,b,c'.rsplit(',') }}{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('x') }}{{ 'k=v=w'.partition('=') | list }}{{ 'k=v=w'.rpartition('=')[0] }}{{ 'x'.rpartition('=') | list }}", CHAT, {}),
    ("strip characters", "{{ '\\n\\nabc\\n'.strip('\\n') }}{{ 'xxabcxx'.lstrip('x') }}{{ 'xxabcxx'.rstrip('x') }}", CHAT, {}),
    ("dict methods", "{% for k, v in {'a': 1, 'b': none}.items() %}{{ k }}={{ v }};{% endfor %}{{ {'a': 1}.get('b', 'd') }}{{ {'a': 1}.keys() | list }}{{ {'a': 1}.values() | list }}", CHAT, {}),
    ("list methods", "{{ [1, 2, 1].index(2) }}{{ [1, 2, 1].count(1) }}", CHAT, {}),
    ("filters", "{{ ['b', 'a'] | sort | join('+') }}{{ messages | map(attribute='role') | unique | list }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages | rejectattr('role', 'eq', 'user') | map(attribute='role') | join(',') }}{{ 'ab' | upper }}{{ [3, 1] | max }}{{ [1, 2] | sum }}{{ 'x' | default('y') }}{{ undefined_thing | default('y') }}{{ [1, 2, 3] | first }}{{ [1, 2, 3] | last }}{{ 'abc' | reverse }}{{ '5' | int + 1 }}{{ 3.7 | int }}{{ 3 | string + 'x' }}{{ 'a b' | replace(' ', '_') }}{{ {'b': 1, 'a': 2} | dictsort }}{{ 'abc' | length }}", CHAT, {}),
    ("indent", "{{ 'a\\nb\\nc' | indent(2) }}|{{ 'a\\nb' | indent(2, first=True) }}", CHAT, {}),
    ("tests", "{{ 'a' is string }}{{ 1 is number }}{{ 1 is integer }}{{ 1.5 is float }}{{ none is none }}{{ {} is mapping }}{{ [] is iterable }}{{ [] is sequence }}{{ 'a' is sequence }}{{ x is defined }}{{ x is undefined }}{{ true is true }}{{ true is boolean }}{{ 3 is odd }}{{ 4 is divisibleby 2 }}{{ 'a' in 'abc' }}{{ 'd' not in ['a'] }}{{ 'role' in messages[0] }}", CHAT, {}),
    ("printing", "{{ none }}|{{ true }}|{{ 1.0 }}|{{ 1e20 }}|{{ 1.5e-7 }}|{{ 0.1 + 0.2 }}|{{ [1, 'a', none, true, 2.0] }}|{{ {'k': 'it\\'s', 'n': {'x': []}} }}|{{ 7 // 2 }}|{{ 7 / 2 }}|{{ 4 / 2 }}|{{ 7 % 3 }}|{{ 2 ** 10 }}|{{ -3 | abs }}", CHAT, {}),
    ("printing a tuple", "{{ (1, 'a') }}", CHAT, {}),
    ("operators", "{{ 1 if true else 2 }}{{ 'x' if false }}{{ 'a' ~ 1 ~ 'b' }}{{ 'a' * 3 }}{{ [1] + [2] }}{{ not true }}{{ true and false or true }}{{ 1 < 2 <= 2 }}{{ 'a' == 'a' }}{{ 1 == 1.0 }}", CHAT, {}),
    ("missing keys", EACH % "[{{ m.nothing }}][{{ m['nothing'] }}]{% if m.nothing %}x{% endif %}{% if m.nothing is not defined %}u{% endif %}", CHAT, {}),
    ("tojson", "{{ tools | tojson }}", CALLS, {"tools": TOOLS}),
    ("tojson indent", "{{ tools | tojson(indent=4) }}|{{ [] | tojson(indent=2) }}|{{ {} | tojson(indent=2) }}|{{ [[], {'a': {}}] | tojson(indent=2) }}", CALLS, {"tools": TOOLS}),
    ("tojson sort", "{{ {'b': 1, 'a': {'d': 1, 'c': 2}} | tojson(sort_keys=true) }}{{ {'b': 1} | tojson(separators=(',', ':')) }}", CALLS, {}),
    ("tojson values", EACH % "{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments | tojson }}{% endif %}{{ m.content | tojson }}", CALLS, {}),
    ("tojson text", "{{ messages[1].content | tojson }}{{ messages[1].content | tojson(ensure_ascii=true) }}{{ '<a href=\"x\">&amp;</a>' | tojson }}{{ '\\u007f\\u0001\\u2028' | tojson }}", CHAT, {}),
    ("tojson numbers", "{{ [1, -1, 1.0, 0.1, 1e100, 1e-7, 123456789012345680.0, 0.0001, true, none] | tojson }}", CHAT, {}),
    ("tool calls", EACH % "{% if m.tool_calls is defined %}{% for c in m.tool_calls %}<call>{{ c.function.name }}({% for k, v in c.function.arguments | items %}{{ k }}={{ v }};{% endfor %}){% endfor %}{% elif m.role == 'tool' %}<r>{{ m.content }}</r>{% else %}{{ m.content }}{% endif %}", CALLS, {}),
    ("documents", "{% for d in documents %}{{ d.title }}: {{ d['text'] }}\n{% endfor %}", CHAT, {"documents": DOCUMENTS}),
    ("no tools", "{% if tools %}a{% else %}b{% endif %}{{ tools is none }}{{ documents is none }}", CHAT, {}),
    ("keyword arguments", "{{ enable_thinking }}{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{{ style.tone }}", CHAT, {"enable_thinking": False, "style": {"tone": "dry"}}),
    ("special tokens", "{{ bos_token }}" + EACH % "{{ m.role }}{{ eos_token }}", CHAT, {}),
    ("generation tags", EACH % "{% if m.role == 'assistant' %}\n{%- generation -%}\n {{ m.content }} \n{%- endgeneration -%}\n{% else %}{{ m.content }}{% endif %}", CHAT, {}),
    ("raise", "{% if messages[0].role != 'user' %}{{ raise_exception('Roles must alternate: got ' + messages[0].role) }}{% endif %}", CHAT, {}),
    ("continue", EACH % "<{{ m.role }}>{{ m.content }}</>", CHAT[:3], {"continue_final_message": True}),
    ("continue trimmed", EACH % "<{{ m.role }}>{{ m.content | trim }}</>", CHAT[:2] + [{"role": "assistant", "content": " Half a "}], {"continue_final_message": True}),
    ("continue spaced", EACH % "<{{ m.role }}>{{ m.content }}</>", CHAT[:2] + [{"role": "assistant", "content": " Half a "}], {"continue_final_message": True}),
    ("continue what is not there", EACH % "<{{ m.role }}>", CHAT[:3], {"continue_final_message": True}),
    ("raw", "{% raw %}{{ not a variable }}{% endraw %}", CHAT, {}),
    ("call with dict", "{{ dict(a=1, b='x') | tojson }}{{ range(3) | list }}{{ range(1, 6, 2) | list }}", CHAT, {}),
    ("string of quotes", "{{ \"it's\" }}{{ 'say \\\"x\\\"' }}{{ ['it\\'s', 'say \"x\"', 'both \\' and \"'] }}", CHAT, {}),
    ("unicode", "{{ 'ß'.upper() }}{{ '🚂é' | length }}{{ '日本語'[1] }}{{ ['é', '\\u200b'] }}", CHAT, {}),
]


def main():
    out = []
    for name, template, messages, more in CASES:
        more = dict(more)
        arguments = {key: more.pop(key) for key in ("tools", "documents", "add_generation_prompt", "continue_final_message") if key in more}
        case = {"name": name, "template": template, "messages": messages, **arguments, "kwargs": more}
        try:
            rendered, _ = render_jinja_template([messages], chat_template=template, bos_token="<s>", eos_token="</s>", **arguments, **more)
            case["rendered"] = rendered[0]
        except Exception as error:
            case["error"] = str(error)
        out.append(case)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in out)
    path = pathlib.Path(__file__).parent / "templates.json"
    path.write_text(f'{{\n"transformers": "{transformers.__version__}",\n"cases": [\n{lines}\n]}}\n')


main()
