"""What transformers makes of chat templates that use what real ones use: python tests/parity/template_features.py

The templates are our own; each shows one thing on which Jinja in Rust and Jinja in Python could differ. What is not done in Rust fails there by
its name: varargs and kwargs of macros, `%` of strings, joiner, cycler, and filters that no template was seen to use.
"""
import json
import pathlib

import transformers
from transformers.utils.chat_template_utils import _normalize_chat_messages, render_jinja_template

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
    # How Python's strings behave, beyond what most templates ask of them.
    ("strip knows Python's spaces", "[{{ '\\u001c\\u00a0x\\u2003\\u001f'.strip() }}][{{ '\\u200bx\\u200b'.strip() }}][{{ '\\ufeffx'.lstrip() }}][{{ '\\x85x\\x0b'.strip() }}][{{ '\\u001c x' | trim }}][{{ 'xyx' | trim('x') }}]", CHAT, {}),
    ("split, more", "{{ ' a  b '.split(' ') }}{{ ' a  b  c '.split(None, 1) }}{{ 'a,b,c'.split(',', -1) }}{{ 'a,b'.split(sep=',') }}{{ 'a b c'.split(maxsplit=1) }}{{ ''.split() }}{{ ''.split(',') }}{{ '\\u001ca\\u001cb'.split() }}{{ 'aXXbXXc'.split('XX') }}", CHAT, {}),
    ("rsplit by keywords", "{{ 'a b c'.rsplit(maxsplit=1) }}{{ 'a-b-c'.rsplit(sep='-', maxsplit=1) }}", CHAT, {}),
    ("splitlines", "{{ 'a\\nb\\r\\nc\\rd\\u2028e\\x0bf\\x85g\\n'.splitlines() }}{{ 'a\\n\\nb'.splitlines(true) }}{{ 'a\\r\\nb\\n'.splitlines(keepends=true) }}{{ ''.splitlines() }}{{ '\\n'.splitlines() }}", CHAT, {}),
    ("title and case", "{{ \"they're bill's friends\".title() }}{{ \"o'neil-smith x2y\".title() }}{{ \"they're bill's\" | title }}{{ 'hELLO wORLD'.capitalize() }}{{ 'hELLO' | capitalize }}{{ 'aBc'.swapcase() }}{{ 'Straße'.casefold() }}{{ 'Straße'.upper() }}{{ 'ΑΣ'.lower() }}", CHAT, {}),
    ("find and count", "{{ 'abcabc'.find('c', 3) }}{{ 'abcabc'.find('a', 1, 3) }}{{ 'abcabc'.rfind('c', 0, 5) }}{{ 'abcabc'.count('b', 2) }}{{ 'aaaa'.count('aa') }}{{ 'abc'.count('') }}{{ 'éab'.find('b') }}{{ 'abc'.index('c') }}{{ 'abcc'.rindex('c') }}", CHAT, {}),
    ("index of what is not there", "{{ 'abc'.index('x') }}", CHAT, {}),
    ("startswith, more", "{{ 'abc'.startswith(('x', 'a')) }}{{ 'abc'.startswith('b', 1) }}{{ 'abc'.endswith('b', 0, 2) }}{{ 'abc'.endswith(('x', 'y')) }}{{ ''.startswith('') }}", CHAT, {}),
    ("padding", "[{{ '7'.zfill(3) }}][{{ '-7'.zfill(4) }}][{{ 'x'.ljust(3) }}][{{ 'x'.rjust(3, '.') }}][{{ 'x'.center(4, '*') }}][{{ 'x' | center(5) }}]", CHAT, {}),
    ("kinds of strings", "{{ '12'.isdigit() }}{{ '½'.isdigit() }}{{ '½'.isnumeric() }}{{ '²'.isdigit() }}{{ '²'.isdecimal() }}{{ 'a1'.isalnum() }}{{ 'é'.isalpha() }}{{ ' '.isspace() }}{{ 'é'.isascii() }}{{ ''.isalpha() }}", CHAT, {}),
    ("replace, more", "{{ 'aaa'.replace('a', 'b', 2) }}{{ 'abc'.replace('', '-') }}{{ 'aaa' | replace('a', 'b', 1) }}", CHAT, {}),
    ("format", "{{ '{} and {}'.format('a', 1) }}{{ '{0}{1}{0}'.format('x', 'y') }}{{ '{name}'.format(name='n') }}{{ '%s-%d-%05.2f' | format('a', 3, 2.5) }}{{ '{:>4}|{:03d}|{:.2f}'.format('a', 7, 1.005) }}", CHAT, {}),
    ("join of values", "{{ ', '.join(['a', 'b']) }}{{ [1, 2.0, none, true] | join('-') }}{{ ['a', ['b']] | join }}{{ 'abc' | join('.') }}", CHAT, {}),
    ("join of what is no string", "{{ '-'.join([1, 2]) }}", CHAT, {}),
    ("strings of values", "{{ 1e20 | string }}|{{ 1.5e-7 | string }}|{{ none | string }}|{{ true | string }}|{{ ['a', 1.0] | string }}|{{ {'k': 'v'} | string }}|{{ (1, 2) | string }}|{{ 12345678901234567890 | string }}", CHAT, {}),
    ("concatenation of values", "{{ 'a' ~ none ~ true ~ 1.0 ~ 2 }}|{{ 'x' ~ ['a', 1] }}|{{ 'x' ~ {'a': 'b'} }}|{{ nothing ~ 'x' }}|{{ ('a', 1) ~ '' }}", CHAT, {}),
    ("concatenation of what clients send", EACH % "{% if m.tool_calls %}{{ '' ~ m.tool_calls[0].function.arguments }}|{{ 'x=' ~ m.tool_calls[0].function.arguments.x }}{% endif %}", CALLS, {}),
    ("adding none to a string", "{{ 'a' + none }}", CHAT, {}),
    ("adding what is missing", "{{ 'a' + messages[0].nothing }}", CHAT, {}),
    ("adding a number to a string", "{{ 'a' + 1 }}", CHAT, {}),
    # Containers.
    ("dict methods, more", "{{ {'a': 1}.get('b') }}{{ {'a': 1}.get('a', 2) }}{{ {'a': 1, 'b': 2}.items() | list }}{{ {'a': 1}.copy() }}{{ {'items': 1}.items() | list }}{{ {'a': {'b': 1}}.a.b }}{{ dict({'a': 1}, b=2) }}{{ {'b': 1, 'a': 2} | items | list }}{{ {'a': 1} | list }}{{ {'a': 1} | length }}", CHAT, {}),
    ("dict order and tests", "{{ {'b': 1, 'a': 2} }}{{ {'b': 1, 'a': 2} | dictsort }}{{ {'b': 1, 'a': 2} | dictsort(by='value') }}{{ {'b': 1, 'a': 2} | dictsort(reverse=true) }}{{ 'b' in {'b': 1} }}{{ {'a': 1} == {'a': 1.0} }}{{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }}", CHAT, {}),
    ("a key named as a method", "{% set schema = {'type': 'array', 'items': {'type': 'string'}} %}{% for k, v in schema.items() %}{{ k }}={{ v }};{% endfor %}{{ schema['items'].type }}", CHAT, {}),
    ("lists", "{{ [1, 2, 3][-2:] }}{{ [1, 2, 3, 4][::2] }}{{ [1, 2][5:] }}{{ 'abcdef'[-3:-1] }}{{ 'abc'[::-1] }}{{ [3, 1, 2] | sort(reverse=true) }}{{ [[1, 2], [3]] | sum(start=[]) }}{{ [1, 2] == [1, 2] }}{{ [1] * 2 }}{{ [1, 2, 3] | batch(2) | list }}{{ [1, 2, 3] | slice(2) | list }}{{ [1, 2, 3] | reverse | list }}{{ [1, [2]] | list }}{{ (1, 2)[0] }}", CHAT, {}),
    ("out of range", "{{ [1][3] }}", CHAT, {}),
    ("sort", "{{ ['b', 'A', 'c'] | sort }}{{ ['b', 'A', 'c'] | sort(case_sensitive=true) }}{{ messages | sort(attribute='role') | map(attribute='role') | list }}{{ [{'a': {'b': 2}}, {'a': {'b': 1}}] | sort(attribute='a.b') }}{{ [2.5, 1, 10] | sort }}", CHAT, {}),
    ("map, select, reject", "{{ ['a', 'b'] | map('upper') | list }}{{ messages | map(attribute='nothing', default='-') | list }}{{ [1, none, 2, 0] | select | list }}{{ [1, 'a', none] | select('string') | list }}{{ [1, 2, 3, 4] | reject('odd') | list }}{{ messages | selectattr('role', 'in', ['user', 'tool']) | map(attribute='role') | list }}{{ messages | selectattr('nothing', 'defined') | list }}{{ messages | rejectattr('role', 'equalto', 'user') | list | length }}{{ [1, 5, 3] | select('greaterthan', 2) | list }}{{ messages | groupby('role') | map('first') | list }}{{ ['x y', 'z'] | map('replace', ' ', '_') | join(',') }}{{ ['a'] | map('length') | sum }}", CHAT, {}),
    ("min, max, unique", "{{ ['b', 'A'] | min }}{{ ['b', 'A'] | max }}{{ ['a', 'A', 'b'] | unique | list }}{{ [1, 1, 2] | unique | list }}{{ [] | min is defined }}{{ [] | first is defined }}{{ [{'n': 2}, {'n': 1}] | sum(attribute='n') }}{{ [{'n': 2}, {'n': 1}] | max(attribute='n') }}", CHAT, {}),
    ("filters that convert", "{{ '3.7' | int }}{{ 'x' | int }}{{ 'x' | int(7) }}{{ '0x1f' | int(0, 16) }}{{ none | int }}{{ true | int }}{{ '1.5' | float }}{{ 'x' | float }}{{ 3 | float }}{{ 3.75 | round(1) }}{{ 2.5 | round }}{{ 2.7 | round(method='floor') }}{{ -3.5 | abs }}{{ 'abc' | list }}{{ 5 | string }}{{ 3.7 | round | int }}", CHAT, {}),
    ("filters of text", "{{ '<a>&\"' | e }}{{ '<a>' | safe }}{{ 'x' | default('y', true) }}{{ '' | default('y', true) }}{{ none | default('y') }}{{ none | default('y', true) }}{{ false | d('z', boolean=true) }}{{ 'it\\'s' | escape }}", CHAT, {}),
    ("indent, more", "{{ '{\n' | indent(4, first=true) }}|{{ 'a\n\nb\n' | indent(2) }}|{{ 'a\n\nb' | indent(2, blank=true) }}|{{ 'a\nb' | indent('> ', true) }}|{{ '' | indent(2, true) }}|{{ 'a\nb' | indent(width=1) }}|{{ 'a\r\nb' | indent(1) }}", CHAT, {}),
    # Tests.
    ("tests, more", "{{ none is iterable }}{{ 'a' is iterable }}{{ 1 is iterable }}{{ {} is iterable }}{{ true is number }}{{ true is integer }}{{ 1.0 is integer }}{{ nothing is sequence }}{{ none is mapping }}{{ 'a' is mapping }}{{ 1 is sameas 1 }}{{ 'a' is in ['a'] }}{{ 'AB' is upper }}{{ 1 is not none }}{{ none is not string }}{{ messages[0].role is string }}{{ 4 is even }}{{ 1 is eq 1 }}{{ 2 is gt 1 }}{{ 'upper' is filter }}{{ 'odd' is test }}{{ 0 is false }}{{ 1 is true }}{{ nothing is none }}{{ messages is sequence }}{{ {} is sequence }}{{ '' is sequence }}", CHAT, {}),
    ("truth", "{% for x in ['', 'a', 0, 1, 0.0, [], [0], {}, {'a': 1}, none, false, nothing] %}{{ 1 if x else 0 }}{% endfor %}{{ '' or 'b' }}{{ 'a' and 'b' }}{{ none or [] }}{{ not '' }}{{ 0 or none }}", CHAT, {}),
    ("length of none", "{{ none | length }}", CHAT, {}),
    ("length of what is missing", "{{ nothing | length }}{% for x in nothing %}x{% endfor %}{{ 'a' in nothing }}", CHAT, {}),
    # Numbers.
    ("arithmetic", "{{ 7 // 2 }}{{ -7 // 2 }}{{ -7 % 3 }}{{ 7 % -3 }}{{ 7.5 // 2 }}{{ 2 ** -1 }}{{ 2 ** 0.5 }}{{ 1 / 3 }}{{ 6 / 3 }}{{ 10 * 1.0 }}{{ 1_000 }}{{ 1e3 }}{{ -2 ** 2 }}{{ 0.1 + 0.2 }}{{ 3 - 0.5 }}{{ true + 1 }}{{ 1 == true }}{{ 5 % 2 == 1 }}", CHAT, {}),
    ("floats", "{{ [1e16, 1e15, 123456789.123, 1e-4, 1e-5, 5e-324, 1.7976931348623157e308, 100.0, 0.1, 1e22, 12345678912345678.0] }}", CHAT, {}),
    ("floats of clients", EACH % "{{ m.x }}|{{ m.x | tojson }}|{{ m.x | string }};", [{"role": "user", "content": "", "x": x} for x in [1.0, 1e20, 1e16, 1.5e-7, 1e-4, 0.1, 2**53, -0.0, 12345678901234567890, -5]], {}),
    ("comparisons", "{{ 'a' < 'b' }}{{ 'Z' < 'a' }}{{ [1, 2] < [1, 3] }}{{ 1 < 1.5 }}{{ 'é' > 'z' }}{{ 1 != '1' }}{{ none == false }}{{ 1 in [1.0] }}{{ 1 < 2 < 3 }}", CHAT, {}),
    ("division by zero", "{{ 1 / 0 }}", CHAT, {}),
    # Statements.
    ("loop, more", "{% for x in [1, 2, 3] %}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }}{{ loop.depth }}{{ loop.depth0 }},{% endfor %}", CHAT, {}),
    ("recursive loop", "{% for x in [{'n': 1, 'c': [{'n': 2, 'c': []}]}] recursive %}{{ x.n }}({{ loop(x.c) }}){% endfor %}", CHAT, {}),
    ("loop scopes", "{% set a = 1 %}{% for x in [1, 2] %}{% set a = a + x %}{{ a }}{% endfor %}{{ a }}{% for x in [] %}{% else %}none{% endfor %}{% if true %}{% set b = 2 %}{% endif %}{{ b }}{% for a, b in [[1, 2], [3, 4]] %}{{ a }}{{ b }}{% endfor %}{{ a }}", CHAT, {}),
    ("loop over a string and a dict", "{% for c in 'añ🚂' %}{{ c }},{% endfor %}{% for k in {'x': 1, 'y': 2} %}{{ k }}{% endfor %}{% for i in range(3, 0, -1) %}{{ i }}{% endfor %}", CHAT, {}),
    ("macros, more", "{% macro f(a, b='x') %}{{ a }}{{ b }}{% endmacro %}{{ f(1, 2) }}{% macro g(n) %}{{ n }}{% if n > 0 %}{{ g(n - 1) }}{% endif %}{% endmacro %}{{ g(3) }}{{ g.name }}{% macro h() %}{{ caller() }}!{% endmacro %}{% call h() %}in{% endcall %}{{ f('a') | length }}", CHAT, {}),
    ("macros and scopes", "{% set outer = 'o' %}{% macro f() %}{{ outer }}{{ inner }}{% endmacro %}{% for x in [1] %}{% set inner = 'i' %}{{ f() }}{% endfor %}{% macro pad(s) %}  {{ s }}  {% endmacro %}[{{ pad('x') | trim }}][{{ pad('x') + 'y' }}]", CHAT, {}),
    ("macro as an argument", "{% macro f(x) %}<{{ x }}>{% endmacro %}{% set parts = [] %}{% set parts = parts + [f(1)] %}{{ parts | join('') }}{{ f(f(2)) }}{{ f(x='k') }}", CHAT, {}),
    ("filter and with blocks", "{% filter upper %}abc{% endfilter %}{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{% set x | upper %}y{% endset %}{{ x }}", CHAT, {}),
    ("namespace, more", "{% set ns = namespace(a=1, b=[]) %}{% set ns.b = ns.b + ['x'] %}{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}{% set ns.c = {'k': 1} %}{{ ns.c.k }}{{ ns['a'] }}", CHAT, {}),
    ("tuples", "{% set a, b = 1, 'x' %}{{ a }}{{ b }}{% set t = 1, 2 %}{{ t }}{{ (1,) }}{{ () }}{{ [(1, 'a')] }}{{ {'k': (1, none)} }}{{ (1, 2) | tojson }}{{ {'a': 1} | items | first }}", CHAT, {}),
    ("whitespace", "a\n  {%+ if true %}\n  b\n  {%+ endif %}\nc\n{%- if true +%}\nd\n{% endif %}  \n   {# note #}\n  e {# note #}\n\tf\n{{- 'g' -}}\n\n h\n  {%- set x = 1 %}\n\n\ni\n{% if true %}  j{% endif %}\n\n", CHAT, {}),
    ("whitespace of windows", "a\r\n{% if true %}\r\n  b\r\n{% endif %}\r\nc\r\n", CHAT, {}),
    ("comments, more", "{# {{ x }} {% if %} #}a{#- b\n -#}  c{# '#} d", CHAT, {}),
    ("strings that look like tags", "{{ '{% if x %}' }}{{ \"}}\" }}{{ '{{' }}{{ '#}' }}{% if '%}' == '%}' %}y{% endif %}", CHAT, {}),
    ("escapes", "{{ '\\n\\t\\\\\\'\\\"\\x41\\u00e9\\0' }}{{ 'a\nb' }}{{ '\\d' }}{{ 'a' 'b' }}", CHAT, {}),
    ("inline if", "{{ 'a' if false }}{{ ('x' if false) is defined }}{{ 'a' if nothing else 'b' }}{{ 1 if true else 2 if true else 3 }}", CHAT, {}),
    ("literals", "{{ None }}{{ True }}{{ False }}{{ none is none }}{{ [1, 2,] }}{{ {'a': 1,} }}{{ {} }}{{ {1: 'a', none: 'b', true: 'c'} }}{{ {1: 'a'}[1] }}", CHAT, {}),
    ("generation tags, more", EACH % "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{%- generation %} x {%- endgeneration %}{% endif %}", CHAT, {}),
    ("tojson of what Python writes", "{{ {'é': '\\u2028 \\u007f </script> 🚂 \\x00'} | tojson }}{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}{{ 'a' | tojson }}{{ none | tojson }}{{ 1e16 | tojson }}{{ 1e-5 | tojson }}{{ 1e22 | tojson(indent=2) }}", CHAT, {}),
    ("tojson, arguments", "{{ {'b': [1, {}], 'a': 'é'} | tojson(true) }}{{ {'b': [1, {}], 'a': 'é'} | tojson(ensure_ascii=False, indent=None) }}{{ {'b': [1, []], 'a': {}} | tojson(indent=2, sort_keys=True) }}{{ {'a': [1]} | tojson(indent=0) }}{{ {'a': 1} | tojson(separators=(', ', ':')) }}{{ {'a': [1, 2]} | tojson(indent=1, separators=(';', '=')) }}{{ {'Z': 1, 'a': 2, 'é': 3} | tojson(sort_keys=true) }}", CHAT, {}),
    ("tojson of what is missing", "{{ nothing | tojson }}", CHAT, {}),
    ("printing text that needs quotes", "{{ ['a\\nb\\t\\\\', '\\x00\\x7f', 'é\\u00a0\\u200b', '🚂', \"'\", '\"', '\\'\"'] }}", CHAT, {}),
    ("methods that change a list", "{% set x = [] %}{% set y = x.append(1) %}{{ x }}", CHAT, {}),
    ("a message as printed", "{{ messages[1] }}{{ messages[0].items() | list }}", [{"role": "user", "content": "it's", "n": None, "f": 1.0, "l": [True, {"a": 'x"y'}]}, {"role": "a", "content": "b"}], {}),
    ("reasoning under every name", EACH % "{{ m.reasoning_content }},{{ m.thinking }},{{ m.reasoning }};", [{"role": "assistant", "content": "", key: key} for key in ("reasoning_content", "reasoning", "thinking")], {}),
]


def main():
    out = []
    for name, template, messages, more in CASES:
        more = dict(more)
        arguments = {key: more.pop(key) for key in ("tools", "documents", "add_generation_prompt", "continue_final_message") if key in more}
        case = {"name": name, "template": template, "messages": messages, **arguments, "kwargs": more}
        try:
            rendered, _ = render_jinja_template([_normalize_chat_messages(messages)], chat_template=template, bos_token="<s>", eos_token="</s>", **arguments, **more)
            case["rendered"] = rendered[0]
        except Exception as error:
            case["error"] = str(error)
        out.append(case)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in out)
    path = pathlib.Path(__file__).parent.parent.parent / "engine" / "text" / "tests" / "goldens" / "templates.json"
    path.write_text(f'{{\n"transformers": "{transformers.__version__}",\n"cases": [\n{lines}\n]}}\n')


main()
